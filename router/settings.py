"""The settings of the router process."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from router.directory.cells import CellEntry
from server.shell.settings.addresses import parse_address
from server.shell.settings.host import HostSettings

_CELL = re.compile(r"(?P<name>[a-z0-9-]{1,32})=(?P<region>[a-z0-9-]{1,32})=(?P<endpoints>.+)")
_EXPECTED = "name=region=host:port"


def _cells(value: object) -> object:
    """Reads a list of entries, or a text with commas between them."""
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise ValueError(f"expected a list of {_EXPECTED}")  # noqa: TRY004 - pydantic reports no TypeError
    cells = tuple(entry if isinstance(entry, CellEntry) else _cell(entry) for entry in entries if entry != "")
    _once_each("cell", (cell.name for cell in cells))
    _once_each("endpoint", (endpoint for cell in cells for endpoint in cell.endpoints))
    return cells


def _cell(entry: object) -> CellEntry:
    found = _CELL.fullmatch(entry.strip()) if isinstance(entry, str) else None
    if found is None:
        raise ValueError(f"{entry!r} is not {_EXPECTED}")
    try:
        endpoints = tuple(str(parse_address(text)) for text in found["endpoints"].split("+"))
    except ValueError as problem:
        raise ValueError(f"{entry!r}: {problem}") from None
    return CellEntry(name=found["name"], region=found["region"], endpoints=endpoints)


def _once_each(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value} is named twice")
        seen.add(value)


Cells = Annotated[tuple[CellEntry, ...], NoDecode, BeforeValidator(_cells)]


class RouterSettings(HostSettings):
    cells: Cells = Field(
        default=(),
        description=f"{_EXPECTED}[+host:port],... with an endpoint for each process of the cell; "
        "added to those that the directory has",
    )
    snapshot: Path | None = Field(
        default=None,
        description="file of the last known good copy of the directory, served while the database is away; "
        "unset: snapshot.db in data",
    )

    @property
    def snapshot_file(self) -> Path | None:
        """None: no location is configured."""
        return self.snapshot or (self.data / "snapshot.db" if self.data is not None else None)
