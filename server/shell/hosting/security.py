"""Identity, throttle and certificates of this process, from its settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cells.background import BackgroundTask
from cells.store.unusable import CannotServe
from server.shell.calls.limits import Throttle
from server.shell.identity.callers import Identity, ProvenIdentity, RefusingIdentity, SaidIdentity
from server.shell.identity.keyset import KeySetInvalid
from server.shell.identity.tls import Certificates, TlsInvalid
from server.shell.identity.tokens import TokenVerifier
from server.shell.settings.security import SecuritySettings


class SecurityInvalid(CannotServe):
    """A value in the settings cannot be used. The message names the setting, and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    identity: Identity
    # For calls that are passed on to cells, which check them again.
    passing: Identity
    throttle: Throttle
    # None: plain text, and every caller is believed.
    certificates: Certificates | None = None
    verifier: TokenVerifier | None = None

    @property
    def tasks(self) -> Sequence[BackgroundTask]:
        """Keep the token keys fresh."""
        return [self.verifier.keys.background] if self.verifier is not None else []


def build_security(settings: SecuritySettings, cell: str = "") -> Security:
    """`cell` is the one that this process serves, if any. Raises SecurityInvalid."""
    security = _security(settings, cell)
    if not settings.refused_peers:
        return security
    refusing = RefusingIdentity(identity=security.identity, refused_peers=frozenset(settings.refused_peers))
    return replace(security, identity=refusing)


def _security(settings: SecuritySettings, cell: str) -> Security:
    throttle = Throttle(user_calls_per_s=settings.user_calls_per_s, client_calls_per_s=settings.client_calls_per_s)
    if settings.tls is None:
        return Security(identity=SaidIdentity(), passing=SaidIdentity(), throttle=throttle)
    try:
        certificates = Certificates(settings.tls)
        verifier = _verifier(settings) if settings.jwt_keys else None
    except (TlsInvalid, KeySetInvalid) as problem:
        raise SecurityInvalid(str(problem)) from None
    identity = ProvenIdentity(verifier=verifier, cell=cell)
    return Security(
        identity=identity,
        passing=replace(identity, passing=True),
        throttle=throttle,
        certificates=certificates,
        verifier=verifier,
    )


def _verifier(settings: SecuritySettings) -> TokenVerifier:
    verifier = TokenVerifier(
        issuer=settings.jwt_issuer,
        audiences=settings.jwt_audience,
        source=settings.jwt_keys,
        refresh_s=settings.jwt_refresh_s,
    )
    verifier.keys.load()
    return verifier
