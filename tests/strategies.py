"""Values of any type that is stored, made from its type hints: a new event or field is tried without a word here."""

from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cells.domain.record import fields_of, is_record
from cells.encoding.schema import EXACT_INTEGER_MAX

Hint: TypeAlias = Any

# A busy machine is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
AMOUNT_MAX_MINOR = 2**63 - 1
# What UTF-8 and PostgreSQL can hold: no lone surrogates, no NUL. Everything that JSON escapes, and what is beyond
# the first 65,536 code points, comes often.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00") | st.sampled_from('"\\/\b\f\n\r\t\x1f\x7f\u2028😀é')
)
AMOUNTS = st.integers(-AMOUNT_MAX_MINOR, AMOUNT_MAX_MINOR)
INTEGERS = st.integers(-EXACT_INTEGER_MAX, EXACT_INTEGER_MAX)


@cache
def values(hint: Hint, *, minor: bool = False) -> st.SearchStrategy[Any]:
    """Values of the type `hint`; `minor`: the integers in it are amounts. Made once: tests ask for each example."""
    origin: Any = get_origin(hint)
    if origin in {Union, UnionType}:
        return st.one_of([values(member, minor=minor) for member in get_args(hint)])
    if origin is dict:
        key, value = get_args(hint)
        return st.dictionaries(values(key), values(value, minor=minor), max_size=4)
    if origin is tuple:
        return st.lists(values(get_args(hint)[0], minor=minor), max_size=4).map(tuple)
    if isinstance(hint, type) and is_record(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{name: values(hints[name], minor=name.endswith("_minor")) for name in fields_of(hint)})
    return _scalars(hint, minor=minor)


def _scalars(hint: Hint, *, minor: bool) -> st.SearchStrategy[Any]:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    known: dict[Hint, st.SearchStrategy[Any]] = {
        int: AMOUNTS if minor else INTEGERS,
        str: TEXT,
        bool: st.booleans(),
        UUID: st.uuids(),
        NoneType: st.none(),
    }
    return known[hint]
