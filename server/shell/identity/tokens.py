"""Tokens: JWTs that identify the caller, signed by a trusted issuer. Checked once each, then cached until they expire.

A token is valid for the audiences in its `aud`: for all cells, or for one cell or region, so that a token shown to one
cell is worthless in another. A router passes on tokens of a cell's audience even if it is not an audience itself: its
own audiences are the prefix of theirs.

A token has `iss`, `aud`, `exp` and `sub`; `role` is one of user (the default), delegate, service, treasury,
auditor, operator, support. A user's `sub` is its id; a delegate's `users` lists the ids that it may act for.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple

import jwt

from cells.domain.refusals import PrincipalInvalid
from server.shell.identity.denials import TokenInvalid
from server.shell.identity.keyset import ALGORITHMS, KeySet
from server.shell.identity.principal import Principal, Role, authority_text, parse_principal

# Peers and routers prove themselves by their certificates, which no token issuer controls.
TOKEN_ROLES = frozenset(
    {Role.USER, Role.DELEGATE, Role.SERVICE, Role.TREASURY, Role.AUDITOR, Role.OPERATOR, Role.SUPPORT}
)
TOKEN_BYTES_MAX = 6 * 1024
KNOWN_MAX = 10_000
USERS_MAX = 100
# Tolerance between the issuer's clock and ours.
LEEWAY_S = 10.0
REQUIRED = ("iss", "aud", "exp", "sub")


# Like the subject, it is stored in events forever.
_OPAQUE = re.compile(r"[A-Za-z0-9._-]{1,64}")

# Separates a common audience from the cell or region in it: "cellbook/eu-west".
BELOW = "/"


class Known(NamedTuple):
    principal: Principal
    until_s: float
    # True: it is for us. False: it is for an audience below ours, to which it may be passed on.
    is_ours: bool


@dataclass(slots=True, kw_only=True)
class TokenVerifier:
    issuer: str
    audiences: tuple[str, ...]
    source: str
    refresh_s: float
    wall_s: Callable[[], float] = time.time
    keys: KeySet = field(init=False)
    # The most recently used comes last.
    _known: OrderedDict[str, Known] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        # When the keys change, tokens signed by removed keys become invalid.
        self.keys = KeySet(source=self.source, refresh_s=self.refresh_s, changed=self._known.clear)

    async def principal(self, token: str, *, passed_on: bool = False) -> Principal:
        """The caller that the token names; `passed_on` also accepts an audience below ours. Raises TokenInvalid."""
        known = self._known.get(token)
        if known is not None and self.wall_s() < known.until_s:
            self._known.move_to_end(token)
        else:
            self._known.pop(token, None)
            known = await self._checked(token)
        if not (known.is_ours or passed_on):
            raise TokenInvalid(problem=_NOT_OURS)
        return known.principal

    async def _checked(self, token: str) -> Known:
        key = await self._key(token)
        known = self._read(token, key)
        if self.keys.keys.get(key.key_id or "") is key:
            self._known[token] = known
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return known

    async def _key(self, token: str) -> jwt.PyJWK:
        if len(token) > TOKEN_BYTES_MAX:
            raise TokenInvalid(problem=f"it is longer than {TOKEN_BYTES_MAX} bytes")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise TokenInvalid(problem="it is no JWT") from None
        kid = header.get("kid")
        if header.get("alg") not in ALGORITHMS:
            raise TokenInvalid(problem=f"expected alg to be one of {', '.join(ALGORITHMS)}")
        key = await self.keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise TokenInvalid(problem="the key that signed it is not known here: kid names none of jwt_keys")
        return key

    def _read(self, token: str, key: jwt.PyJWK) -> Known:
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                issuer=self.issuer,
                leeway=LEEWAY_S,
                # We check the audience ourselves.
                options={"require": list(REQUIRED), "verify_aud": False},
            )
            is_ours = self._is_ours(claims["aud"])
            principal = replace(_principal(claims), authority=self._authority(claims, key.key_id or "", token))
            return Known(principal, float(claims["exp"]) + LEEWAY_S, is_ours)
        except jwt.PyJWTError as problem:
            raise TokenInvalid(problem=_problem_text(problem)) from None
        except (TypeError, ValueError, OverflowError):
            raise TokenInvalid(problem="a claim is of the wrong type") from None

    def _authority(self, claims: dict[str, Any], kid: str, token: str) -> str:
        """Identifies the token: by an opaque `jti` or else by the SHA-256 of the part that its issuer signed."""
        if _OPAQUE.fullmatch(claims.get("jti", "")):
            return authority_text(by="token", issuer=self.issuer, kid=kid, jti=claims["jti"])
        signed = sha256(token.rpartition(".")[0].encode()).hexdigest()
        return authority_text(by="token", issuer=self.issuer, kid=kid, sha256=signed)

    def _is_ours(self, said: object) -> bool:
        """False: it is for an audience below ours. Raises TokenInvalid if it is for neither."""
        named = said if isinstance(said, list) else [said]
        if any(each in self.audiences for each in named):
            return True
        stems = tuple(audience + BELOW for audience in self.audiences)
        if any(isinstance(each, str) and each.startswith(stems) for each in named):
            return False
        raise TokenInvalid(problem=_NOT_OURS)


_NOT_OURS = "it is for another audience: see jwt_audience"


def _problem_text(problem: jwt.PyJWTError) -> str:
    match problem:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.InvalidIssuerError():
            return "it is from another issuer: see jwt_issuer"
        case jwt.MissingRequiredClaimError():
            return f"the claim {problem.claim} is missing"
        case jwt.InvalidSignatureError():
            return "the signature is wrong"
        case _:
            return str(problem)


def _principal(claims: dict[str, Any]) -> Principal:
    said, subject = claims.get("role", Role.USER.value), claims["sub"]
    if said not in TOKEN_ROLES:
        raise TokenInvalid(problem=f"role must be one of {', '.join(sorted(TOKEN_ROLES))}")
    try:
        principal = parse_principal(f"{said}/{subject}")
        return _delegate(principal, claims.get("users")) if principal.role is Role.DELEGATE else principal
    except PrincipalInvalid:
        what = "a user's sub is its UUID" if said == Role.USER else "sub is opaque: 1 to 64 letters, digits and ._-"
        raise TokenInvalid(problem=what) from None


def _delegate(principal: Principal, users: object) -> Principal:
    if not isinstance(users, list) or not 1 <= len(users) <= USERS_MAX:
        raise TokenInvalid(problem=f"a delegate's token lists the users that it acts for, 1 to {USERS_MAX}, in users")
    ids = frozenset(parse_principal(f"{Role.USER}/{user}").name for user in users)
    return Principal(role=principal.role, name=principal.name, may_act_for=ids)
