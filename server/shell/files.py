"""Files that are complete or absent, whatever ends the process or the machine; and the folder for them, `state_dir`.

A cell keeps data outside its database, because a restored database lacks it: the last signed checkpoint and the list of
erased persons. Both guard against an old backup, so a cell that cannot write to the folder does not start: otherwise
the protection would be missing unnoticed.
"""

import os
from pathlib import Path

from cells.store.unusable import CannotServe


def write_durably(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replaces an existing file. `mode`: who may read it, beside the umask. Raises OSError."""
    _drafted(path, content, os.O_TRUNC, mode).replace(path)
    sync_folder(path.parent)


def create_secret(path: Path, content: str) -> None:
    """Writes a file that only this user can read, unless another process was first. Raises OSError."""
    draft = _drafted(path, content.encode(), os.O_EXCL, 0o600)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _drafted(path: Path, content: bytes, how: int, mode: int) -> Path:
    """A file beside `path` with the content, on the disk."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | how, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return draft


def sync_folder(folder: Path) -> None:
    """Without this a new file may be gone after a crash, even if its content was synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StateNotWritable(CannotServe):
    """The folder is not writable; the message names it and says what to do."""


def require_writable(folder: Path, what: str) -> None:
    """Tries to write. `what` names the content. Raises StateNotWritable."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StateNotWritable(
            f"state_dir: cannot write to {folder} ({error.strerror}), where {what} is kept: without it a database that "
            "was restored from an old backup goes unnoticed. Set state_dir to a folder that this process may write to "
            "and that outlives it, such as /var/lib/cellbook"
        ) from None
