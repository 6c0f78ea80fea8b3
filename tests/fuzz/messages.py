"""Requests made from their descriptors: plausible ones, ones at the edge, and nonsense; of things that there are."""

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

BIG = 2**63 - 1
NIL = str(UUID(int=0))
DEPTH_MAX = 6
POOL_MAX = 400
CELLS = ("us-east", "eu-west", "ap-tokyo")
# A cell that is none: the only one that a peer here may speak for, so that no saga of the real ones is disturbed.
STRANGER = "mars"

TEXTS = (
    "", "junk", "\x00", "\u00e9" * 300, "x" * 5_000, NIL, "{}", "%s", "'; DROP TABLE event_store; --", "\U0001f4b0",
    "../..", "cells//auctions/", "cells/us-east/auctions/", "null", "\ud7ff", "\u202e",
)  # fmt: skip
EDGES = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**47, 2**53, BIG, BIG - 1, -BIG - 1)
AMOUNTS = (1, 5, 100, 250, 1_000, 5_000)
CURRENCIES = ("USD", "USD", "USD", "EUR", "JPY", "KWD", "XXX", "usd")
LEGS = (
    "pin", "escrow-out", "escrow-in", "credit-out", "credit-in", "ownership", "settle", "notify", "submit", "send",
    "receive", "arrive",
)  # fmt: skip

# What a text field names, by the end of the field's name; the first that fits.
KINDS = (
    ("user_id", "user"),
    ("auction_id", "auction_id"),
    ("auction", "auction"),
    ("asset_id", "asset_id"),
    ("asset", "asset"),
    ("saga_id", "saga_id"),
    ("hold_id", "hold_id"),
    ("bid_id", "bid_id"),
    ("event_id", "event_id"),
    ("causation_id", "event_id"),
    ("page_token", "page_token"),
    ("currency", "currency"),
    ("cell", "cell"),
    ("peer", "cell"),
    ("orchestrator", "orchestrator"),
    ("leg", "leg"),
    ("region", "region"),
    ("email", "email"),
    ("endpoints", "endpoint"),
    ("code", "code"),
)
# And what `name` does, by a word in its message's name.
NAMES = (("Asset", "asset"), ("Auction", "auction"), ("Cell", "orchestrator"), ("Contact", "person"))
# Of these there are always the same.
GIVEN: dict[str, tuple[str, ...]] = {
    "cell": (*CELLS, STRANGER),
    "orchestrator": (STRANGER,),
    "currency": CURRENCIES,
    "leg": LEGS,
    "region": ("us", "eu", "ap", ""),
    # Each gets a few mails a day that ask for a confirmation.
    "email": ("ann+x@people.test", *(f"ben.{number}@people.test" for number in range(200))),
    "person": ("Ann", "J. R. R. Tolkien", "王小明"),
    "code": ("ABCDEFGHIJ",),
    "endpoint": ("127.0.0.1:9", "[::1]:9"),
}
ANY_ID = ("user", "auction_id", "asset_id", "saga_id", "event_id", "command_id", "auction", "asset")


def kind_of(field: FieldDescriptor) -> str:
    """What `from_user_id` names is a "user"; "" where a field names nothing in particular."""
    if field.name == "name":
        message = field.containing_type.name if field.containing_type is not None else ""
        return next((kind for word, kind in NAMES if word in message), "")
    return next((kind for end, kind in KINDS if field.name.endswith(end)), "")


@dataclass(slots=True)
class Pool:
    """What there is, by kind: from answers, so that calls come after one another as those of real clients do."""

    rng: random.Random
    things: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, text: str) -> None:
        things = self.things[kind]
        if len(things) < POOL_MAX:
            things.append(text)
        else:
            things[self.rng.randrange(POOL_MAX)] = text

    def new_id(self) -> str:
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    def any(self, kind: str) -> str | None:
        things = GIVEN.get(kind) or self.things.get(kind)
        return self.rng.choice(things) if things else None

    def harvest(self, message: Message) -> None:
        """Takes up what an answer names."""
        for descriptor, value in message.ListFields():
            kind = kind_of(descriptor)
            for each in value if descriptor.is_repeated else (value,):
                if isinstance(each, Message):
                    self.harvest(each)
                elif isinstance(each, str) and kind and kind not in GIVEN:
                    self.add(kind, each)
                    if kind in {"auction", "asset"}:
                        self.add(f"{kind}_id", each.rpartition("/")[2])


@dataclass(slots=True)
class Maker:
    """`plausible` is how likely a field holds what it is meant to; 1: it always does."""

    rng: random.Random
    pool: Pool
    plausible: float = 1.0

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        made = GetMessageClass(descriptor)()
        chosen = {oneof.name: self.rng.choice(oneof.fields) for oneof in descriptor.oneofs}
        for each in descriptor.fields:
            rival = each.containing_oneof is not None and chosen[each.containing_oneof.name] is not each
            optional = depth >= DEPTH_MAX or (each.containing_oneof is None and self.rng.random() > self._set(each))
            if not rival and not optional:
                self._fill(made, each, depth)
        return made

    def _set(self, each: FieldDescriptor) -> float:
        """How likely a field is set at all. Paging and filters mostly are not."""
        seldom = each.name in {"as_of", "page_token", "filter", "expire_time_ms", "states", "note"}
        return 0.3 if seldom else 0.6 + 0.4 * self.plausible

    def _fill(self, made: Message, each: FieldDescriptor, depth: int) -> None:
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            self._fill_map(made, each.name, each.message_type, depth)
        elif each.is_repeated:
            values = [self._value(each, depth) for _ in range(self._count())]
            getattr(made, each.name).extend(values)
        elif each.message_type is not None:
            getattr(made, each.name).CopyFrom(self.message(each.message_type, depth + 1))
        else:
            setattr(made, each.name, self._value(each, depth))

    def _fill_map(self, made: Message, name: str, of: Descriptor, depth: int) -> None:
        mapping = getattr(made, name)
        for _ in range(self._count()):
            entry: Any = self.message(of, depth + 1)
            if isinstance(entry.value, Message):
                mapping[entry.key].CopyFrom(entry.value)
            else:
                mapping[entry.key] = entry.value

    def _count(self) -> int:
        return self.rng.choice((0, 1, 1, 2, 3))

    def _value(self, each: FieldDescriptor, depth: int) -> str | int | bool | bytes | float | Message:
        if each.message_type is not None:
            return self.message(each.message_type, depth + 1)
        if each.enum_type is not None:
            numbers = [value.number for value in each.enum_type.values]
            return self.rng.choice(numbers if self._good() else [99, -1, 2**31 - 1])
        match each.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if each.type == FieldDescriptor.TYPE_BYTES:
                return self.rng.randbytes(32 if self._good() else self.rng.choice((0, 1, 33, 300)))
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(each)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.rng.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self.rng.choice((0.0, -1.0, float("inf"), float("nan"), 1e-300))
            case _:
                return self._number(each)

    def _good(self) -> bool:
        return self.rng.random() < self.plausible

    def _text(self, each: FieldDescriptor) -> str:
        if not self._good():
            return self.rng.choice((*TEXTS, self.pool.new_id()))
        if each.name == "command_id":
            known = self.pool.any("command_id") if self.rng.random() < 0.15 else None
            fresh = known or self.pool.new_id()
            self.pool.add("command_id", fresh)
            return fresh
        kind = kind_of(each) or (self.rng.choice(ANY_ID) if each.name in {"subject", "aggregate_id"} else "")
        found = self.pool.any(kind) if kind else None
        return self.pool.new_id() if found is None else found

    def _number(self, each: FieldDescriptor) -> int:
        if not self._good():
            return self._edge(each)
        if each.name.endswith("amount_minor") or each.name.endswith("price_minor"):
            return self.rng.choice(AMOUNTS)
        if each.name.endswith("_time_ms") or each.name in {"time_ms", "valid_until_ms"}:
            return int(time.time() * 1_000) + self.rng.choice((200, 5_000, 3_600_000))
        if each.name == "settlement_timeout_ms":
            return self.rng.choice((0, 1_000, 60_000))
        return self.rng.choice((0, 1, 1, 2, 5, 100))

    def _edge(self, each: FieldDescriptor) -> int:
        bits = 32 if each.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32} else 64
        low = (
            0
            if each.cpp_type in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
            else -(2 ** (bits - 1))
        )
        return self.rng.choice([number for number in EDGES if low <= number < 2 ** (bits - 1)])


def texts_at(message: Message, path: str, change: Callable[[str], str]) -> None:
    """Puts another text where `path`, as a policy names it, leads."""
    name, _, rest = path.partition(".")
    if not rest:
        setattr(message, name, change(getattr(message, name)))
        return
    value = getattr(message, name)
    for inner in (value,) if isinstance(value, Message) else value:
        texts_at(inner, rest, change)
