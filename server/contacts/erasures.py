"""The list of erased persons, in a file outside the database, because a restored backup does not contain it.

One JSON object per line; lines are only added. A partial last line, left by a crash, was never confirmed and is
dropped.
"""

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from cells.store.unusable import CannotServe
from server.shell.files import sync_folder


class ErasuresInvalid(CannotServe):
    """The file is not valid; the message says where."""


@dataclass(frozen=True, slots=True)
class Erasures:
    """Blocks while the disk writes: call it in a thread.

    `old` is the file's former location: it is also read, but never written.
    """

    path: Path
    old: Path | None = None

    def noted(self) -> set[UUID]:
        """Raises ErasuresInvalid."""
        return {user for path in {self.path, self.old or self.path} for user in _noted_in(path)}

    def note(self, users: Collection[UUID]) -> None:
        """Writes all of them durably. Raises OSError."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        lines = "".join(json.dumps({"user_id": str(user), "erased_at": at}) + "\n" for user in users).encode()
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = file.read()
            whole_bytes = _whole_bytes(content)
            file.truncate(whole_bytes)
            ended = content[:whole_bytes].endswith(b"\n") or not whole_bytes
            file.write((b"" if ended else b"\n") + lines)
            os.fsync(handle)
        if is_new:
            sync_folder(self.path.parent)


def _noted_in(path: Path) -> Iterator[UUID]:
    """Raises ErasuresInvalid."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ErasuresInvalid(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(content[: _whole_bytes(content)].split(b"\n"), 1):
        if line.strip():
            yield _user(line, number, path)


def _user(line: bytes, number: int, path: Path) -> UUID:
    try:
        return _parse_user(line)
    except ValueError:
        raise ErasuresInvalid(f"{path}, line {number}: no erasure: {line[:80]!r}") from None


def _parse_user(line: bytes) -> UUID:
    """Raises ValueError."""
    try:
        return UUID(json.loads(line)["user_id"])
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(str(error)) from None


def _whole_bytes(content: bytes) -> int:
    """The length of its whole lines. A last line without a line end counts if it names a user: it was edited."""
    ended = content.rfind(b"\n") + 1
    try:
        _parse_user(content[ended:])
    except ValueError:
        return ended
    return len(content)
