"""docs/bounds.md: the bound of each field of each request, from the table.

Also values beyond a bound, for tests.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cellbook.v1 import settlement_pb2, types_pb2
from server.shell.fields.bounds import Bytes, Form, Items, NotRead, Number, Text, bound_of
from tests.roles import rpcs

INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
}
ID = "00000000-0000-0000-0000-00000000000a"
GOOD = {"currency": "USD", "auction": f"cells/us-east/auctions/{ID}"}


def messages() -> Iterator[Descriptor]:
    """All messages in requests, each once."""
    waiting, seen = [rpc.input_type for rpc in rpcs()], set[str]()
    while waiting:
        message = waiting.pop(0)
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        yield message
        inner = [field.message_type for field in message.fields if not is_map(field)]
        waiting += [each for each in inner if each is not None]


def is_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not is_map(field)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def needs_bound(field: FieldDescriptor) -> bool:
    """Every field except enums, booleans, and messages, whose fields have bounds themselves."""
    if field.is_repeated:
        return True
    return not is_message(field) and field.enum_type is None and field.type != FieldDescriptor.TYPE_BOOL


def fields() -> Iterator[FieldDescriptor]:
    for message in messages():
        yield from (field for field in message.fields if needs_bound(field))


def owner(field: FieldDescriptor) -> str:
    """The name of the message that it is a field of."""
    return field.containing_type.name if field.containing_type is not None else ""


def table() -> str:
    lines = ["| message | field | bound |", "|---|---|---|"]
    for field in fields():
        name = owner(field)
        lines.append(f"| `{name}` | `{field.name}` | {bound_of(name, field.name)} |")
    return "\n".join(lines) + "\n"


def beyond(field: FieldDescriptor) -> Iterator[object]:
    """Values that the field's bound refuses; for a repeated field, lists."""
    match bound_of(owner(field), field.name):
        case Number() as bound if field.cpp_type in INTEGERS:
            least, most = INTEGERS[field.cpp_type]
            edges = (int(bound.least) - 1, -1, least, int(bound.most) + 1, most)
            yield from (each for each in dict.fromkeys(edges) if least <= each <= most and not bound.takes(each))
        case Number() as bound:
            yield from (-1.0, bound.most + 1, float("nan"), float("inf"))
        case Text() as bound:
            yield from ("x" * (bound.most + 1), "a\x1bb", "a\u202eb", "a\x00", "e\u0301")
            yield from [""] * (bound.least > 0) + [" a", "a\u200db"] * bound.identifier
        case Form() as bound:
            yield from ("x" * 5_000, "a\x1bb", "\u202e")
            yield from [] if bound.may_be_empty else [""]
        case Bytes() as bound:
            yield from (bytes(bound.length - 1), bytes(bound.length + 1), *([] if bound.may_be_empty else [b""]))
        case Items() as bound:
            yield from items_beyond(field, bound)
        case NotRead() | None:
            pass


def items_beyond(field: FieldDescriptor, bound: Items) -> Iterator[object]:
    if field.type == FieldDescriptor.TYPE_STRING:
        yield [f"{ID[:-6]}{number:06x}" for number in range(bound.most + 1)]
        yield ["a\x1bb"]
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield [bytes(32)] * (bound.most + 1)
        yield [b""]
    elif field.enum_type is not None:
        yield [1] * (bound.most + 1)


def good_action(name: str, known: Mapping[str, str] = MappingProxyType({})) -> settlement_pb2.Leg:
    """A leg with the action of that name in which no field is wrong; `known`: texts of things that exist."""
    leg = settlement_pb2.Leg()
    action = getattr(leg, name)
    action.SetInParent()
    for field in action.DESCRIPTOR.fields:
        if field.is_repeated or (is_message(field) and field.message_type.name != "Money"):
            continue
        if is_message(field):
            getattr(action, field.name).MergeFrom(types_pb2.Money(currency="USD", amount_minor=5))
        elif field.type == FieldDescriptor.TYPE_STRING:
            text = "eu-west" if field.name.endswith("_cell") else ID
            setattr(action, field.name, {**GOOD, **known}.get(field.name, text))
        else:
            setattr(action, field.name, 1)
    return leg
