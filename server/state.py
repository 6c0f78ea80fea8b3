"""The folder of what a cell writes down outside of its database, since a restored one does not know it (`state_dir`).

They are the last checkpoint signed, and the list of those who were erased. Both guard against an old backup, so a cell
that cannot write to the folder does not start: it would be without them, and nobody would know.
"""

import os
from pathlib import Path

from cells.unusable import CannotServe


class StateNotWritable(CannotServe):
    """The message says which folder, and what to do."""


def require_writable(folder: Path, what: str) -> None:
    """Tries it. `what` is what is kept there. Raises StateNotWritable."""
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
