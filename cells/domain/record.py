"""The dataclass of all values, and `replace` for it: frozen for the type checker, at run time not.

An assignment to a field of a value does not pass `mypy --strict`, which every change has to. To forbid it at run time
as well makes `__init__` of a dataclass three times as slow (it must go round its own guard for each field), and a
command makes some twenty of them.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
        """As `dataclasses.replace`, in a fifth of the time: a copy, of which the changed fields are set."""
        copied: T = _copier(type(value))(value)
        for name, changed in changes.items():
            setattr(copied, name, changed)
        return copied


@cache
def _copier(kind: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - any dataclass
    """A function that copies a value field by field, compiled as `dataclasses` compiles an `__init__`."""
    fields = "".join(f"    copied.{field.name} = value.{field.name}\n" for field in dataclasses.fields(kind))
    made: dict[str, Any] = {"empty": object.__new__, "kind": kind}
    # Nothing but the names of fields goes into the source.
    exec(f"def copy(value):\n    copied = empty(kind)\n{fields}    return copied\n", made)  # noqa: S102
    return cast("Callable[[Any], Any]", made["copy"])
