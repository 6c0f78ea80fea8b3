"""The file with a cell's signing keys: created if missing, never replaced."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cells.audit.proofs.keys import CellKeys, cell_keys_in, new_keys
from cells.audit.verify.note import WITNESS_KEY, Malformed, VerifierKey, lines_in, verifier_key
from cells.store.unusable import CannotServe
from server.shell.files import create_secret

if TYPE_CHECKING:
    from server.process.settings import ServerSettings

# The most keys: each may add a line to each checkpoint.
OUTSIDE_MAX = 16

T = TypeVar("T")


def keys_of(settings: "ServerSettings") -> CellKeys | None:
    """None if no file is configured and there is no folder to keep one in. Raises CannotServe."""
    if settings.checkpoint_key_file is not None:
        return signing_keys(settings.checkpoint_key_file, settings.cell, make=False)
    if settings.data is not None:
        return signing_keys(settings.data / "checkpoint.key", settings.cell, make=True)
    return None


def signing_keys(path: Path, cell: str, *, make: bool) -> CellKeys:
    """The keys in a file; `make` creates a missing file. Raises CannotServe."""
    if make and not path.exists():
        create_secret(path, new_keys(cell, os.urandom).text)
    advice = f": `cellbook audit new-key {cell} FILE` makes one"
    return read_setting(path, lambda text: cell_keys_in(text, cell), "checkpoint_key_file", advice=advice)


def outside_witnesses(path: Path | None) -> list[VerifierKey]:
    """The keys whose cosignatures the cell keeps. Raises CannotServe."""
    keys = verifier_keys(path, "witness_keys_file")
    if len(keys) > OUTSIDE_MAX or any(key.kind != WITNESS_KEY for key in keys):
        raise CannotServe(f"witness_keys_file: {path}: at most {OUTSIDE_MAX} keys, each of a witness")
    return keys


def verifier_keys(path: Path | None, setting: str = "witnessed_keys_file") -> list[VerifierKey]:
    """The public keys in a file, one a line; none without a file. Raises CannotServe."""
    if path is None:
        return []
    return read_setting(path, lambda text: [verifier_key(line) for line in lines_in(text)], setting)


def read_setting(path: Path, parse: Callable[[str], T], setting: str, *, advice: str = "") -> T:
    """The content of the file that a setting names. Raises CannotServe, with the setting's name."""
    try:
        return parse(path.read_text("utf-8"))
    except OSError as error:
        raise CannotServe(f"{setting}: cannot read {path} ({error.strerror}){advice}") from None
    except (Malformed, UnicodeDecodeError) as error:
        raise CannotServe(f"{setting}: {path}: {error}") from None
