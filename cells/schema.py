"""Dataclasses to canonical JSON and back, compiled once per class from its type hints.

A field whose name ends in `_minor` is written as a decimal string: JSON numbers past 2^53 do not survive in other
languages. Any other integer must stay within that. No floats.
"""

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

Json = Any
Encoder = Callable[[Any], Json]
Decoder = Callable[[Json], Any]

EXACT_INTEGER_MAX = 2**53
TAG = "type"

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Unencodable(ValueError):
    """A value that the canonical form has no place for."""


def type_tag(kind: type[Any]) -> str:
    """How a member of a union of dataclasses is told apart: its class name in upper snake case."""
    return _WORD.sub("_", kind.__name__).upper()


@cache
def encoder(hint: Any, *, minor: bool = False) -> Encoder:
    """A function from a value of type `hint` to JSON values."""
    if _is_union(hint):
        return _union_encoder(hint, minor=minor)
    if get_origin(hint) is dict:
        value = encoder(get_args(hint)[1], minor=minor)
        return lambda mapping: {str(key): value(each) for key, each in mapping.items()}
    if get_origin(hint) is tuple:
        item = encoder(get_args(hint)[0])
        return lambda items: [item(each) for each in items]
    if is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_encoder(hint)
    return _scalar_encoder(hint, minor=minor)


@cache
def decoder(hint: Any, *, minor: bool = False) -> Decoder:
    """The way back. Raises KeyError, TypeError or ValueError on what does not fit."""
    if _is_union(hint):
        return _union_decoder(hint, minor=minor)
    if get_origin(hint) is dict:
        key, value = decoder(get_args(hint)[0]), decoder(get_args(hint)[1], minor=minor)
        return lambda mapping: {key(name): value(each) for name, each in mapping.items()}
    if get_origin(hint) is tuple:
        item = decoder(get_args(hint)[0])
        return lambda items: tuple(item(each) for each in items)
    if is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_decoder(hint)
    if hint is UUID or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        return hint
    if hint is int and minor:
        return int
    return _same


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in {Union, UnionType}


def _members(hint: Any) -> list[Any]:
    return [member for member in get_args(hint) if member is not NoneType]


def _union_encoder(hint: Any, *, minor: bool) -> Encoder:
    members = _members(hint)
    if len(members) == 1:
        one = encoder(members[0], minor=minor)
        return lambda value: None if value is None else one(value)
    encoders = {member: (type_tag(member), encoder(member)) for member in members}

    def encode(value: Any) -> Json:
        if value is None:
            return None
        tag, of_member = encoders[type(value)]
        return {TAG: tag, **of_member(value)}

    return encode


def _union_decoder(hint: Any, *, minor: bool) -> Decoder:
    members = _members(hint)
    if len(members) == 1:
        one = decoder(members[0], minor=minor)
        return lambda value: None if value is None else one(value)
    decoders = {type_tag(member): decoder(member) for member in members}
    return lambda value: None if value is None else decoders[value[TAG]](value)


def _dataclass_encoder(hint: type[Any]) -> Encoder:
    parts = [(name, encoder(of, minor=minor)) for name, of, minor in _fields(hint)]
    return lambda value: {name: encode(getattr(value, name)) for name, encode in parts}


def _dataclass_decoder(hint: type[Any]) -> Decoder:
    parts = [(name, decoder(of, minor=minor)) for name, of, minor in _fields(hint)]
    return lambda value: hint(**{name: decode(value[name]) for name, decode in parts})


def _fields(hint: type[Any]) -> list[tuple[str, Any, bool]]:
    hints = get_type_hints(hint)
    return [(each.name, hints[each.name], each.name.endswith("_minor")) for each in fields(hint)]


def _scalar_encoder(hint: Any, *, minor: bool) -> Encoder:
    if hint is UUID or (hint is int and minor):
        return str
    if hint is int:
        return _exact_integer
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return lambda member: member.value
    if hint in {str, bool}:
        return _same
    raise Unencodable(f"{hint} has no canonical form")


def _exact_integer(value: int) -> int:
    if not -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX:
        raise Unencodable(f"{value} does not survive as a JSON number: name the field *_minor")
    return value


def _same(value: Any) -> Any:
    return value
