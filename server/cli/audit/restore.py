"""`cellbook audit import`: makes a cell's database from an export."""

import json
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from cells.audit.export.restore import Restored, RestoreRefused
from cells.audit.verify.note import Malformed, VerifierKey, verifier_key
from cells.store.ports import StoreError
from server.audit.keys import SigningKeysInvalid, verifier_keys
from server.audit.restore import Where, put_back
from server.cli import report
from server.cli.audit.proof import keys_in
from server.cli.client import ClientError
from server.cli.progress import Progress
from server.shell.hosting.failures import CannotServe

KEY_FILE = "checkpoint.key"


def keys_from(texts: Sequence[str], data: Path | None) -> list[VerifierKey]:
    """The given keys, each a key or a file of keys; otherwise those in the cell's folder. Raises ClientError."""
    own = data / KEY_FILE if data is not None else None
    try:
        if texts:
            return [key for text in texts for key in _keys(text)]
        if own is not None and own.exists():
            return [verifier_key(text) for text in keys_in(own, "")]
    except (Malformed, SigningKeysInvalid) as error:
        raise ClientError(str(error)) from None
    raise ClientError(
        f"by which key are its checkpoints to be checked? Name it by --key, or put {KEY_FILE} back into the folder"
    )


def _keys(text: str) -> list[VerifierKey]:
    path = Path(text)
    return verifier_keys(path) if path.exists() or "+" not in text else [verifier_key(text)]


async def run_import(file: Path, where: Where, keys: Sequence[VerifierKey], *, as_json: bool) -> None:
    """Raises ClientError."""
    try:
        with Progress(report.stderr()).stage(f"import of {file.name}", 0) as stage:
            done = await put_back(file, where, keys, stage.reached)
    except (RestoreRefused, StoreError, CannotServe, asyncpg.PostgresError, OSError) as error:
        raise ClientError(f"{file} was not put back: {error}") from error
    _tell(done, as_json=as_json)


def _tell(done: Restored, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(done._asdict(), indent=2))
        return
    report.line(
        f"{done.cell} is put back up to position {done.events:,}, root {done.root}: {done.outcomes:,} outcomes of "
        f"commands, {done.checkpoints:,} checkpoints"
    )
    if done.signed < done.events:
        report.line(f"not signed: positions {done.signed + 1:,} to {done.events:,}")
    if done.outcomes_too_old:
        report.line(f"{done.outcomes_too_old:,} outcomes are older than they are kept, and were left out")
    report.line(
        "names, addresses and mail are in no export: put vault.key, its list of erasures and their backup back, too"
    )
