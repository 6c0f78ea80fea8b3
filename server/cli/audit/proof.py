"""`cellbook audit checkpoint`, `proof`, `consistency`, `key`: signed data of a cell, as files that anyone can check."""

import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cellbook.v1 import audit_pb2
from cells.audit.export.lines import consistency_lines, proof_lines
from cells.audit.proofs.keys import SEED_BYTES, SigningKey, cell_keys_in, new_keys
from cells.audit.verify.note import WITNESS_KEY, Malformed
from cells.store.unusable import CannotServe
from server.cli import report
from server.cli.audit.ask import Json, answer_of
from server.cli.client import CellStubs, ClientError
from server.cli.reach import Reach
from server.shell.files import create_secret

# Like an address without a scheme; a cell's name is not allowed.
WITNESS_NAME = re.compile(r"(?!cellbook/)[a-z0-9][a-z0-9./-]{1,127}")

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to this file, not to stdout.")]
Size = Annotated[int, typer.Option("--size", min=0, help="Size of the checkpoint; by default the last cosigned one.")]


def one_cell(reach: Reach) -> CellStubs:
    """The cell to ask. Raises ClientError if more than one is possible."""
    if len(reach.cells) != 1:
        raise ClientError(f"say which cell, by --cell: {', '.join(cell.name for cell in reach.cells) or 'none'}")
    return reach.cells[0]


def written(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ClientError(f"{out}: {error.strerror}") from None
    report.line(f"written to {out}")


async def run_checkpoint(reach: Reach, size: Size = 0, out: Out = None, *, as_json: Json = False) -> None:
    """Print a cell's signed checkpoint. Keep it: it reveals any later change to the events that it covers."""
    cell = one_cell(reach)
    reply = await answer_of(cell, cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest(size=size))
    if as_json:
        numbers = {name: getattr(reply, name) for name in ("size", "sign_time_ms", "position", "last_size")}
        content = {"cell": cell.name, "checkpoint": reply.checkpoint, **numbers, "keys": [*reply.keys]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    # Only the signed note goes to stdout.
    written(reply.checkpoint, out)
    console = report.stderr()
    at = datetime.fromtimestamp(reply.sign_time_ms / 1_000, UTC)
    console.print(f"the first {reply.size:,} events of {cell.name}, signed on {at:%Y-%m-%d %H:%M:%S} UTC")
    if reply.position > reply.size:
        console.print(f"the log has {reply.position:,} events by now, of which {reply.last_size:,} are signed")


async def run_proof(
    reach: Reach,
    position: Annotated[int, typer.Argument(min=1, help="The event's position in the cell's log.")],
    size: Size = 0,
    out: Out = None,
) -> None:
    """Prove that a signed checkpoint covers an event. `cellbook verify` checks it."""
    cell = one_cell(reach)
    request = audit_pb2.GetInclusionProofRequest(position=position, size=size)
    reply = await answer_of(cell, cell.audit.GetInclusionProof, request)
    lines = proof_lines(reply.checkpoint, reply.size, reply.path, reply.event_json, reply.leaf_hash)
    written(lines.decode(), out)


async def run_consistency(
    reach: Reach,
    old_size: Annotated[int, typer.Argument(min=1, help="Size of the earlier checkpoint.")],
    new_size: Annotated[int, typer.Argument(min=0, help="Size of the later one; by default the last cosigned.")] = 0,
    out: Out = None,
) -> None:
    """Prove that one checkpoint extends another. `cellbook verify` checks it."""
    cell = one_cell(reach)
    request = audit_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
    reply = await answer_of(cell, cell.audit.GetConsistencyProof, request)
    written(consistency_lines(reply.old_checkpoint, reply.new_checkpoint, reply.path).decode(), out)


async def run_keys(reach: Reach) -> None:
    """Prints one key per line: each cell's log key and witness key."""
    for cell in reach.cells:
        reply = await answer_of(cell, cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
        for key in reply.keys:
            print(key)


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
