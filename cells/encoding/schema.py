"""Converts records to canonical JSON text and back, compiled once per class from its type hints.

docs/log-format.md defines the form. A field whose name ends in `_minor` is written as a decimal string, because other
languages do not preserve JSON numbers past 2^53. Any other integer must stay within that. No floats. A value that does
not fit its type hint is refused both ways: a log that was written wrong would stay wrong forever.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from json.encoder import encode_basestring
from types import EllipsisType, NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

from cells.domain.record import fields_of, is_record
from cells.uuids import uuid_from

# A type hint at run time, a value of that type, and the result of json.loads: anything.
Hint = Any
Value = Any
Json = Any
Encoder = Callable[[Value], str]
Decoder = Callable[[Json], Value]

EXACT_INTEGER_MAX = 2**53
TAG = "type"

_WORD = re.compile(r"(?<!^)(?=[A-Z])")

# A JSON string with only the necessary escapes, and never \u for a character that UTF-8 can encode.
quoted = encode_basestring


class Unencodable(ValueError):
    """The canonical form has no representation for the value or type."""


def type_tag(kind: type[Any]) -> str:
    """The tag of a member of a union of records: its class name in upper snake case."""
    return _WORD.sub("_", kind.__name__).upper()


@cache
def encoder(hint: Hint, *, minor: bool = False) -> Encoder:
    """A function from a value of type `hint` to its canonical text. `minor`: it holds amounts."""
    origin: Any = get_origin(hint)
    if origin in {Union, UnionType}:
        return _union_encoder(hint, minor=minor)
    if origin is dict:
        key, value = get_args(hint)
        return _mapping_encoder(encoder(key), encoder(value, minor=minor))
    if origin is tuple:
        item = encoder(_item(hint), minor=minor)
        return lambda items: f"[{','.join(map(item, items))}]" if items else "[]"
    if _is_record(hint):
        return _compiled(hint)
    return _scalar_encoder(hint, minor=minor)


@cache
def record_encoder(hint: Hint, extra: str) -> Callable[[Any, str], str]:
    """As `encoder` of a record, with one more key, `extra`, whose text is passed with each value."""
    if any(name == extra for name, _, _ in parts(hint)):
        raise Unencodable(f"{hint.__name__} has a field of the reserved name {extra!r}")
    return _compiled(hint, extra)


@cache
def decoder(hint: Hint, *, minor: bool = False) -> Decoder:
    """The inverse, from the result of json.loads.

    Raises:
        KeyError, TypeError, ValueError: the content does not fit the type.
    """
    origin: Any = get_origin(hint)
    if origin in {Union, UnionType}:
        return _union_decoder(hint, minor=minor)
    if origin is dict:
        key, value = decoder(get_args(hint)[0]), decoder(get_args(hint)[1], minor=minor)
        return lambda mapping: {key(name): value(each) for name, each in mapping.items()}
    if origin is tuple:
        item = decoder(_item(hint), minor=minor)
        return lambda items: tuple(map(item, items))
    if _is_record(hint):
        return _compiled_decoder(hint)
    return _scalar_decoder(hint, minor=minor)


# --- records: structs, dataclasses and named tuples -------------------------------------------------------------------


def _is_record(hint: Hint) -> bool:
    return isinstance(hint, type) and is_record(hint)


def parts(hint: Hint) -> list[tuple[str, Hint, bool]]:
    """Name, type and whether it is an amount, for each field, in the order of the canonical form."""
    hints = get_type_hints(hint)
    return [(name, hints[name], name.endswith("_minor")) for name in sorted(fields_of(hint))]


def _compiled(hint: Hint, extra: str = "") -> Callable[..., str]:
    """One f-string with a place for each field, compiled as `dataclasses` compiles an `__init__`.

    A loop over the fields would take twice as long, and this runs for every event and every state.
    """
    fields, added = parts(hint), added_fields(hint)
    places = {name: _place(name, of, minor=minor) for name, of, minor in fields}
    if extra:
        places[extra] = "{extra}"
    body = "".join(
        _pair(name, places[name], left_out=name in added, first=not n) for n, name in enumerate(sorted(places))
    )
    encoders: dict[str, Any] = {f"text_of_{name}": encoder(of, minor=minor) for name, of, minor in fields}
    encoders |= {f"added_{name}": value for name, value in added.items()}
    # Only field names go into the source.
    source = f"lambda value, extra='': f'''{{{{{body}}}}}'''"
    return cast("Callable[..., str]", eval(source, encoders))  # noqa: S307


def _compiled_decoder(hint: Hint) -> Decoder:
    """One call with a keyword per field, compiled for the same reason: a replay runs it for every event."""
    fields, added = parts(hint), added_fields(hint)
    decoders: dict[str, Any] = {f"read_{name}": decoder(of, minor=minor) for name, of, minor in fields}
    decoders |= {f"added_{name}": value for name, value in added.items()}
    arguments = ",".join(f"{name}={_read(name, added=name in added)}" for name, _, _ in fields)
    source = f"lambda content: hint({arguments})"
    return cast("Decoder", eval(source, {**decoders, "hint": hint}))  # noqa: S307


def added_fields(hint: Hint) -> Mapping[str, Any]:
    """Fields added after values of the type were first stored, and their values if they are absent.

    A field with that value is not written, so old values and equal new ones have the same bytes.
    """
    added: Mapping[str, Any] = getattr(hint, "ADDED", {})
    return added


def _pair(name: str, place: str, *, left_out: bool, first: bool) -> str:
    """A field's key and value in the f-string, with the comma before it."""
    if not left_out:
        return f"{'' if first else ','}{quoted(name)}:{place}"
    if first:
        raise Unencodable(f"{name}: what may be left out cannot be the first field")
    return f"{{'' if value.{name} == added_{name} else ',{quoted(name)}:' + text_of_{name}(value.{name})}}"


def _read(name: str, *, added: bool) -> str:
    found = f"read_{name}(content[{name!r}])"
    return f"{found} if {name!r} in content else added_{name}" if added else found


def _place(name: str, of: Hint, *, minor: bool) -> str:
    """The expression for a field in the f-string. Frequent types need no call: calls were half of the work."""
    value, encoded = f"value.{name}", f"text_of_{name}(value.{name})"
    if of is UUID:
        return f'"{{{value}!s}}"'
    if of == UUID | None:
        return f"""{{"null" if {value} is None else f'"{{{value}!s}}"'}}"""
    if NoneType in get_args(of):
        return f"""{{"null" if {value} is None else {encoded}}}"""
    if of is int and minor:
        # Other values than ints are left to the encoder, which refuses them.
        return f'"{{{value} if type({value}) is int else {encoded}}}"'
    if of is int:
        exact = f"type({value}) is int and {-EXACT_INTEGER_MAX} <= {value} <= {EXACT_INTEGER_MAX}"
        return f"{{{value} if {exact} else {encoded}}}"
    return f"{{{encoded}}}"


# --- unions, mappings, sequences --------------------------------------------------------------------------


def _members(hint: Hint) -> list[Hint]:
    members = [member for member in get_args(hint) if member is not NoneType]
    if len(members) > 1 and not all(_is_record(member) for member in members):
        raise Unencodable(f"{hint}: only records can be told apart by their tag")
    return members


def _union_encoder(hint: Hint, *, minor: bool) -> Encoder:
    members = _members(hint)
    if len(members) == 1:
        one = encoder(members[0], minor=minor)
        return lambda value: "null" if value is None else one(value)
    encoders = {member: (record_encoder(member, TAG), quoted(type_tag(member))) for member in members}

    def encode(value: Value) -> str:
        if value is None and NoneType in get_args(hint):
            return "null"
        of_member, tag = encoders[type(value)]
        return of_member(value, tag)

    return encode


def _union_decoder(hint: Hint, *, minor: bool) -> Decoder:
    members = _members(hint)
    if len(members) == 1:
        one = decoder(members[0], minor=minor)
        return lambda content: None if content is None else one(content)
    decoders = {type_tag(member): decoder(member) for member in members}

    def decode(content: Json) -> Value:
        if content is None and NoneType in get_args(hint):
            return None
        return decoders[content[TAG]](content)

    return decode


def _mapping_encoder(key_text: Encoder, value_text: Encoder) -> Encoder:
    def encode(mapping: dict[Any, Any]) -> str:
        if not mapping:
            return "{}"
        if len(mapping) == 1:
            ((key, value),) = mapping.items()
            return f"{{{key_text(key)}:{value_text(value)}}}"
        # By the key itself: escapes and the closing quote sort differently.
        items = sorted(mapping.items(), key=_by_key_text)
        return "{" + ",".join([f"{key_text(key)}:{value_text(value)}" for key, value in items]) + "}"

    return encode


def _by_key_text(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _item(hint: Hint) -> Hint:
    match get_args(hint):
        case (item, EllipsisType()):
            return item
        case _:
            raise Unencodable(f"{hint}: write tuple[X, ...], or name the parts in a record")


# --- scalars ----------------------------------------------------------------------------------------------


def _scalar_encoder(hint: Hint, *, minor: bool) -> Encoder:
    if hint is int:
        return amount if minor else _exact_integer
    if hint is str:
        return quoted
    if hint is UUID:
        return lambda value: f'"{value!s}"'
    if hint is bool:
        return _boolean
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {member: quoted(member.value) for member in hint}.__getitem__
    raise Unencodable(f"{hint} has no canonical form")


def _exact_integer(value: int) -> str:
    if type(value) is not int or not -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX:
        raise Unencodable(f"{value!r} does not survive as a JSON integer: name an amount *_minor")
    return str(value)


def amount(value: int) -> str:
    """Minor units, as a decimal string."""
    if type(value) is not int:
        raise Unencodable(f"{value!r} is no amount in minor units")
    return f'"{value}"'


def _boolean(value: Value) -> str:
    if type(value) is not bool:
        raise Unencodable(f"{value!r} is no boolean")
    return "true" if value else "false"


def _scalar_decoder(hint: Hint, *, minor: bool) -> Decoder:
    if hint is int and minor:
        return amount_from
    if hint is UUID:
        return uuid_from
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint

    def exactly(value: Json) -> Value:
        # Not isinstance: true is no integer.
        if type(value) is not hint:
            raise TypeError(f"{value!r} is not of type {hint.__name__}")
        return value

    return exactly


def amount_from(text: Json) -> int:
    value = int(text)
    if str(value) != text:
        raise ValueError(f"{text!r} is no amount in canonical form")
    return value
