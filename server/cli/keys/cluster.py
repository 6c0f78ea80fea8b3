"""The keys of a whole cluster, and the settings that name them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509

from server.cli.keys.authority import AUDIENCE, ISSUER, Authority
from server.shell.identity.principal import Principal, Role
from server.shell.identity.tokens import BELOW

Settings = dict[str, str | dict[str, str] | list[str]]


ROUTER = "router"
# The cells of `cellbook up`.
DEV_CELLS = ("us-east", "eu-west", "ap-tokyo")
OPERATOR = "operator"
# `make_keys` renews a certificate that has less time left.
_RENEWED = timedelta(days=30)


def make_keys(authority: Authority, cells: Iterable[str], hosts: Sequence[str]) -> list[str]:
    """Makes missing and expiring keys; returns the names of the certificates made. Raises KeysInvalid."""
    authority.found()
    principals = {
        ROUTER: Principal(role=Role.ROUTER, name=ROUTER),
        OPERATOR: Principal(role=Role.OPERATOR, name="cellbook"),
        **{cell: Principal(role=Role.PEER, name=cell) for cell in cells},
    }
    made = [name for name in principals if not _is_good(authority, name)]
    for name in made:
        authority.certify(name, principals[name], hosts=() if name == OPERATOR else hosts)
    return made


def _is_good(authority: Authority, name: str) -> bool:
    files = authority.tls(name)
    if not files.cert.exists() or not files.key.exists():
        return False
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    return certificate.not_valid_after_utc > datetime.now(UTC) + _RENEWED


def settings_of(authority: Authority, name: str) -> Settings:
    """The settings that give the process `name` its keys."""
    tls = authority.tls(name)
    return {
        "tls_cert": str(tls.cert),
        "tls_key": str(tls.key),
        "tls_ca": str(tls.ca),
        "jwt_keys": str(authority.jwks),
        "jwt_issuer": ISSUER,
        "jwt_audience": [AUDIENCE, f"{AUDIENCE}{BELOW}{name}"],
    }
