"""Converts messages to values and back, field by field, by their names.

A field is declared in the message and in the value, and nothing repeats it. Into a value, the field's bound
(server/shell/fields/bounds.py) says how it is checked, and the annotation there what it becomes; into a message, its
descriptor says how it is written. The caller gives fields that need more than that.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from functools import cache, partial
from inspect import signature
from types import NoneType
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cellbook.v1 import types_pb2
from cells.domain.record import is_record
from cells.domain.time.hlc import Stamp
from cells.domain.values import Money
from cells.encoding.codec import from_microseconds, microseconds
from cells.requests import Outcome
from cells.uuids import uuid_from
from server.shell.fields import bounds
from server.shell.fields.bounds import (
    Bytes,
    Items,
    Number,
    Text,
    bound_of,
    bytes_in,
    invalid,
    items_in,
    number_in,
    text_in,
)
from server.shell.fields.parse import parse_cell, parse_new_user, parse_optional_uuid, parse_uuid
from server.wire import fields

V = TypeVar("V")
M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[..., Any])
# An annotation.
Hint: TypeAlias = Any
# The descriptors of a message and its fields; there are classes for each implementation of protobuf.
Fields: TypeAlias = Any
Field: TypeAlias = Any
# The content of a field.
Content: TypeAlias = Any
# From a field's content, and its name in refusals, to the checked and converted value. Raises Invalid.
Check = Callable[[Any, str], Any]

# Where a message has the columns of the store's rows.
ALIASES = {
    "hlc_physical": "hlc.physical_ms",
    "hlc_logical": "hlc.logical",
    "payload": "payload_json",
    "metadata": "metadata_json",
    "outcome": "outcome_json",
    "recorded_at": "recorded_at_us",
}
_COLUMNS = {path: name for name, path in ALIASES.items()}


def _once(make: F) -> F:
    """Keeps what was made for each combination of arguments."""
    return cast("F", cache(make))


# --- from messages ----------------------------------------------------------------------------------------------------


def parse(kind: type[V], message: Message, field: str = "", /, **given: object) -> V:
    """The value in a request, of which the caller gives some fields. `field` is the message's own place in the request.

    Raises:
        Invalid: a field is not within its bound.
        TypeError: the message lacks a field that has no default, which is a bug.
    """
    value: V = parser(kind, type(message), field, *given)(message, **given)
    return value


def parse_reply(kind: type[V], message: Message, /, **given: object) -> V:
    """The value in an answer, whose fields have no bounds. Raises ValueError for content that no cell sends."""
    value: V = _reply_parser(kind, type(message), *given)(message, **given)
    return value


@_once
def parser(kind: type[V], message: type[Message], field: str = "", /, *given: str) -> Callable[..., V]:
    """The function that `parse` calls: it takes a message and, by their names, the given fields."""
    return _parser(kind, message, field, given, _check)


@_once
def _reply_parser(kind: type[V], message: type[Message], /, *given: str) -> Callable[..., V]:
    return _parser(kind, message, "", given, lambda hint, _: _conversion(hint))


def _parser(
    kind: type[V],
    message: type[Message],
    field: str,
    given: tuple[str, ...],
    check_of: Callable[[Hint, Field], Check],
) -> Callable[..., V]:
    hints, declared = get_type_hints(kind), message.DESCRIPTOR.fields_by_name
    names, arguments = {"kind": kind, "parse_name": fields.parse_name}, list[str]()
    for name, parameter in signature(kind).parameters.items():
        path = _path(name, declared) if name not in given else None
        resource, _, part = name.rpartition("_")
        if path is not None:
            found, known_as = _declared(path, message), f"check_{name}"
            names[known_as] = check_of(hints[name], found)
            argument = f"{known_as}(message.{path}, {f'{field}.{path}' if field else path!r})"
            if found.has_presence and NoneType in get_args(hints[name]):
                argument = f"{argument} if message.HasField({path!r}) else None"
            arguments.append(f"{name}={argument}")
        elif name not in given and resource in declared and f"{resource}_cell" in hints and part in {"id", "cell"}:
            # The name of a resource says both; it is parsed once, for the id, which stands first.
            parsed = f"({resource} := parse_name(message.{resource}, {resource!r}, {f'{resource}s'!r}))"
            arguments.append(f"{name}={parsed if part == 'id' else resource}.{part}")
        elif name not in given and parameter.default is parameter.empty:
            raise TypeError(f"{message.DESCRIPTOR.name} has no field for {kind.__name__}.{name}")
    # Made once, because it runs for every bid. Only names of fields go into the source.
    source = f"lambda message, **given: kind({', '.join([*arguments, '**given'])})"
    made: Callable[..., V] = eval(source if given else source.replace("**given", ""), names)  # noqa: S307
    return made


def _path(name: str, declared: Mapping[str, Any]) -> str | None:
    """Where a message has a value's field. The id of a person says so: `bidder_id` is `bidder_user_id`."""
    for path in (name, ALIASES.get(name, name), f"{name.removesuffix('_id')}_user_id"):
        if path.partition(".")[0] in declared:
            return path
    return None


def _declared(path: str, message: type[Message]) -> Field:
    outer, _, inner = path.partition(".")
    found = message.DESCRIPTOR.fields_by_name[outer]
    return found.message_type.fields_by_name[inner] if inner and found.message_type is not None else found


def _check(hint: Hint, declared: Field) -> Check:
    """How a field of a request is checked and converted."""
    owner = declared.containing_type
    bound = bound_of(owner.name if owner is not None else "", declared.name)
    if isinstance(bound, Items):
        each = _check_of(get_args(hint)[0], declared, bound.each)
        made: Hint = get_origin(hint)
        into = made if made in {tuple, frozenset} else list
        return partial(_items, bound=bound, each=each, into=into)
    return _check_of(hint, declared, bound)


def _check_of(hint: Hint, declared: Field, bound: bounds.Bound | None) -> Check:
    kind = _bare(hint)
    if declared.enum_type is not None:
        return partial(parse_enum, members(declared.enum_type, kind))
    if declared.message_type is not None:
        return _MESSAGES.get(kind) or partial(parse, kind)
    if bound in _CHECKS:
        return _CHECKS[bound]
    if isinstance(bound, Number):
        if kind is datetime:
            return lambda value, field: from_microseconds(number_in(value, field, bound))
        if kind is not hint:
            return lambda value, field: number_in(value, field, bound) or None
        return partial(number_in, bound=bound)
    if isinstance(bound, Text):
        return partial(text_in, bound=bound)
    if isinstance(bound, Bytes):
        return partial(bytes_in, bound=bound)
    return _as_it_is


_MESSAGES: dict[Hint, Check] = {Money: fields.parse_money, Stamp: fields.parse_stamp}
_CHECKS: dict[bounds.Bound | None, Check] = {
    bounds.UUID: parse_uuid,
    bounds.OPTIONAL_UUID: parse_optional_uuid,
    bounds.NEW_USER: parse_new_user,
    bounds.CELL: parse_cell,
    bounds.CELL._replace(may_be_empty=True): fields.parse_optional_cell,
    bounds.REGION._replace(may_be_empty=True): bounds.region_in,
    bounds.CURRENCY: fields.parse_currency,
    bounds.AMOUNT: fields.parse_amount,
    bounds.AUCTION: fields.parse_auction_name,
    bounds.JSON: fields.parse_json,
}


def _items(content: Content, field: str, *, bound: Items, each: Check, into: type[Any]) -> Content:
    items_in(content, field, bound)
    return into(each(item, field) for item in content)


def parse_enum(members: Mapping[int, V], value: int, field: str) -> V:
    if value == 0:
        raise invalid(field, "is missing")
    if value not in members:
        raise invalid(field, "is not a value known here", value)
    return members[value]


def _conversion(hint: Hint) -> Check:
    """How a field of an answer is converted."""
    kind = _bare(hint)
    if kind is UUID:
        return lambda text, _: uuid_from(text) if text or kind is hint else None
    if kind is datetime:
        return lambda passed_us, _: from_microseconds(passed_us)
    if kind in {Stamp, Money}:
        return lambda message, _: parse_reply(kind, message)
    return _as_it_is


def _bare(hint: Hint) -> Hint:
    """The annotation without `| None`."""
    return next((each for each in get_args(hint) if NoneType in get_args(hint) and each is not NoneType), hint)


def _as_it_is(value: object, _field: str) -> object:
    return value


# --- into messages ----------------------------------------------------------------------------------------------------


def to_proto(kind: type[M], source: object = None, /, **given: object) -> M:
    """The message about `source`, of which the caller gives some fields.

    Raises:
        TypeError: neither has a field of the message, which is a bug.
    """
    message = kind()
    writer(kind, type(source), *given)(message, source, given)
    return message


def answered(kind: type[M], outcome: Outcome, /, **given: object) -> M:
    """The answer to an accepted command: its receipt, and what its result says."""
    message = kind()
    answer_writer(kind, *given)(message, outcome, given)
    return message


@_once
def answer_writer(kind: type[Message], /, *given: str) -> Callable[[Any, Outcome, Mapping[str, Any]], None]:
    """The function that writes such an answer, into a message where it stands."""
    put_receipt, names = writer(types_pb2.CommandReceipt, Outcome), ("receipt", *given)

    def write(message: Content, outcome: Outcome, given: Mapping[str, Any]) -> None:
        put_receipt(message.receipt, outcome, {})
        writer(kind, type(outcome.result), *names)(message, outcome.result, given)

    return write


@_once
def writer(message: type[Message], source: type[Any], /, *given: str) -> Callable[[Any, Any, Mapping[str, Any]], None]:
    """The function that writes a value of that type, and the given fields, into a message."""
    names: dict[str, Any] = {"put_message": _put_message, "put_messages": _put_messages, "number": _number}
    lines = list(_lines(message.DESCRIPTOR, "message", source, "source", names, given=given))
    body = "\n    ".join(["pass", *lines])
    # As for parsers. A message is written where it stands: one that is passed to another message is copied each time.
    exec(f"def write(message, source, given):\n    {body}\n", names)  # noqa: S102
    made: Callable[[Any, Any, Mapping[str, Any]], None] = names["write"]
    return made


def _lines(
    message: Fields, target: str, kind: type[Any], value: str, names: dict[str, Any], *, given: tuple[str, ...] = ()
) -> Iterator[str]:
    """The statements that write all fields of a message from `value`, an expression of that type."""
    unknown = set(given) - set(message.fields_by_name)
    if unknown:
        raise TypeError(f"{message.name} has no {', '.join(unknown)}")
    for name, declared in message.fields_by_name.items():
        choice = declared.containing_oneof
        # The other choices. An optional field is a choice of one, whose name begins with "_".
        if choice is not None and not choice.name.startswith("_") and name not in given and not hasattr(kind, name):
            continue
        content, hint = (f"given.get({name!r})", Any) if name in given else _content(declared, kind, value)
        optional = hint is Any or NoneType in get_args(hint)
        if optional:
            known_as = f"{value}_{name}".replace(".", "_")
            yield f"{known_as} = {content}"
            yield f"if {known_as} is not None:"
            content = known_as
        written = _written(declared, target, content, _bare(hint), names)
        yield from (f"    {line}" for line in written) if optional else written


def _content(declared: Field, kind: type[Any], value: str) -> tuple[str, Any]:
    """The expression for a field's content, and its type."""
    name, inner = declared.name, declared.message_type
    for attribute in (name, _COLUMNS.get(name, name), name.replace("_user_id", "_id")):
        if hasattr(kind, attribute):
            return f"{value}.{attribute}", get_type_hints(kind).get(attribute, Any)
    # `amount` of a hold is its `currency` and `amount_minor`.
    if inner is not None and not declared.is_repeated and all(hasattr(kind, part) for part in inner.fields_by_name):
        return value, kind
    raise TypeError(f"{kind.__name__} has no {name} for {declared.full_name}")


def _written(declared: Field, target: str, content: str, kind: Hint, names: dict[str, Any]) -> Iterator[str]:
    """The statements that write one field. `kind`: Any, if it is not known before."""
    name, inner = declared.name, declared.message_type
    place = f"{target}.{name}"
    if inner is not None and inner.GetOptions().map_entry:
        yield f"{place}.update({content})"
    elif inner is not None and declared.is_repeated:
        yield f"put_messages({place}, {content})"
    elif inner is not None and is_record(kind):
        below = f"{target}_{name}"
        yield f"{below} = {place}"
        lines = list(_lines(inner, below, kind, content, names))
        if not any(line.startswith(f"{below}.") for line in lines):
            yield f"{below}.SetInParent()"
        yield from lines
    elif inner is not None:
        yield f"put_message({place}, {content})"
    elif declared.is_repeated:
        yield f"{place}.extend({_scalar(declared, 'each', Any, names)} for each in {content})"
    else:
        yield f"{place} = {_scalar(declared, content, kind, names)}"


def _scalar(declared: Field, content: str, kind: Hint, names: dict[str, Any]) -> str:
    if declared.enum_type is not None:
        names[declared.enum_type.name] = _numbers(declared.enum_type)
        return f"{declared.enum_type.name}[getattr({content}, 'name', {content})]"
    if declared.type == FieldDescriptor.TYPE_STRING:
        return content if kind is str else f"str({content})"
    if declared.type in {FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_BOOL} or kind is int:
        return content
    return f"int({content})" if kind is str else f"number({content})"


def _number(value: Content) -> int:
    return microseconds(value) if isinstance(value, datetime) else int(value)


def _put_message(place: Content, value: Content) -> None:
    if isinstance(value, Message):
        place.CopyFrom(value)
    else:
        place.SetInParent()
        writer(type(place), type(value))(place, value, {})


def _put_messages(place: Content, values: Iterable[Content]) -> None:
    for value in values:
        if isinstance(value, Message):
            place.append(value)
        else:
            _put_message(place.add(), value)


# --- enums ------------------------------------------------------------------------------------------------------------


def _numbers(declared: Field) -> dict[str, int]:
    """Name -> number, without the prefix that all names of an enum have: "ACTIVE" of AUCTION_STATE_ACTIVE."""
    prefix = next(name for name, value in declared.values_by_name.items() if value.number == 0)
    prefix = prefix.removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix): value.number for name, value in declared.values_by_name.items() if value.number}


def members(declared: Field, kind: Hint) -> dict[int, Any]:
    """Raises KeyError if the domain has no such member."""
    return {number: kind[name] if issubclass(kind, Enum) else name for name, number in _numbers(declared).items()}
