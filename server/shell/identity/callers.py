"""How callers prove their identity: by a token, or else by the certificate of their connection.

A certificate's name is a URI: cellbook://peer/eu-west, cellbook://operator/alice. If a call carries a token, the token
alone decides, so a process that passes calls on does not lend them its own rights.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from cells.domain.refusals import PrincipalInvalid
from server.shell.identity.denials import (
    CertificateExpired,
    CertificateUnknown,
    IdentityMissing,
    PeerRefused,
    TokenInvalid,
)
from server.shell.identity.principal import PRINCIPAL_KEY, TOKEN_KEY, Principal, Role, authority_text, parse_principal
from server.shell.identity.tls import read_certificate
from server.shell.rpc import Context, Metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from server.shell.identity.tokens import TokenVerifier


BEARER = "bearer "
# On every call that a router passes on: the connection's certificate is the router's, not the caller's.
FORWARDED_KEY = "cellbook-forwarded"
# On a call that a process forwards to its cell's leader: the name in the certificate of the caller's connection.
ON_BEHALF_KEY = "cellbook-on-behalf-of"
# Sent with it: the SHA-256 of that certificate, in hexadecimal.
ON_BEHALF_CERTIFICATE_KEY = "cellbook-on-behalf-certificate"
ON_BEHALF_KEYS = frozenset({ON_BEHALF_KEY, ON_BEHALF_CERTIFICATE_KEY})
SCHEME = "cellbook"
# The one form of a certificate's name. Lenient parsing would let two programs read the same name differently.
_URI = re.compile(rf"{SCHEME}://([a-z]{{1,16}}/[A-Za-z0-9._@-]{{1,64}})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_LETTERS = re.compile("[^a-z]")
# People use tokens, which expire soon and name the users that they act for.
CERTIFICATE_ROLES = frozenset(
    {Role.PEER, Role.ROUTER, Role.OPERATOR, Role.SERVICE, Role.TREASURY, Role.AUDITOR}
)  # fmt: skip


class Identity(Protocol):
    async def caller(self, metadata: Metadata, context: Context) -> Principal:
        """The caller's identity. Raises Denied."""


class SaidIdentity:
    """For development: each client states its identity, and is believed."""

    async def caller(self, metadata: Metadata, context: Context) -> Principal:  # noqa: ARG002 - as of any
        return said_principal(metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusingIdentity:
    """As `identity`, but denies cells that an operator has cut off."""

    identity: Identity
    refused_peers: frozenset[str]

    async def caller(self, metadata: Metadata, context: Context) -> Principal:
        """Raises PeerRefused."""
        principal = await self.identity.caller(metadata, context)
        if principal.role is Role.PEER and principal.name in self.refused_peers:
            raise PeerRefused(principal=str(principal))
        return principal


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenIdentity:
    """Ignores the identity that the client states. `verifier` is None if no tokens are accepted.

    `cell` is ours, or empty: another process of the same cell, known by the cell's certificate, may state on whose
    behalf it calls. Any of these processes may lead, so this grants no additional rights. With `passing`, a token may
    be for one of those to whom calls are passed on, and who check it again.
    """

    verifier: "TokenVerifier | None"
    cell: str = ""
    passing: bool = False

    async def caller(self, metadata: Metadata, context: Context) -> Principal:
        token, forwarded, on_behalf, certificate = None, False, None, ""
        for key, value in metadata:
            if key == TOKEN_KEY:
                if token is not None:
                    raise TokenInvalid(problem="there are two of them")
                token = value
            elif key == FORWARDED_KEY:
                forwarded = True
            elif key == ON_BEHALF_KEY:
                on_behalf = value
            elif key == ON_BEHALF_CERTIFICATE_KEY:
                certificate = str(value)
        if token is not None:
            return await self._by_token(token)
        if forwarded:
            raise IdentityMissing(problem=f"a call that a router passes on needs a token: send {TOKEN_KEY!r}")
        principal = certified(context.auth_context())
        return principal if on_behalf is None else self._on_behalf(principal, on_behalf, certificate)

    def _on_behalf(self, principal: Principal, said: str | bytes, certificate: str) -> Principal:
        """Raises IdentityMissing, CertificateUnknown."""
        if not self.cell or principal != Principal(role=Role.PEER, name=self.cell):
            raise IdentityMissing(
                problem=f"{ON_BEHALF_KEY!r} may only be sent between processes of this cell, and {principal} "
                "is not one: leave it out"
            )
        named = f"{SCHEME}://{said if isinstance(said, str) else ''}"
        # A process of an earlier version names no certificate.
        return principal_of(named, certificate if _SHA256.fullmatch(certificate) else "")

    async def _by_token(self, header: str | bytes) -> Principal:
        if self.verifier is None:
            raise TokenInvalid(problem="no token is accepted: jwt_keys is not set")
        if not isinstance(header, str) or not header[: len(BEARER)].lower() == BEARER:
            raise TokenInvalid(problem=f"expected {TOKEN_KEY!r} to be 'Bearer' and a JWT")
        return await self.verifier.principal(header[len(BEARER) :].strip(), passed_on=self.passing)


def certified(auth: "Mapping[str, Iterable[bytes]]") -> Principal:
    """The identity in the certificate of a connection, which may outlive the certificate.

    Raises:
        IdentityMissing, CertificateUnknown, CertificateExpired.
    """
    for pem in auth.get("x509_pem_cert") or ():
        until, certificate = _certificate(pem)
        if until < datetime.now(UTC):
            raise CertificateExpired(until=f"{until:%Y-%m-%d %H:%M:%S} UTC")
        break
    else:
        raise IdentityMissing(
            problem=f"send a token as 'Bearer' in metadata {TOKEN_KEY!r}, or connect with a certificate"
        )
    uris = [raw.decode("ascii", errors="backslashreplace") for raw in auth.get("peer_uri") or ()]
    # In any spelling: an odd name is refused, not skipped in favor of another one.
    names = [uri for uri in uris if _NOT_LETTERS.sub("", uri.partition(":")[0].lower()) == SCHEME]
    if len(names) != 1:
        raise CertificateUnknown(problem=f"expected one URI {SCHEME}://role/name in it, found {len(names)}")
    return principal_of(names[0], certificate)


_certificate = lru_cache(maxsize=1024)(read_certificate)


@lru_cache(maxsize=4096)
def principal_of(uri: str, certificate: str) -> Principal:
    """The principal of a URI in the certificate with this SHA-256 (empty: unknown). Raises CertificateUnknown."""
    found = _URI.fullmatch(uri)
    try:
        principal = parse_principal(found[1]) if found else None
    except PrincipalInvalid:
        principal = None
    if principal is None or principal.role not in CERTIFICATE_ROLES:
        expected = f"{SCHEME}://role/name, with a role of {', '.join(sorted(CERTIFICATE_ROLES))}"
        raise CertificateUnknown(problem=f"{uri[:96]!r} is not {expected}")
    return replace(principal, authority=authority_text(by="certificate", sha256=certificate) if certificate else "")


def said_principal(metadata: Metadata) -> Principal:
    """The caller by its own word, stated exactly once. Raises PrincipalMissing, PrincipalInvalid."""
    said = None
    for key, value in metadata:
        if key == PRINCIPAL_KEY:
            if said is not None:
                raise PrincipalInvalid(principal="named twice", expected="one principal")
            said = value
    return parse_principal(said)
