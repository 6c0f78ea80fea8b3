"""Finds the living processes of a PostgreSQL cluster."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The descriptor of a lock on a file, held by every process that inherits it; None: another one has the lock."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield handle if _lock(handle) else None
    finally:
        # This gives up only our share; the server still holds the descriptor that it inherited.
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
