"""The dataclass of all values, and `replace` for it: frozen for the type checker, at run time not.

An assignment to a field of a value does not pass `mypy --strict`, which every change has to. To forbid it at run time
as well makes `__init__` of a dataclass three times as slow (it must go round its own guard for each field), and a
command makes some twenty of them.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    # What mypy follows through the import, and knows the rules of.
    from dataclasses import dataclass as dataclass  # noqa: PLC0414
    from dataclasses import replace as replace  # noqa: PLC0414
else:

    def dataclass(*, frozen: bool = False, **options: Any) -> Callable[[type[T]], type[T]]:  # noqa: ANN401 - as given
        """As `dataclasses.dataclass`; what is to be frozen has the hash of a frozen one."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)

    def replace(value: T, **changes: object) -> T:
        """As `dataclasses.replace`, in a third of the time."""
        return type(value)(**(_contents(type(value))(value) | changes))


@cache
def _contents(kind: Any) -> Callable[[object], dict[str, object]]:  # noqa: ANN401 - any dataclass
    """A function that gives a value's fields by name."""
    contents = ",".join(f"{field.name!r}:value.{field.name}" for field in dataclasses.fields(kind))
    return eval(f"lambda value: {{{contents}}}")  # type: ignore[no-any-return]  # noqa: S307 - names of fields alone
