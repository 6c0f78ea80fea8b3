"""The dataclass of all values: frozen for the type checker, at run time not.

An assignment to a field of a value does not pass `mypy --strict`, which every change has to. To forbid it at run time
as well makes `__init__` of a dataclass three times as slow (it must go round its own guard for each field), and a
command makes some twenty of them.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - what mypy follows through the import
else:

    def dataclass(*, frozen: bool = False, **options: Any) -> Callable[[type[T]], type[T]]:  # noqa: ANN401 - as given
        """As `dataclasses.dataclass`; what is to be frozen has the hash of a frozen one."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)
