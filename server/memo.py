"""The last checkpoint that this process has signed, in a file beside its key: a restored database does not know it."""

import asyncio
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cells.audit.verify.note import Checkpoint, Malformed, VerifierKey, checkpoint_in

log = structlog.get_logger()

# A folder of secrets may be mounted so.
NOT_TO_BE_WRITTEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class MemoInvalid(Exception):
    """The file is not what it must be; the message says what to do."""


class LogShorter(Exception):
    """The database holds less than this cell has signed; the message says what to do."""


@dataclass(slots=True)
class FileMemo:
    path: Path
    key: VerifierKey
    _last: Checkpoint | None = field(default=None)
    _warned: bool = False

    def load(self) -> None:
        """To be called once, before `last`. Raises MemoInvalid."""
        try:
            self._last = checkpoint_in(self.path.read_text("utf-8"), [self.key])
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, Malformed) as error:
            raise MemoInvalid(
                f"{self.path}: not a checkpoint that the key beside it has signed ({error}): "
                "put the key back that belongs to it, or move the file away if the key was changed on purpose"
            ) from None

    def last(self) -> Checkpoint | None:
        return self._last

    async def keep(self, note: str) -> None:
        """Durably. Where the folder cannot be written to at all, it is said once, and there is no memo."""
        try:
            await asyncio.to_thread(self._write, note)
        except OSError as error:
            if error.errno not in NOT_TO_BE_WRITTEN:
                raise
            if not self._warned:
                log.warning("checkpoint_memo_not_kept", path=str(self.path), problem=str(error))
            self._warned = True
        self._last = checkpoint_in(note, [self.key])

    def _write(self, note: str) -> None:
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def check(self, position: int) -> None:
        """Raises LogShorter where the log, whose head is there, has lost what was signed."""
        if self._last is not None and self._last.size > position:
            raise LogShorter(
                f"the log of {self._last.origin} ends at position {position}, and this cell has signed its first "
                f"{self._last.size} events: this database is an older one. Put back a newer one; if there is none, "
                f"what is missing is lost: move {self.path} away to start without it"
            )
