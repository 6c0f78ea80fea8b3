"""The last checkpoint that a cell has signed, in a file outside the database, because a restored one lacks it."""

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path

from cells.audit.proofs.keys import origin_of
from cells.audit.verify.note import Checkpoint, Malformed, VerifierKey, checkpoint_in
from cells.domain.time.vector import CELL_NAME
from cells.store.unusable import CannotServe
from server.durable import write_durably

CELL_ORIGIN = re.compile(re.escape(origin_of("")) + CELL_NAME.pattern)


class CheckpointFileInvalid(CannotServe):
    """The file is not valid; the message says what to do."""


class LogShorter(CannotServe):
    """The database holds less than this cell has signed; the message says what to do."""


@dataclass(slots=True)
class CheckpointFile:
    """`old` is an earlier version's file, possibly of another cell: it is read besides `path`, never written."""

    path: Path
    key: VerifierKey
    old: Path | None = None
    _last: Checkpoint | None = field(default=None)

    def load(self) -> None:
        """Call this once, before `last`. Raises CheckpointFileInvalid."""
        found = [self._read(self.path)]
        if self.old is not None and not self._is_anothers(self.old):
            found.append(self._read(self.old))
        self._last = max((each for each in found if each is not None), key=lambda each: each.size, default=None)

    def last(self) -> Checkpoint | None:
        return self._last

    async def keep(self, note: str) -> None:
        """Writes it durably. Raises OSError."""
        await asyncio.to_thread(self._write, note)
        self._last = checkpoint_in(note, [self.key])

    def _is_anothers(self, path: Path) -> bool:
        """Decides by the name in its first line. A file without a name may be this cell's; `_read` then refuses it."""
        try:
            name = path.read_text("utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError):
            return False
        return CELL_ORIGIN.fullmatch(name) is not None and name != self.key.name

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            return checkpoint_in(path.read_text("utf-8"), [self.key])
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, Malformed) as error:
            raise CheckpointFileInvalid(
                f"{path}: not a checkpoint that this cell's key has signed ({error}): "
                "put the key back that belongs to it, or move the file away if the key was changed on purpose"
            ) from None

    def _write(self, note: str) -> None:
        write_durably(self.path, note.encode())

    def check(self, position: int) -> None:
        """Raises LogShorter if the log with this head has lost signed events."""
        if self._last is not None and self._last.size > position:
            raise LogShorter(
                f"the log of {self._last.origin} ends at position {position}, and this cell has signed its first "
                f"{self._last.size} events: this database is an older one. Put back a newer one; if there is none, "
                f"what is missing is lost: move {self._named()} away to start without it"
            )

    def _named(self) -> str:
        """The files that it was read from."""
        paths = [path for path in (self.path, self.old) if path is not None and path.exists()]
        return " and ".join(str(path) for path in paths if not self._is_anothers(path))
