"""The base of every value: a frozen msgspec struct whose fields are given by name.

A command makes some twenty values. A struct is made in a fifth of the time of a dataclass, and copied with changes in a
sixth. msgspec's encoding is not used: docs/log-format.md defines the stored form, which cells/encoding/schema.py makes.
"""

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import asdict

if TYPE_CHECKING:
    # For the type checker, as for dataclasses: it knows the names and types of the changes.
    from dataclasses import replace
else:
    from msgspec.structs import replace

__all__ = ["Struct", "asdict", "field", "fields_of", "is_record", "made", "replace"]

# A named tuple of its fields' values, in a third of the time: its own constructor is Python.
made = tuple.__new__


def is_record(kind: type[Any]) -> bool:
    """Whether it has named fields: a struct or a named tuple."""
    return hasattr(kind, "__struct_fields__") or hasattr(kind, "_fields")


def fields_of(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - a class of structs or of named tuples
    """The names in order. Raises AttributeError if it has none."""
    names: tuple[str, ...] = kind.__struct_fields__ if hasattr(kind, "__struct_fields__") else kind._fields
    return names
