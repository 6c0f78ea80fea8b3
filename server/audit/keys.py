"""The file with a cell's signing keys: created if missing, never replaced."""

import os
from pathlib import Path

from cells.audit.proofs.keys import CellKeys, cell_keys_in, new_keys
from cells.audit.verify.note import WITNESS_KEY, Malformed, VerifierKey, verifier_key
from cells.store.unusable import CannotServe
from server.process.settings import ServerSettings

# The most keys: each may add a line to each checkpoint.
OUTSIDE_MAX = 16


class SigningKeysInvalid(CannotServe):
    """The key file cannot be used; the message says what to do."""


def keys_of(settings: ServerSettings) -> CellKeys | None:
    """None if no file is configured and there is no folder to keep one in. Raises SigningKeysInvalid."""
    if settings.checkpoint_key_file is not None:
        return signing_keys(settings.checkpoint_key_file, settings.cell, make=False)
    if settings.data is not None:
        return signing_keys(settings.data / "checkpoint.key", settings.cell, make=True)
    return None


def signing_keys(path: Path, cell: str, *, make: bool) -> CellKeys:
    """The keys in a file; `make` creates a missing file. Raises SigningKeysInvalid."""
    if make and not path.exists():
        write_once(path, new_keys(cell, os.urandom).text)
    try:
        return cell_keys_in(path.read_text("utf-8"), cell)
    except OSError as error:
        problem = f"cannot read {path} ({error.strerror}): `cellbook audit new-key {cell} FILE` makes one"
        raise SigningKeysInvalid(f"checkpoint_key_file: {problem}") from None
    except (Malformed, UnicodeDecodeError) as error:
        raise SigningKeysInvalid(f"checkpoint_key_file: {path}: {error}") from None


def outside_witnesses(path: Path | None) -> list[VerifierKey]:
    """The keys whose cosignatures the cell keeps. Raises SigningKeysInvalid."""
    keys = verifier_keys(path, "witness_keys_file") if path is not None else []
    if len(keys) > OUTSIDE_MAX or any(key.kind != WITNESS_KEY for key in keys):
        raise SigningKeysInvalid(f"witness_keys_file: {path}: at most {OUTSIDE_MAX} keys, each of a witness")
    return keys


def verifier_keys(path: Path, setting: str = "witnessed_keys_file") -> list[VerifierKey]:
    """The public keys in a file, one a line. Raises SigningKeysInvalid."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        return [verifier_key(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise SigningKeysInvalid(f"{setting}: cannot read {path} ({error.strerror})") from None
    except (Malformed, UnicodeDecodeError) as error:
        raise SigningKeysInvalid(f"{setting}: {path}: {error}") from None


def write_once(path: Path, text: str) -> None:
    """Writes the whole file or nothing, readable by its owner only; if another process was first, its file is used."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
