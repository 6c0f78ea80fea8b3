"""Parts shared by the messages of several services: ids, money, text, names, pages, receipts.

All input is checked here, before the cell sees it. Every refusal names the field.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, cast
from uuid import UUID

from cellbook.v1 import types_pb2
from cells.domain.commands import Command
from cells.domain.refusals import AmountNotPositive, WrongCell
from cells.domain.time.hlc import Stamp
from cells.domain.time.vector import CELL_NAME
from cells.domain.values import Money, money
from cells.known_commands import Asker
from cells.requests import Author, CommandRequest, Lane, Outcome
from cells.uuids import uuid_from
from server.shell.calls.call import Call
from server.shell.fields.bounds import PAGE_SIZE, invalid, number_in
from server.shell.fields.spelling import LENGTH, respell, spelled
from server.shell.identity.principal import Principal, Role

if TYPE_CHECKING:
    from google.protobuf.message import Message

CODE_LENGTH = 3
PAGE_DEFAULT = 100
PAGE_MAX = 1_000

NIL = uuid_from(bytes(16))
_NAME = re.compile(rf"cells/({CELL_NAME.pattern})/(assets|auctions)/([0-9A-Fa-f-]{{36}})")

E = TypeVar("E", bound=Enum)


# --- values from proto ------------------------------------------------------------------------------------------------


def parse_uuid(text: str, field: str) -> UUID:
    if not text:
        raise invalid(field, "is missing")
    try:
        parsed = uuid_from(text if len(text) == LENGTH else spelled(text))
    except ValueError:
        raise invalid(field, "is not a UUID", text) from None
    # The parser accepts more than the spellings of a UUID.
    if str(parsed) != text and str(parsed) != spelled(text):
        raise invalid(field, "is not a UUID", text)
    if parsed == NIL:
        raise invalid(field, "must not be the nil UUID", text)
    return parsed


def parse_optional_uuid(text: str, field: str) -> UUID | None:
    return parse_uuid(text, field) if text else None


def parse_money(message: types_pb2.Money, field: str = "amount") -> Money:
    """An unset message field reads as an empty Money.

    Raises:
        FieldInvalid, UnknownCurrency, AmountNotPositive, AmountTooLarge.
    """
    currency = message.currency
    if not currency:
        raise invalid(f"{field}.currency" if message.amount_minor else field, "is missing")
    if len(currency) > CODE_LENGTH:
        raise invalid(f"{field}.currency", "is not an ISO 4217 code", currency)
    return money(currency, message.amount_minor, field=field)


def parse_amount(amount_minor: int, field: str) -> int:
    if amount_minor <= 0:
        raise AmountNotPositive(field=field, amount_minor=amount_minor)
    return amount_minor


def parse_cell(text: str, field: str) -> str:
    if not text:
        raise invalid(field, "is missing")
    if CELL_NAME.fullmatch(text) is None:
        raise invalid(field, "is not a cell's name", text)
    return text


# --- names and enums ----------------------------------------------------------------------------------------


class Name(NamedTuple):
    """The parts of "cells/{cell}/{collection}/{uuid}"."""

    cell: str
    id: UUID


def parse_name(text: str, field: str, collection: str) -> Name:
    if not text:
        raise invalid(field, "is missing")
    found = _NAME.fullmatch(text)
    if found is None or found[2] != collection:
        raise invalid(field, f"is not a name: expected 'cells/{{cell}}/{collection}/{{uuid}}'", text)
    return Name(found[1], parse_uuid(found[3], field))


def parse_local_id(text: str, field: str, collection: str, here: str) -> UUID:
    """The id in the name of something that lives here. Raises WrongCell if it lives elsewhere."""
    name = parse_name(text, field, collection)
    if name.cell != here:
        raise WrongCell(resource=text, cell=name.cell, here=here)
    return name.id


def asset_name(cell: str, asset_id: UUID | str) -> str:
    return f"cells/{cell}/assets/{asset_id}"


def auction_name(cell: str, auction_id: UUID | str) -> str:
    return f"cells/{cell}/auctions/{auction_id}"


def enum_table(kind: type[E], prefix: str, values: Iterable[tuple[str, int]]) -> dict[int, E]:
    """Wire value -> member, by name. Raises KeyError, at import, if the domain has no such member."""
    return {value: kind[name.removeprefix(prefix)] for name, value in values if value}


def parse_enum(value: int, table: dict[int, E], field: str) -> E:
    if value == 0:
        raise invalid(field, "is missing")
    if value not in table:
        raise invalid(field, "is not a value known here", value)
    return table[value]


# --- commands -----------------------------------------------------------------------------------------------


class Mutating(Protocol):
    """Any request that carries a command_id."""

    @property
    def command_id(self) -> str: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - named by protobuf
    def ByteSize(self) -> int: ...  # noqa: N802 - named by protobuf


def asker_of(principal: Principal) -> Asker:
    """The commands that a principal may read: its own, or all if its role needs them."""
    names = principal.may_act_for if principal.role is Role.DELEGATE else frozenset({principal.name})
    users = frozenset(map(uuid_from, names)) if principal.role in {Role.USER, Role.DELEGATE} else frozenset()
    return Asker(str(principal), users, reads_all=principal.role in {Role.AUDITOR, Role.OPERATOR})


def parse_author(call: Call) -> Author:
    return Author(str(call.principal), call.principal.authority)


class Sender(NamedTuple):
    """The properties that all commands of one call share."""

    principal: str
    authority: str
    # The beginning of each fingerprint.
    origin: bytes
    deadline_s: float | None


# Returns the authority of one of a sender's commands. Raises Refused.
AuthorityOf = Callable[[Sender, Mutating, Command], str]


def senders_own(sender: Sender, _message: Mutating, _command: Command) -> str:
    return sender.authority


def parse_sender(call: Call, now_s: float) -> Sender:
    """`now_s` is a monotonic time."""
    principal = str(call.principal)
    return Sender(
        principal, call.principal.authority, f"{principal}\n{call.method}\n".encode(), parse_deadline(call, now_s)
    )


def fingerprint(origin: bytes, message: Mutating) -> bytes:
    """Distinguishes requests under one command_id: by caller, method and content, however ids are spelled."""
    respell(cast("Message", message))
    return sha256(origin + message.SerializeToString(deterministic=True)).digest()


def parse_request(
    message: Mutating,
    command: Command,
    *,
    user_id: UUID | None,
    sender: Sender,
    lane: Lane = Lane.CLIENT,
    authority_of: AuthorityOf = senders_own,
) -> CommandRequest:
    """Wraps a client's command in its envelope."""
    command_id = parse_uuid(message.command_id, "command_id")
    return CommandRequest(
        command_id=command_id,
        fingerprint=fingerprint(sender.origin, message),
        principal=sender.principal,
        command=command,
        correlation_id=command_id,
        causation_id=None,
        user_id=user_id,
        deadline_s=sender.deadline_s,
        lane=lane,
        size_bytes=message.ByteSize(),
        authority=authority_of(sender, message, command),
    )


def parse_deadline(call: Call, now_s: float) -> float | None:
    return None if call.timeout_s is None else now_s + call.timeout_s


def stamp_to_proto(stamp: Stamp) -> types_pb2.HlcStamp:
    return types_pb2.HlcStamp(physical_ms=stamp.physical_ms, logical=stamp.logical)


def token_to_proto(cell: str, position: int) -> types_pb2.PositionToken:
    return types_pb2.PositionToken(cell=cell, position=position)


def receipt_to_proto(outcome: Outcome) -> types_pb2.CommandReceipt:
    receipt = types_pb2.CommandReceipt()
    put_receipt(receipt, outcome)
    return receipt


def put_receipt(receipt: types_pb2.CommandReceipt, outcome: Outcome) -> None:
    """Fills in a receipt inside an answer: a message that is passed to another one is copied each time."""
    receipt.command_id = str(outcome.command_id)
    token, hlc = receipt.token, receipt.hlc
    token.cell = outcome.cell
    token.position = outcome.position
    hlc.physical_ms, hlc.logical = outcome.hlc
    receipt.replayed = outcome.replayed


def money_to_proto(currency: str, amount_minor: int | str) -> types_pb2.Money:
    return types_pb2.Money(currency=currency, amount_minor=int(amount_minor))


def id_to_proto(value: UUID | None) -> str:
    return "" if value is None else str(value)


# --- pages --------------------------------------------------------------------------------------------------


class Page(NamedTuple):
    size: int
    after: UUID | None


def parse_page(size: int, token: str) -> Page:
    return Page(parse_page_size(size), parse_page_token(token))


def parse_page_size(size: int) -> int:
    """A page size above the maximum is reduced, as in AIP-158."""
    number_in(size, "page_size", PAGE_SIZE)
    return min(size, PAGE_MAX) or PAGE_DEFAULT


def parse_page_token(token: str) -> UUID | None:
    if not token:
        return None
    try:
        last = uuid_from(urlsafe_b64decode(token.encode()))
    except ValueError:
        raise invalid("page_token", "is not a token of this list", token) from None
    # The decoder ignores characters that are not base64.
    if page_token_to_proto(last) != token:
        raise invalid("page_token", "is not a token of this list", token)
    return last


def page_token_to_proto(last: UUID | None) -> str:
    """The token of the page after `last`."""
    return urlsafe_b64encode(last.bytes).decode() if last is not None else ""
