"""The folder for data that a cell keeps outside its database, because a restored database lacks it (`state_dir`).

It holds the last signed checkpoint and the list of erased persons. Both guard against an old backup, so a cell that
cannot write to the folder does not start: otherwise the protection would be missing unnoticed.
"""

import os
from pathlib import Path

from cells.store.unusable import CannotServe


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
