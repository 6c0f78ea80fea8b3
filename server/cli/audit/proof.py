"""`cellbook audit checkpoint`, `proof`, `consistency`, `key`: signed data of a cell, as files that anyone can check."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cellbook.v1 import audit_pb2
from cells.audit.export.lines import consistency_lines, proof_lines
from cells.audit.proofs.keys import SEED_BYTES, SigningKey, cell_keys_in, new_keys
from cells.audit.verify.note import WITNESS_KEY, Malformed, VerifierKey, verifier_key
from cells.store.unusable import CannotServe
from server.audit.keys import verifier_keys
from server.cli import report
from server.cli.client import ClientError
from server.cli.reach import Reach
from server.cli.texts import utc
from server.shell.files import create_secret

KEY_FILE = "checkpoint.key"
# Like an address without a scheme; a cell's name is not allowed.
WITNESS_NAME = re.compile(r"(?!cellbook/)[a-z0-9][a-z0-9./-]{1,127}")

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to this file, not to stdout.")]
Size = Annotated[int, typer.Option("--size", min=0, help="Size of the checkpoint; by default the last cosigned one.")]


def written(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ClientError(f"{out}: {error.strerror}") from None
    report.line(f"written to {out}")


async def run_checkpoint(reach: Reach, size: Size = 0, out: Out = None) -> None:
    """Print a cell's signed checkpoint. Keep it: it reveals any later change to the events that it covers."""
    cell = reach.only
    reply = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest(size=size))
    if report.AS_JSON.get():
        numbers = {name: getattr(reply, name) for name in ("size", "sign_time_ms", "position", "last_size")}
        content = {"cell": cell.name, "checkpoint": reply.checkpoint, **numbers, "keys": [*reply.keys]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    # Only the signed note goes to stdout.
    written(reply.checkpoint, out)
    console = report.stderr()
    at = f"{utc(reply.sign_time_ms * 1_000):%Y-%m-%d %H:%M:%S} UTC"
    console.print(f"the first {reply.size:,} events of {cell.name}, signed on {at}")
    if reply.position > reply.size:
        console.print(f"the log has {reply.position:,} events by now, of which {reply.last_size:,} are signed")


async def run_proof(
    reach: Reach,
    position: Annotated[int, typer.Argument(min=1, help="The event's position in the cell's log.")],
    size: Size = 0,
    out: Out = None,
) -> None:
    """Prove that a signed checkpoint covers an event. `cellbook verify` checks it."""
    cell = reach.only
    request = audit_pb2.GetInclusionProofRequest(position=position, size=size)
    reply = await cell.ask(cell.audit.GetInclusionProof, request)
    lines = proof_lines(reply.checkpoint, reply.size, reply.path, reply.event_json, reply.leaf_hash)
    written(lines.decode(), out)


async def run_consistency(
    reach: Reach,
    old_size: Annotated[int, typer.Argument(min=1, help="Size of the earlier checkpoint.")],
    new_size: Annotated[int, typer.Argument(min=0, help="Size of the later one; by default the last cosigned.")] = 0,
    out: Out = None,
) -> None:
    """Prove that one checkpoint extends another. `cellbook verify` checks it."""
    cell = reach.only
    request = audit_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
    reply = await cell.ask(cell.audit.GetConsistencyProof, request)
    written(consistency_lines(reply.old_checkpoint, reply.new_checkpoint, reply.path).decode(), out)


async def run_keys(reach: Reach) -> None:
    """Prints one key per line: each cell's log key and witness key."""
    for cell in reach.cells:
        reply = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
        for key in reply.keys:
            print(key)


# --- keys -----------------------------------------------------------------------------------------------------------


def keys_from(texts: Sequence[str], data: Path | None) -> list[VerifierKey]:
    """The given keys, each a key or a file of keys; otherwise those in the cell's folder. Raises ClientError."""
    own = data / KEY_FILE if data is not None else None
    try:
        if texts:
            return [key for text in texts for key in _keys(text)]
        if own is not None and own.exists():
            return [verifier_key(text) for text in keys_in(own, "")]
    except (Malformed, CannotServe) as error:
        raise ClientError(str(error)) from None
    raise ClientError(
        f"by which key are its checkpoints to be checked? Name it by --key, or put {KEY_FILE} back into the folder"
    )


def _keys(text: str) -> list[VerifierKey]:
    path = Path(text)
    return verifier_keys(path) if path.exists() or "+" not in text else [verifier_key(text)]


def keys_in(file: Path, cell: str) -> list[str]:
    """The public keys for the private keys in a cell's key file. Raises CannotServe."""
    try:
        text = file.read_text("utf-8")
        name = cell or text.partition("PRIVATE+KEY+cellbook/")[2].partition("+")[0].removesuffix("/witness")
        keys = cell_keys_in(text, name)
    except OSError as error:
        raise CannotServe(f"{file}: {error.strerror}") from None
    except (Malformed, UnicodeDecodeError) as error:
        raise CannotServe(f"{file}: {error}") from None
    return [str(keys.log.verifier), str(keys.witness.verifier)]


def make_keys(cell: str, file: Path) -> list[str]:
    """Writes new keys to a new file; returns the public keys. Raises CannotServe."""
    _write_new(file, new_keys(cell, os.urandom).text)
    return keys_in(file, cell)


def make_witness_key(name: str, file: Path) -> list[str]:
    """As `make_keys`, for an outside witness, whose name is the key's name. Raises CannotServe."""
    if not WITNESS_NAME.fullmatch(name):
        raise CannotServe(f"{name!r} is no name of a witness: expected one like witness.bank.example")
    key = SigningKey(name=name, kind=WITNESS_KEY, seed=os.urandom(SEED_BYTES))
    _write_new(file, f"{key.text}\n")
    return [str(key.verifier)]


def _write_new(file: Path, text: str) -> None:
    if file.exists():
        raise CannotServe(f"{file} is there already, and a key is never written over")
    try:
        create_secret(file, text)
    except OSError as error:
        raise CannotServe(f"{file}: {error.strerror}") from None
