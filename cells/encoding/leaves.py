"""Reads rows of the log whole: each row's leaf as one JSON text, of which its hash and its event are made.

The leaf of a known event is read into structs compiled from the event's type hints. A struct holds every field of the
text as it is there, in the order of the canonical form, so writing it gives the canonical bytes in half the time that
dictionaries take. Whatever does not fit such a struct exactly is read as dictionaries instead.
"""

from collections.abc import Callable
from hashlib import sha256
from types import NoneType
from typing import Any, NamedTuple, cast, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType

from cells.domain.events import EVENT_TYPES, AnyEvent
from cells.encoding.schema import Hint, added_fields, amount_from, decoder, parts
from cells.uuids import uuid_from

# RFC 6962, section 2.1: distinguishes a leaf from an inner node of the tree.
LEAF_PREFIX = b"\x00"
EXACT: dict[str, Any] = {"forbid_unknown_fields": True, "kw_only": True, "gc": False}
# Sorts the keys of dictionaries. The fields of structs are declared in order.
_written = msgspec.json.Encoder(order="deterministic").encode


class Line(Struct, forbid_unknown_fields=True, gc=False):
    """A posting as it is stored."""

    account: str
    amount_minor: str
    currency: str


class Metadata(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    authority: Any = UNSET
    command_id: str
    leg: Any = UNSET
    principal: str
    v: int


class Leaf(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    aggregate_id: str
    causation_id: str | None
    correlation_id: str
    event_id: str
    event_type: str
    hlc_logical: int
    hlc_physical: int
    metadata: dict[str, Any]
    payload: dict[str, Any]
    position: int
    recorded_at_us: int
    stream_version: int
    user_id: str | None
    vector_clock: dict[str, Any]


class Recorded(Struct, gc=False):
    """The payload of an event as it is now: the event, and its stored postings, if it has any."""

    event: AnyEvent
    postings: list[Line] | UnsetType


class ReadLeaf(Struct, gc=False):
    """The part of a leaf that a replay needs, and the hash of its canonical bytes.

    `payload` is Recorded, or any JSON that does not fit the event's type. `leg` is the mark of a leg, or None.
    """

    payload: Any
    version: Any
    leg: Any
    leaf_hash: bytes


_read_any = msgspec.json.Decoder(Leaf).decode


def read_leaf(event_type: str, text: str) -> ReadLeaf:
    """Reads a leaf in whatever order and spacing of its JSON. Raises ValueError for what no row gives."""
    try:
        reader = _READERS.get(event_type) or _reader(event_type)
        leaf = reader.read(text)
        payload, metadata = leaf.payload, leaf.metadata
        recorded = Recorded(reader.event(payload), payload.postings)
        if metadata.v == reader.version:
            leg = None if metadata.leg is UNSET else metadata.leg
            return ReadLeaf(recorded, metadata.v, leg, sha256(LEAF_PREFIX + _written(leaf)).digest())
    except (KeyError, TypeError, ValueError, AttributeError):
        # The fields of another version, or of nothing that this program has written.
        pass
    try:
        other = _read_any(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    said = other.metadata
    return ReadLeaf(other.payload, said.get("v"), said.get("leg"), sha256(LEAF_PREFIX + _written(other)).digest())


class _Reader(NamedTuple):
    """Reads leaves of one type of event, and makes the event of their payload."""

    read: Callable[[str], Any]
    event: Callable[[Any], AnyEvent]
    version: int


_READERS: dict[str, _Reader] = {}


def _reader(event_type: str) -> _Reader:
    """Compiles and keeps it. Raises KeyError for an unknown event."""
    kind = EVENT_TYPES[event_type]
    fields: list[tuple[Any, ...]] = [("postings", list[Line] | UnsetType, UNSET)]
    arguments, names = [], dict[str, Any](kind=kind, uuid_from=uuid_from, amount_from=amount_from, UNSET=UNSET)
    added = added_fields(kind)
    for name, hint, minor in parts(kind):
        stored = _stored(hint, minor=minor)
        fields.append((name, stored | UnsetType, UNSET) if name in added else (name, stored))
        names |= {f"added_{name}": added.get(name), f"read_{name}": decoder(hint, minor=minor)}
        read = _read(name, hint, minor=minor)
        arguments.append(f"{name}={f'added_{name} if value.{name} is UNSET else {read}' if name in added else read}")
    # Only field names go into the source.
    event = cast("Callable[[Any], AnyEvent]", eval(f"lambda value: kind({','.join(arguments)})", names))  # noqa: S307
    payload = msgspec.defstruct(kind.__name__, sorted(fields), **EXACT)
    typed = {"metadata": Metadata, "payload": payload}
    leaf = msgspec.defstruct("Leaf", [(each.name, typed.get(each.name, each.type)) for each in LEAF], **EXACT)
    _READERS[event_type] = _Reader(msgspec.json.Decoder(leaf).decode, event, kind.version)
    return _READERS[event_type]


LEAF = msgspec.structs.fields(Leaf)


def _stored(hint: Hint, *, minor: bool) -> Hint:
    """The type of a field's stored text, if it is a scalar; other fields are read as any JSON."""
    one = _one_of(hint)
    if one in {str, UUID} or (one is int and minor):
        return str if one is hint else str | None
    return hint if one in {int, bool} else Any


def _read(name: str, hint: Hint, *, minor: bool) -> str:
    """The expression for a field of the event. Frequent types need no call of our own: the struct has checked them."""
    value, one = f"value.{name}", _one_of(hint)
    if one is UUID:
        read = f"uuid_from({value})"
    elif one is int and minor:
        read = f"amount_from({value})"
    elif one in {str, int, bool}:
        return value
    else:
        return f"read_{name}({value})"
    return read if one is hint else f"None if {value} is None else {read}"


def _one_of(hint: Hint) -> Hint:
    """The type of a hint that allows None besides it; otherwise the hint."""
    members = [member for member in get_args(hint) if member is not NoneType]
    return members[0] if len(members) == 1 and NoneType in get_args(hint) else hint
