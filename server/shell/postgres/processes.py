"""Finds the living processes of a PostgreSQL cluster."""

import fcntl
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self


class ClusterLock:
    """A lock on a file, held by every process that inherits the descriptor; `taken` tells whether we got it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = -1
        self.taken = False

    def __enter__(self) -> Self:
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.taken = True
        except BlockingIOError:
            self.taken = False
        return self

    def __exit__(self, *_: object) -> None:
        # Closing gives up only our share; the server still holds the descriptor that it inherited.
        os.close(self.fd)


def first_number(file: Path) -> int | None:
    try:
        return int(file.read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_postmaster(pid: int, cluster: Path) -> bool:
    """Whether `pid` is a living server of `cluster`, by its command line: not every user may read its folder."""
    proc = Path("/proc/self")
    if proc.exists():
        with suppress(OSError):
            return bytes(cluster) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return False
    said = subprocess.run(
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(cluster) in said.stdout
