"""The caller of an RPC. In development each client states it in metadata; identity.py has it proven."""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

from cells.domain.refusals import PrincipalInvalid, PrincipalMissing

PRINCIPAL_KEY = "cellbook-principal"
TOKEN_KEY = "authorization"  # noqa: S105 - a name
TEXT_MAX = 96
# It is stored in events, which are kept forever, so an email address is not allowed.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXPECTED = (
    "user/{uuid}, or service, treasury, auditor, operator, support, delegate, peer, router with an opaque name: "
    "'service/shop'"
)


class Role(StrEnum):
    # As its text: an enum computes its own in Python, and each call looks up a dozen roles.
    __hash__ = str.__hash__

    # A person, by user id; acts only for itself.
    USER = "user"
    # Acts only for the users that its token names.
    DELEGATE = "delegate"
    # A program that acts for users: a shop's backend.
    SERVICE = "service"
    # Brings money in and out.
    TREASURY = "treasury"
    AUDITOR = "auditor"
    OPERATOR = "operator"
    # Explains to people what happened to their money, and reads no more than that takes.
    SUPPORT = "support"
    # Another cell.
    PEER = "peer"
    # Opens the accounts of the users that it registers.
    ROUTER = "router"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """`name` is the user's id (lower case) for users, the cell's name for peers."""

    role: Role
    name: str
    # The ids (lower case) of the users that a delegate may act for.
    may_act_for: frozenset[str] = field(default=frozenset(), hash=False)
    # Its proof as canonical JSON, which events contain (docs/log-format.md). Empty: the caller's own word.
    authority: str = field(default="", compare=False)
    # "role/name", printed once for all calls.
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", f"{self.role}/{self.name}")

    def __str__(self) -> str:
        return self._text


def authority_text(**facts: str) -> str:
    """The proof of a principal as canonical JSON; made once for all calls that it proves."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse_principal(text: str | bytes | None) -> Principal:
    """Reads "role/name".

    Raises:
        PrincipalMissing, PrincipalInvalid.
    """
    if not text:
        raise PrincipalMissing(metadata_key=PRINCIPAL_KEY)
    if isinstance(text, bytes) or len(text) > TEXT_MAX:
        raise _invalid(str(text[:TEXT_MAX]))
    return _parsed(text)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Principal:
    said, _, name = text.partition("/")
    if not _NAME.fullmatch(name):
        raise _invalid(text)
    try:
        role = Role(said)
        return Principal(role=role, name=str(UUID(name)) if role is Role.USER else name)
    except ValueError:
        raise _invalid(text) from None


def _invalid(text: str) -> PrincipalInvalid:
    return PrincipalInvalid(principal=text, expected=_EXPECTED)
