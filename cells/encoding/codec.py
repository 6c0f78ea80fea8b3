"""Converts events and states to and from their stored form, and makes the hashed bytes: docs/log-format.md."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, cast
from uuid import UUID

import msgspec
from msgspec import DecodeError

from cells.domain.account.account import Account
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.decision import State
from cells.domain.events import EVENT_TYPES, AnyEvent
from cells.domain.sagas.saga import Saga
from cells.domain.values import Direction, Kind, LegId, LegTag, Posting
from cells.encoding.leaves import LEAF_PREFIX
from cells.encoding.schema import amount, decoder, encoder, quoted, record_encoder
from cells.requests import CommandKey
from cells.store.ports import EventRow
from cells.uuids import uuid_from

STATES: dict[Kind, type[State]] = {
    Kind.ACCOUNT: Account,
    Kind.ASSET: Asset,
    Kind.AUCTION: Auction,
    Kind.SAGA: Saga,
}

# (event type, stored version) -> the payload one version later. Pure; hashes cover the stored form.
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}

# Fields that states of an older process lack, which may still write beside this one during an upgrade.
ADDED: dict[Kind, dict[str, Any]] = {
    Kind.SAGA: {"paused": False},
    Kind.ACCOUNT: {"move": None, "earlier_homes": []},
}

# All columns of a row except its hash, in order.
Columns = tuple[int, UUID, str, UUID, int, UUID | None, UUID, int, int, str, str, str, UUID | None, datetime]

QUOTE = '"'
POSTINGS = "postings"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


class UnknownEvent(Exception):
    """This process does not know the event type or version: a reader of its stream must stop."""


def _no_float(text: str) -> object:
    raise ValueError(f"{text} is no integer: the log holds no other numbers")


_scan = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float).scan_once  # type: ignore[attr-defined]


# A quarter of the time that json takes.
_read_quickly = msgspec.json.Decoder(float_hook=_no_float).decode
_write_quickly = msgspec.json.Encoder(order="deterministic").encode


def parsed(text: str) -> Any:  # noqa: ANN401 - what JSON holds
    """As json.loads, but with no numbers other than integers, and nothing before or after.

    json finds surrounding blanks by regular expressions, which takes as long as parsing a small payload.
    """
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError(f"{text[:40]!r} is no JSON") from None
    if end != len(text):
        raise ValueError(f"{text[end : end + 40]!r} comes after the JSON")
    return value


def canonical(value: object) -> str:
    """JSON with sorted keys, no blanks and only the necessary escapes."""
    return _canonical(value)


def recanonical(text: str) -> str:
    """The canonical form of JSON that came from PostgreSQL, which keeps its own order and blanks. Raises ValueError."""
    try:
        return _write_quickly(_read_quickly(text)).decode()
    except DecodeError:
        # It is no JSON, or holds a number that is no integer: the reader above says what is wrong.
        return _canonical(parsed(text))


def encode_event(event: AnyEvent, lines: Sequence[tuple[str, str, int]]) -> str:
    """The payload: the event's fields, and its postings if it moves money. Raises Unencodable."""
    kind: Any = type(event)
    if not lines:
        return encoder(kind)(event)
    # The same as encoder(Posting), in a quarter of the time: most events have two postings.
    postings = [
        f'{{"account":{quoted(account)},"amount_minor":{amount(minor)},"currency":{quoted(currency)}}}'
        for account, currency, minor in lines
    ]
    return record_encoder(kind, POSTINGS)(event, f"[{','.join(postings)}]")


def decode_event(event_type: str, version: int, payload: str) -> AnyEvent:
    """Raises UnknownEvent."""
    return decode_content(event_type, version, parsed(payload))


def decode_content(event_type: str, version: int, content: dict[str, Any]) -> AnyEvent:
    """The event of a payload from `parsed`. Raises UnknownEvent."""
    kind: Any = EVENT_TYPES.get(event_type)
    if kind is None or not 1 <= version <= kind.version:
        raise UnknownEvent(f"{event_type} version {version}")
    for stored in range(version, kind.version):
        upcast = UPCASTERS.get((event_type, stored))
        if upcast is None:
            raise UnknownEvent(f"{event_type} version {version}: no way from {stored} to {stored + 1}")
        content = upcast(content)
    return cast("AnyEvent", decoder(kind)(content))


def kind_of(event_type: str) -> Kind:
    """The kind of the streams that contain such events. Raises UnknownEvent."""
    kind = EVENT_TYPES.get(event_type)
    if kind is None:
        raise UnknownEvent(event_type)
    return kind.kind


def version_of(row: EventRow) -> int:
    """The schema version under which the event was stored."""
    return int(json.loads(row.metadata)["v"])


def event_of(row: EventRow) -> AnyEvent:
    """The event of a stored row. Raises UnknownEvent."""
    return decode_event(row.event_type, version_of(row), row.payload)


def postings_of(row: EventRow) -> list[Posting]:
    """The double entry stored with an event; empty if it moves no money."""
    # Most events that move no money need not be parsed.
    if '"postings"' not in row.payload:
        return []
    return [
        Posting(line["account"], line["currency"], int(line["amount_minor"]))
        for line in parsed(row.payload).get(POSTINGS, ())
    ]


def command_of(row: EventRow) -> CommandKey:
    """The command of the event: its sender and its id."""
    said = json.loads(row.metadata)
    return said["principal"], UUID(said["command_id"])


def leg_of(row: EventRow) -> tuple[LegId | None, Direction]:
    """The leg whose effect the event is, and its direction; None: no leg."""
    mark = json.loads(row.metadata).get("leg")
    if mark is None:
        return None, Direction.ACTION
    return LegId(UUID(mark["saga_id"]), mark["leg"], mark["generation"]), Direction(mark["direction"])


# The events of one command have the same.
@lru_cache(maxsize=16)
def encode_metadata(version: int, command_id: UUID, principal: str, leg: LegTag | None, authority: str = "") -> str:
    """The event's metadata: its schema version, and its command and leg.

    `authority` is canonical JSON, or empty if nothing has proven the principal.
    """
    proof = f'"authority":{authority},' if authority else ""
    mark = "" if leg is None else f'"leg":{_leg(leg)},'
    return f'{{{proof}"command_id":"{command_id!s}",{mark}"principal":{quoted(principal)},"v":{version}}}'


def _leg(tag: LegTag) -> str:
    barrier = "" if tag.foreign_id is None else f'"barrier":"{tag.foreign_id}",'
    return (
        f'{{{barrier}"direction":{quoted(tag.direction.value)},"generation":{tag.leg_id.generation}'
        f',"leg":{quoted(tag.leg_id.leg)},"saga_id":"{tag.leg_id.saga_id}"}}'
    )


def leg_tag_in(metadata: dict[str, Any]) -> LegTag | None:
    """The leg in the event's metadata."""
    mark = metadata.get("leg")
    return None if mark is None else leg_tag(mark)


def leg_tag(mark: dict[str, Any]) -> LegTag:
    leg_id = LegId(uuid_from(mark["saga_id"]), mark["leg"], mark["generation"])
    barrier = mark.get("barrier")
    return LegTag(leg_id, Direction(mark["direction"]), None if barrier is None else uuid_from(barrier))


def encode_state(state: State) -> str:
    """The content of a projection row. Raises Unencodable."""
    kind: Any = type(state)
    return encoder(kind)(state)


def decode_state(kind: Kind, text: str) -> State:
    """The state of an aggregate of `kind`, from its projection row."""
    hint: Any = STATES[kind]
    return cast("State", decoder(hint)(ADDED.get(kind, {}) | parsed(text)))


def same_state(kind: Kind, expected: str, found: str) -> bool:
    """Whether two stored states are equal: one from an older process may lack fields added since."""
    if expected == found:
        return True
    try:
        return decode_state(kind, expected) == decode_state(kind, found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def leaf_bytes(row: EventRow) -> bytes:
    """The canonical bytes of a stored row: every column but the hash, the JSON columns embedded as they are.

    The row's JSON must be canonical text. Keys are in sorted order by construction.
    """
    return _leaf(row[:-1])


def _leaf(columns: Columns) -> bytes:
    (
        position,
        event_id,
        event_type,
        aggregate_id,
        stream_version,
        causation_id,
        correlation_id,
        hlc_physical,
        hlc_logical,
        vector_clock,
        payload,
        metadata,
        user_id,
        recorded_at,
    ) = columns
    # `!s` goes straight to the id's text; without it formatting takes three times as long, and there are five ids.
    return (
        f'{{"aggregate_id":"{aggregate_id!s}"'
        f',"causation_id":{"null" if causation_id is None else QUOTE + str(causation_id) + QUOTE}'
        f',"correlation_id":"{correlation_id!s}"'
        f',"event_id":"{event_id!s}"'
        f',"event_type":"{event_type}"'
        f',"hlc_logical":{hlc_logical}'
        f',"hlc_physical":{hlc_physical}'
        f',"metadata":{metadata}'
        f',"payload":{payload}'
        f',"position":{position}'
        f',"recorded_at_us":{microseconds(recorded_at)}'
        f',"stream_version":{stream_version}'
        f',"user_id":{"null" if user_id is None else QUOTE + str(user_id) + QUOTE}'
        f',"vector_clock":{vector_clock}}}'
    ).encode()


def leaf_hash(row: EventRow) -> bytes:
    """SHA-256 over a zero byte and the leaf, as a leaf of an RFC 6962 tree."""
    return hash_of(row[:-1])


def hash_of(columns: Columns) -> bytes:
    """The same for a row that is being made."""
    return sha256(LEAF_PREFIX + _leaf(columns)).digest()


# Commands that are decided together share one moment.
@lru_cache(maxsize=16)
def microseconds(moment: datetime) -> int:
    """Since the Unix epoch, exactly."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def from_microseconds(passed_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=passed_us)
