"""Events and states to and from their stored form, and the bytes that their hashes are over (docs/log-format.md)."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast
from uuid import UUID

from cells.domain.account import Account
from cells.domain.asset import Asset
from cells.domain.auction import Auction
from cells.domain.decision import State
from cells.domain.events import EVENT_TYPES, AnyEvent
from cells.domain.saga import Saga
from cells.domain.values import Kind, LegTag, Posting
from cells.ports import EventRow
from cells.schema import decoder, encoder

STATES: dict[Kind, type[State]] = {
    Kind.ACCOUNT: Account,
    Kind.ASSET: Asset,
    Kind.AUCTION: Auction,
    Kind.SAGA: Saga,
}

# (event type, stored version) -> the payload one version later. Pure; hashes are over what was stored, never over this.
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}

LEAF_PREFIX = b"\x00"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


class UnknownEvent(Exception):  # noqa: N818 - a thing found, not an error of ours
    """An event type or version that this process does not know: whoever reads its stream must stop."""


def canonical(value: object) -> str:
    """JSON with sorted keys, no blanks, no escapes but the necessary, no floats."""
    return _canonical(value)


def recanonical(text: str) -> str:
    """The canonical form of JSON that came from PostgreSQL, which keeps its own order and blanks."""
    return _canonical(json.loads(text))


def encode_event(event: AnyEvent, lines: Sequence[Posting]) -> str:
    """The payload: the event's fields, and its postings if it moves money."""
    content = encoder(type(event))(event)
    if lines:
        content["postings"] = [
            {"account": line.account, "currency": line.currency, "amount_minor": str(line.amount_minor)}
            for line in lines
        ]
    return _canonical(content)


def decode_event(event_type: str, version: int, payload: str) -> AnyEvent:
    """Raises UnknownEvent."""
    kind = EVENT_TYPES.get(event_type)
    if kind is None or not 1 <= version <= kind.version:
        raise UnknownEvent(f"{event_type} version {version}")
    content = json.loads(payload)
    for stored in range(version, kind.version):
        content = UPCASTERS[event_type, stored](content)
    return cast("AnyEvent", decoder(kind)(content))


def version_of(row: EventRow) -> int:
    """The schema version under which the event was stored."""
    return int(json.loads(row.metadata)["v"])


def event_of(row: EventRow) -> AnyEvent:
    """The event of a stored row. Raises UnknownEvent."""
    return decode_event(row.event_type, version_of(row), row.payload)


def encode_metadata(*, version: int, command_id: UUID, principal: str, leg: LegTag | None) -> str:
    content: dict[str, object] = {"v": version, "command_id": str(command_id), "principal": principal}
    if leg is not None:
        content["leg"] = {
            "saga_id": str(leg.leg_id.saga_id),
            "leg": leg.leg_id.leg,
            "generation": leg.leg_id.generation,
            "direction": leg.direction.value,
        }
    return _canonical(content)


def encode_state(state: State) -> str:
    return _canonical(encoder(type(state))(state))


def decode_state(kind: Kind, text: str) -> State:
    return cast("State", decoder(STATES[kind])(json.loads(text)))


def leaf_bytes(row: EventRow) -> bytes:
    """The canonical bytes of a stored row: every column but the hash itself, the JSON columns embedded as they are.

    `row`'s JSON must be canonical text. Keys are in sorted order by construction.
    """
    text = (
        f'{{"aggregate_id":"{row.aggregate_id}"'
        f',"causation_id":{_quoted(row.causation_id)}'
        f',"correlation_id":"{row.correlation_id}"'
        f',"event_id":"{row.event_id}"'
        f',"event_type":"{row.event_type}"'
        f',"hlc_logical":{row.hlc_logical}'
        f',"hlc_physical":{row.hlc_physical}'
        f',"metadata":{row.metadata}'
        f',"payload":{row.payload}'
        f',"position":{row.position}'
        f',"recorded_at_us":{microseconds(row.recorded_at)}'
        f',"stream_version":{row.stream_version}'
        f',"user_id":{_quoted(row.user_id)}'
        f',"vector_clock":{row.vector_clock}}}'
    )
    return text.encode()


def leaf_hash(row: EventRow) -> bytes:
    """RFC 6962, section 2.1: SHA-256 over a zero byte and the leaf."""
    return sha256(LEAF_PREFIX + leaf_bytes(row)).digest()


def microseconds(moment: datetime) -> int:
    """Since the Unix epoch, exactly."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _quoted(value: UUID | None) -> str:
    return "null" if value is None else f'"{value}"'
