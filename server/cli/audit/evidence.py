"""`cellbook audit evidence`: writes a folder of evidence that `cellbook audit verify` checks offline."""

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cellbook.v1 import audit_pb2, types_pb2
from cells.audit.export.lines import proof_lines
from cells.audit.proofs.keys import SigningKey, signing_key
from cells.audit.verify.evidence import (
    EVIDENCE,
    KEYS,
    MANIFEST,
    RECONCILIATION,
    SUMMARY,
    TRIAL,
    hashed,
    manifest_text,
    paths_of,
    summary_of,
)
from cells.audit.verify.evidence_cell import Reading, read_export
from cells.audit.verify.note import LOG_KEY, Checkpoint, Malformed, checkpoint_in, verifier_key
from cells.audit.verify.proof import positions
from server.cli import report
from server.cli.audit import books, statement, trial
from server.cli.audit.export import pulled
from server.cli.audit.statement import At
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.cli.report import stage
from server.shell.files import write_durably

# How long a cell may take to sign the events before the cut.
SIGNED_WITHIN_S = 60.0
# How long the witnesses may take, if there are any.
WITNESSED_WITHIN_S = 5.0
PAUSE_S = 0.2
# The beginning of each signature of a note.
SIGNATURE = "\n\u2014 "
MOVEMENTS_MAX = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    at: str
    # The number of events and accounts that the seed picks in each cell, and accounts by name.
    seed: str
    samples: int
    accounts: int
    named: Sequence[str]
    key: SigningKey


def summary_key(path: Path) -> SigningKey:
    """The first key in a file that can sign notes. Raises ClientError."""
    try:
        keys = [signing_key(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        return next(key for key in keys if key.kind == LOG_KEY)
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror}: `cellbook audit new-key operator FILE` makes one") from None
    except (Malformed, UnicodeDecodeError, StopIteration) as error:
        raise ClientError(f"{path}: no file of keys that sign: {error}") from None


async def run_wanted(  # noqa: PLR0917 - as many options
    reach: Reach,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; DIR.partial until it is complete.")],
    sign_key: Annotated[Path, typer.Option("--sign-key", metavar="FILE", help="Key for the summary (audit new-key).")],
    seed: Annotated[str, typer.Option("--seed", help="The seed of the samples, chosen by the auditor.")],
    samples: Annotated[int, typer.Option("--sample", min=0, max=100_000, help="Events to prove, per cell.")] = 20,
    accounts: Annotated[int, typer.Option("--sample-accounts", min=0, max=100_000, help="Statements per cell.")] = 3,
    named: Annotated[list[str] | None, typer.Option("--account", metavar="USER", help="Add its statement.")] = None,
    at: At = "",
) -> None:
    """Write keys, checkpoints, exports, proofs, statements, reconciliation and trial balance to a folder.

    Exit code 1 if the folder could not be made, or something in it is wrong.
    """
    key = summary_key(sign_key)
    await run_evidence(
        reach, folder, Wanted(at=at, seed=seed, samples=samples, accounts=accounts, named=named or (), key=key)
    )


async def run_evidence(reach: Reach, folder: Path, wanted: Wanted) -> None:
    """Raises ClientError if there is no evidence, or if it shows a problem."""
    draft = folder.with_name(f"{folder.name}.partial")
    for path in (folder, draft):
        if path.exists():
            raise ClientError(f"{path} is there already: take another name, or move it away")
    try:
        draft.mkdir(parents=True)
        problems = await _Collecting(reach=reach, folder=draft, wanted=wanted).collect()
        draft.rename(folder)
    except OSError as error:
        raise ClientError(f"{error.filename}: {error.strerror}") from None
    report.line(f"{folder}: the evidence of {reach.names}")
    report.line(f"check it by: cellbook audit verify --key KEYS --seed {wanted.seed!r} {folder}")
    if problems:
        raise ClientError("; ".join(problems))


@dataclass(slots=True, kw_only=True)
class _Collecting:
    reach: Reach
    folder: Path
    wanted: Wanted

    async def collect(self) -> list[str]:
        """The problems that the evidence shows. Each file is durable before the manifest names it."""
        found = await trial.fetched(self.reach, self.wanted.at)
        self._write(TRIAL, _json(trial.trial_json(found)))
        done = await books.reconciled(self.reach, audit_pb2.ReconcileRequest(full=True))
        self._write(RECONCILIATION, _json(books.reconciled_json(done)))
        until = found.until.physical_ms, found.until.logical
        cells, keys = {}, [str(self.wanted.key.verifier)]
        for cell in self.reach.cells:
            cut = found.cells[cell.name].trial.as_of.position
            reply = await _covering(cell, cut)
            keys += reply.keys
            cells[cell.name] = await self._cell(cell, cut, reply, until)
        self._write(KEYS, "".join(f"{key}\n" for key in keys).encode())
        self._finish({"cells": cells, "cut": {"physical_ms": found.until.physical_ms, "logical": found.until.logical}})
        return [*found.problems(), *done.problems()]

    async def _cell(
        self, cell: CellStubs, cut: int, reply: audit_pb2.GetCheckpointResponse, moment: tuple[int, int]
    ) -> dict[str, Any]:
        keys, paths = [verifier_key(key) for key in reply.keys], paths_of(cell.name)
        self._write(paths.checkpoint, reply.checkpoint.encode())
        checkpoint = checkpoint_in(reply.checkpoint, keys)
        await pulled(cell, self.folder / paths.export)
        reading = Reading(checkpoint=checkpoint, cut=cut, moment=moment)
        with (self.folder / paths.export).open("rb") as file:
            read_export(file, reading, keys, (), None)
        if self.wanted.samples:
            self._write(paths.samples, await self._samples(cell, checkpoint))
        users = {*reading.sampled_accounts(self.wanted.seed, self.wanted.accounts), *self.wanted.named} & reading.known
        await self._statements(cell, sorted(users), checkpoint)
        return {"position": cut, "root": base64.b64encode(checkpoint.root).decode(), "size": checkpoint.size}

    async def _samples(self, cell: CellStubs, checkpoint: Checkpoint) -> bytes:
        wanted, parts = positions(self.wanted.seed, checkpoint, self.wanted.samples), []
        with stage(f"{cell.name}: proofs", len(wanted)) as counted:
            for position in wanted:
                request = audit_pb2.GetInclusionProofRequest(position=position, size=checkpoint.size)
                proof = await cell.ask(cell.audit.GetInclusionProof, request)
                parts.append(proof_lines(proof.checkpoint, proof.size, proof.path, proof.event_json, proof.leaf_hash))
                counted.advance()
        return b"".join(parts)

    async def _statements(self, cell: CellStubs, users: Sequence[str], checkpoint: Checkpoint) -> None:
        until = types_pb2.AsOf(position=checkpoint.size)
        with stage(f"{cell.name}: statements", len(users)) as counted:
            for user_id in users:
                request = audit_pb2.GetStatementRequest(user_id=user_id, to=until)
                found = await statement.fetched(cell, request, MOVEMENTS_MAX)
                self._write(paths_of(cell.name).statement(user_id), _json(statement.statement_json(found)))
                counted.advance()

    def _finish(self, content: dict[str, Any]) -> None:
        wanted, files = self.wanted, sorted(path for path in self.folder.rglob("*") if path.is_file())
        manifest = {
            "cellbook": EVIDENCE,
            **content,
            "accounts": wanted.accounts,
            "files": {
                path.relative_to(self.folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hashed(path)}
                for path in files
            },
            # The verifier names each of these that is missing from the folder.
            "listed": [*self.reach.listed],
            "named": sorted(wanted.named),
            "samples": wanted.samples,
            "seed": wanted.seed,
        }
        text = manifest_text(manifest)
        self._write(MANIFEST, text)
        body = summary_of(text, manifest)
        self._write(SUMMARY, wanted.key.note(body).encode())

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)


async def _covering(cell: CellStubs, position: int) -> audit_pb2.GetCheckpointResponse:
    """The cell's first checkpoint that covers the cut, with cosignatures that arrive in time. Raises ClientError."""
    size, started_s = max(position, 1), time.monotonic()
    while True:
        passed_s = time.monotonic() - started_s
        try:
            reply = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest(size=size))
            if reply.checkpoint.count(SIGNATURE) > 1 or passed_s > WITNESSED_WITHIN_S:
                return reply
        except LedgerRefusal as refusal:
            if refusal.reason != "CHECKPOINT_NOT_FOUND":
                raise
            size = int(refusal.facts["above"]) or size
            if passed_s > SIGNED_WITHIN_S:
                raise ClientError(f"{cell.name} has signed no checkpoint that covers position {position:,}") from None
        await asyncio.sleep(PAUSE_S)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
