"""Who calls. In development each client says so itself, in metadata; the proof of identity comes later."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

from cells.domain.refusals import PrincipalInvalid, PrincipalMissing

PRINCIPAL_KEY = "cellbook-principal"
TEXT_MAX = 96
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_EXPECTED = "user/{uuid}, or service, treasury, auditor, operator, peer with a name: 'service/shop'"


class Role(StrEnum):
    # A person, by user id: acts for itself alone.
    USER = "user"
    # A program that acts for users: a shop's backend.
    SERVICE = "service"
    # Brings money in and out.
    TREASURY = "treasury"
    AUDITOR = "auditor"
    OPERATOR = "operator"
    # Another cell, or the router.
    PEER = "peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """`name` is the user's id (lower case) for users, the cell's name or "router" for peers."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"


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
