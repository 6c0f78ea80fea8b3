"""Signed checkpoints in files outside the database, because a restored database lacks them.

A cell keeps the last one that it has signed; a witness outside keeps the last one of each log, without which it would
sign any history.
"""

import asyncio
import fcntl
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cells.audit.proofs.ports import Witnessed
from cells.audit.verify.note import Checkpoint, Malformed, VerifierKey, checkpoint_in, origin_of, verifier_key
from cells.domain.time.vector import CELL_NAME
from cells.store.unusable import CannotServe
from server.shell.files import write_durably

CELL_ORIGIN = re.compile(re.escape(origin_of("")) + CELL_NAME.pattern)
FORM = "witness/1"


@dataclass(slots=True)
class CheckpointFile:
    """`old` is an earlier version's file, possibly of another cell: it is read besides `path`, never written."""

    path: Path
    key: VerifierKey
    old: Path | None = None
    _last: Checkpoint | None = None

    def load(self) -> None:
        """Call this once, before `last`. Raises CannotServe."""
        found = [self._read(self.path)]
        if self.old is not None and not self._is_anothers(self.old):
            found.append(self._read(self.old))
        self._last = max((each for each in found if each is not None), key=lambda each: each.size, default=None)

    def last(self) -> Checkpoint | None:
        return self._last

    async def keep(self, note: str) -> None:
        """Writes it durably. Raises OSError."""
        await asyncio.to_thread(write_durably, self.path, note.encode())
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
            raise CannotServe(
                f"{path}: not a checkpoint that this cell's key has signed ({error}): "
                "put the key back that belongs to it, or move the file away if the key was changed on purpose"
            ) from None

    def check(self, position: int) -> None:
        """Raises CannotServe if the log with this head has lost signed events."""
        if self._last is not None and self._last.size > position:
            files = [path for path in (self.path, self.old) if path is not None and path.exists()]
            named = " and ".join(str(path) for path in files if not self._is_anothers(path))
            raise CannotServe(
                f"the log of {self._last.origin} ends at position {position}, and this cell has signed its first "
                f"{self._last.size} events: this database is an older one. Put back a newer one; if there is none, "
                f"what is missing is lost: move {named} away to start without it"
            )


# --- a witness outside ----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class FileMemory:
    """Only one process at a time uses it."""

    path: Path
    # The logs that are followed, by origin.
    keys: Mapping[str, VerifierKey]
    _seen: dict[str, Witnessed] = field(default_factory=dict)
    _lock: int | None = None

    def load(self, *, new: bool) -> None:
        """`new` starts a log that the file does not know; never one that it knows. Raises CannotServe."""
        self._only_one()
        try:
            self._read(new=new)
        except CannotServe:
            self.close()
            raise

    def _read(self, *, new: bool) -> None:
        try:
            self._seen = {each.origin: each for each in map(_witnessed, _content(self.path.read_text("utf-8")))}
        except FileNotFoundError:
            self._seen = {}
        except OSError as error:
            raise CannotServe(f"{self.path}: {error.strerror}") from None
        except (Malformed, ValueError, KeyError, TypeError) as error:
            raise CannotServe(
                f"{self.path} is damaged ({error}): put back a copy of it. If there is none, what was seen "
                "is lost: move it away, compare the logs with checkpoints that others have kept, and begin with --new"
            ) from None
        changed = [origin for origin, seen in self._seen.items() if seen.key != str(self.keys.get(origin, seen.key))]
        if changed:
            raise CannotServe(f"{self.path} knows {', '.join(changed)} by another key than the one given")
        unknown = [origin for origin in self.keys if origin not in self._seen]
        if unknown and not new:
            raise CannotServe(
                f"{self.path} has nothing of {', '.join(unknown)}: --new begins with what is there now, and believes it"
            )

    def close(self) -> None:
        """Releases it for another process."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _only_one(self) -> None:
        self.close()
        try:
            self._lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CannotServe(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise CannotServe(f"{self.path}: {error.strerror}") from None

    async def witnessed(self, origin: str) -> Witnessed | None:
        return self._seen.get(origin)

    async def witness(self, seen: Witnessed, before: Witnessed | None) -> bool:
        """Writes it durably, before it is signed. Raises OSError."""
        if self._seen.get(seen.origin) != before:
            return False
        now = {**self._seen, seen.origin: seen}
        await asyncio.to_thread(self._write, now)
        self._seen = now
        return True

    def _write(self, seen: Mapping[str, Witnessed]) -> None:
        entries = [
            {"key": each.key, "note": each.note, "cosigned_at": each.cosigned_at.isoformat()} for each in seen.values()
        ]
        text = json.dumps({"cellbook": FORM, "seen": entries}, indent=2, ensure_ascii=False)
        write_durably(self.path, f"{text}\n".encode())


def _content(text: str) -> list[dict[str, Any]]:
    content = json.loads(text)
    if content["cellbook"] != FORM:
        raise ValueError(f"it is of the form {content['cellbook']!r}, not {FORM}")
    return list(content["seen"])


def _witnessed(entry: dict[str, Any]) -> Witnessed:
    """Raises Malformed also if the note was changed: it carries its log's signature."""
    found = checkpoint_in(entry["note"], [verifier_key(entry["key"])])
    at = datetime.fromisoformat(entry["cosigned_at"])
    return Witnessed(found.origin, entry["key"], found.size, found.root, entry["note"], at)
