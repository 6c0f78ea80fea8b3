"""Files that are complete or absent, whatever ends the process or the machine."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Replaces an existing file. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
