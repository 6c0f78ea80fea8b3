"""The envelope around a client's command: its identity, sender and deadline; also for requests of many items."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol, TypeVar, cast
from uuid import UUID

from cells.domain.commands import Command
from cells.domain.refusals import Refused, refusal
from cells.outcomes import Asker
from cells.requests import Author, CommandRequest, Lane
from cells.uuids import uuid_from
from server.shell.calls.call import Call
from server.shell.fields.parse import parse_uuid
from server.shell.fields.spelling import respell
from server.shell.identity.principal import Principal, Role

if TYPE_CHECKING:
    from google.protobuf.message import Message


# They read the outcomes of all commands.
_READ_ALL = frozenset({Role.AUDITOR, Role.OPERATOR, Role.SUPPORT})


class Mutating(Protocol):
    """Any request that carries a command_id."""

    @property
    def command_id(self) -> str: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - named by protobuf


def asker_of(principal: Principal) -> Asker:
    """The commands that a principal may read: its own, or all if its role needs them."""
    names = principal.may_act_for if principal.role is Role.DELEGATE else frozenset({principal.name})
    users = frozenset(map(uuid_from, names)) if principal.role in {Role.USER, Role.DELEGATE} else frozenset()
    return Asker(str(principal), users, reads_all=principal.role in _READ_ALL)


def parse_author(call: Call) -> Author:
    return Author(str(call.principal), call.principal.authority)


def parse_deadline(call: Call, now_s: float) -> float | None:
    """`now_s` is a monotonic time."""
    return None if call.timeout_s is None else now_s + call.timeout_s


def content_of(message: Mutating) -> bytes:
    """The request's bytes, the same however its ids are spelled."""
    respell(cast("Message", message))
    return message.SerializeToString(deterministic=True)


def fingerprint(call: Call, content: bytes) -> bytes:
    """Distinguishes requests under one command_id: by caller, method and content."""
    return sha256(_origin(str(call.principal), call.method) + content).digest()


@lru_cache(maxsize=4096)
def _origin(principal: str, method: str) -> bytes:
    return f"{principal}\n{method}\n".encode()


def parse_request(
    message: Mutating, command: Command, *, user_id: UUID | None, call: Call, now_s: float, lane: Lane = Lane.CLIENT
) -> CommandRequest:
    command_id, content = parse_uuid(message.command_id, "command_id"), content_of(message)
    return CommandRequest(
        command_id=command_id,
        fingerprint=fingerprint(call, content),
        principal=str(call.principal),
        command=command,
        correlation_id=command_id,
        causation_id=None,
        user_id=user_id,
        deadline_s=parse_deadline(call, now_s),
        lane=lane,
        size_bytes=len(content),
        authority=call.principal.authority,
    )


Item = TypeVar("Item", bound=Mutating)
# Turns an item into its command and the user on whose behalf it is.
Reader = Callable[[Item], tuple[Command, UUID | None]]


def of_item(refused: Refused, index: int) -> Refused:
    """The refusal with the field's path from the whole request: items[3].amount."""
    field = refused.facts.get("field")
    if field is None:
        return refused
    return refusal(refused.reason, {**refused.facts, "field": f"items[{index}].{field}"})
