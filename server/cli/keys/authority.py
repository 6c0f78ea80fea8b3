"""A certificate authority for development, in one folder: a CA, certificates signed by it, and keys for tokens.

    DIR/ca.pem, ca.key                 the CA that everybody trusts
        DIR/{us-east,router,bank,..}.pem   certificates by the names of their holders, each with its .key
        DIR/jwks.json, tokens.key          the public keys of tokens, and the private key that signs new ones

All files are readable by their owner only. Outside development, have a real authority sign the same names.
"""

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import OKPAlgorithm

from cells.store.unusable import CannotServe
from server.shell.files import write_durably
from server.shell.identity.callers import CERTIFICATE_ROLES, SCHEME
from server.shell.identity.principal import Principal, Role
from server.shell.identity.tls import TlsFiles
from server.shell.identity.tokens import BELOW, TOKEN_ROLES

ISSUER = "cellbook-development"
AUDIENCE = "cellbook"
VALID_DAYS = 365
HOSTS = ("127.0.0.1", "localhost", "::1")
ROUTER = "router"
# The cells of `cellbook up`.
DEV_CELLS = ("us-east", "eu-west", "ap-tokyo")
OPERATOR = "operator"
CONSOLE = "console"
# `make_keys` renews a certificate that has less time left.
_RENEWED = timedelta(days=30)
_OWNER_ONLY = 0o600
_FOLDER_MODE = 0o700
# Allows for clock differences.
_BEFORE = timedelta(minutes=5)

_write = partial(write_durably, mode=_OWNER_ONLY)

Settings = dict[str, str | dict[str, str] | list[str]]
Key: TypeAlias = ec.EllipticCurvePrivateKey
PrivateKey: TypeAlias = Key | ed25519.Ed25519PrivateKey


class KeysInvalid(CannotServe):
    """The requested file cannot be made. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    folder: Path

    @property
    def jwks(self) -> Path:
        return self.folder / "jwks.json"

    def found(self) -> None:
        """Makes the CA and the first token key; existing ones stay. Raises KeysInvalid."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            if not (self.folder / "ca.key").exists():
                self._make_ca()
            if not (self.folder / "tokens.key").exists():
                self.rotate()
        except OSError as problem:
            raise KeysInvalid(f"cannot write to {self.folder}: {problem.strerror}") from None

    def tls(self, name: str) -> TlsFiles:
        return TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / "ca.pem")

    def certify(self, name: str, principal: Principal, *, hosts: Sequence[str] = ()) -> None:
        """Writes {name}.pem and .key; `hosts` makes it a server certificate for these names. Raises KeysInvalid."""
        if principal.role not in CERTIFICATE_ROLES:
            raise KeysInvalid(f"a {principal.role} has no certificate, but a token: cellbook keys token")
        ca, ca_key = self._ca()
        key = ec.generate_private_key(ec.SECP256R1())
        uri = x509.UniformResourceIdentifier(f"{SCHEME}://{principal}")
        certificate = (
            _builder(name, ca.subject, key, authority=False)
            .add_extension(x509.SubjectAlternativeName([uri, *map(_host, hosts)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(_uses(server=bool(hosts))), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        files = self.tls(name)
        # Processes that reload see the pair change at once: a key without its certificate is not accepted.
        _write(files.key, _private(key))
        _write(files.cert, certificate.public_bytes(serialization.Encoding.PEM))

    def token(
        self, principal: Principal, *, valid: timedelta, users: Sequence[str] = (), audience: str = AUDIENCE
    ) -> str:
        """Raises KeysInvalid."""
        if principal.role not in TOKEN_ROLES:
            raise KeysInvalid(f"a {principal.role} has no token, but a certificate: cellbook keys certificate")
        if (principal.role is Role.DELEGATE) != bool(users):
            raise KeysInvalid("a delegate's token names the users that it acts for, and no other's does: --for USER")
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "sub": principal.name,
            "jti": str(uuid4()),
            "role": principal.role.value,
            "iat": now,
            "exp": now + valid,
            **({"users": list(users)} if users else {}),
        }
        key = self._signing_key()
        return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": _kid(key)})

    def rotate(self) -> None:
        """From now on a new key signs tokens; tokens of earlier keys stay valid until `retire`."""
        key = ed25519.Ed25519PrivateKey.generate()
        keys = json.loads(self.jwks.read_text())["keys"] if self.jwks.exists() else []
        # Published before the first token is signed with it.
        _write(self.jwks, _json({"keys": [*keys, _jwk(key)]}))
        _write(self.folder / "tokens.key", _private(key))

    def retire(self) -> None:
        """Removes the earlier keys from the key set: tokens that they signed become invalid."""
        _write(self.jwks, _json({"keys": [_jwk(self._signing_key())]}))

    def _make_ca(self) -> None:
        key, name = ec.generate_private_key(ec.SECP256R1()), _name("Cellbook development")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder("Cellbook development", name, key, authority=True).add_extension(usage, critical=True)
        _write(self.folder / "ca.key", _private(key))
        _write(self.folder / "ca.pem", builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _ca(self) -> tuple[x509.Certificate, Key]:
        certificate = x509.load_pem_x509_certificate(self._read("ca.pem"))
        key = serialization.load_pem_private_key(self._read("ca.key"), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeysInvalid(f"{self.folder / 'ca.key'} is not one of `cellbook keys dev`")
        return certificate, key

    def _signing_key(self) -> ed25519.Ed25519PrivateKey:
        key = serialization.load_pem_private_key(self._read("tokens.key"), password=None)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise KeysInvalid(f"{self.folder / 'tokens.key'} is not one of `cellbook keys dev`")
        return key

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as problem:
            message = f"cannot read {self.folder / name} ({problem.strerror}): run cellbook keys dev {self.folder}"
            raise KeysInvalid(message) from None


def _builder(common_name: str, issuer: x509.Name, key: Key, *, authority: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _uses(*, server: bool) -> list[x509.ObjectIdentifier]:
    client = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return [*client, ExtendedKeyUsageOID.SERVER_AUTH] if server else client


def _jwk(key: ed25519.Ed25519PrivateKey) -> dict[str, str]:
    public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**public, "use": "sig", "alg": "EdDSA", "kid": _kid(key)}


def _kid(key: ed25519.Ed25519PrivateKey) -> str:
    return sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def _private(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- of a cluster ---------------------------------------------------------------------------------------------------


def make_keys(authority: Authority, cells: Iterable[str], hosts: Sequence[str]) -> list[str]:
    """Makes missing and expiring keys; returns the names of the certificates made. Raises KeysInvalid."""
    authority.found()
    principals = {
        ROUTER: Principal(role=Role.ROUTER, name=ROUTER),
        OPERATOR: Principal(role=Role.OPERATOR, name="cellbook"),
        # It only opens connections: each call carries a visitor's token, which alone counts.
        CONSOLE: Principal(role=Role.AUDITOR, name=CONSOLE),
        **{cell: Principal(role=Role.PEER, name=cell) for cell in cells},
    }
    made = [name for name in principals if not _is_good(authority, name)]
    for name in made:
        authority.certify(name, principals[name], hosts=() if name in {OPERATOR, CONSOLE} else hosts)
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
