"""What every value is made of: a struct of msgspec, frozen, its fields given by name.

A command makes some twenty values. As a struct, one is made in a fifth of the time that a dataclass takes, and copied
with changes in a sixth. What msgspec can do besides, encode and decode, is not used: the form of what is stored is
fixed by docs/log-format.md, and made in cells/schema.py.
"""

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    # As it is for dataclasses: a type checker knows the names and types of what is changed.
    from dataclasses import replace
else:
    from msgspec.structs import replace

__all__ = ["Struct", "field", "fields_of", "is_record", "replace"]


def is_record(kind: type[Any]) -> bool:
    """Whether it has fields by name: a struct or a named tuple."""
    return hasattr(kind, "__struct_fields__") or hasattr(kind, "_fields")


def fields_of(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - a class of structs or of named tuples
    """Their names, in their order. Raises AttributeError where it has none."""
    names: tuple[str, ...] = kind.__struct_fields__ if hasattr(kind, "__struct_fields__") else kind._fields
    return names
