"""A cell on a real database that grows its tree and signs it, within the test's own process."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter, Wanted
from cells.audit.export.restore import PostgresIntake, Restore, Restored
from cells.audit.proofs.checkpoint_signer import CheckpointKeeper, CheckpointSigner
from cells.audit.proofs.keys import CellKeys, new_keys
from cells.audit.proofs.ports import ProofStore, SignedCheckpoint
from cells.audit.proofs.prover import Prover
from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify.note import Checkpoint, checkpoint_in, origin_of
from cells.cell import Cell
from cells.store.postgres import PostgresStore
from server.shell.postgres.database import connect
from tests.integration.database import CELL, opened, opened_raw
from tests.local_cells import DirectPeers, build_cell, leading, open_user, until

KEYS = new_keys(CELL, os.urandom)
OWNER_ROLE = "cellbook_owner"
ALL = Wanted()


@dataclass(slots=True)
class CheckpointInMemory:
    """A checkpoint file that outlives the database."""

    notes: list[str] = field(default_factory=list)

    def last(self) -> Checkpoint | None:
        return checkpoint_in(self.notes[-1], [KEYS.log.verifier]) if self.notes else None

    async def keep(self, note: str) -> None:
        self.notes.append(note)


@dataclass(slots=True, kw_only=True)
class Rig:
    cell: Cell
    store: PostgresStore
    proofs: PostgresProofs
    checkpoint_signer: CheckpointSigner
    prover: Prover
    exporter: Exporter

    async def write(self, commands: int) -> None:
        """So many events."""
        await asyncio.gather(*(open_user(self.cell) for _ in range(commands)))

    async def exported(self, wanted: Wanted = ALL) -> list[bytes]:
        """The lines."""
        return await exported(self.exporter, wanted)

    async def signed(self) -> SignedCheckpoint:
        """Once all that is durable is signed."""
        return await until_signed(self.checkpoint_signer)

    def watch(self) -> LogWatch:
        return LogWatch(
            checkpoint_signer=self.checkpoint_signer,
            proofs=self.proofs,
            events_per_s=1_000_000,
        )


async def until_signed(signer: CheckpointSigner) -> SignedCheckpoint:
    """The checkpoint of all that is durable."""
    await until(lambda: signer.last and signer.last.size == signer.time.durable_position)
    assert signer.last is not None
    return signer.last


@asynccontextmanager
async def proving(
    dsn: str,
    *,
    checkpoint_file: CheckpointKeeper | None = None,
    keys: CellKeys = KEYS,
    events_max: int = 1,
    pause_max_s: float = 0.1,
) -> AsyncIterator[Rig]:
    """Leads, grows and signs."""
    async with opened(dsn) as store:
        cell = build_cell(CELL, store, peers=DirectPeers(cut={"eu-west"}))
        proofs = PostgresProofs(pool=store.reads)
        checkpoint_signer = CheckpointSigner(
            store=proofs,
            time=cell.time,
            key=keys.log,
            checkpoint_file=checkpoint_file,
            events_max=events_max,
            pause_max_s=pause_max_s,
        )
        cell.tasks.append(checkpoint_signer)
        prover = Prover(cell=CELL, store=store, proofs=proofs)
        exporter = exporter_of(CELL, proofs)
        async with leading(cell):
            yield Rig(
                cell=cell,
                store=store,
                proofs=proofs,
                checkpoint_signer=checkpoint_signer,
                prover=prover,
                exporter=exporter,
            )


def exporter_of(cell: str, proofs: ProofStore) -> Exporter:
    return Exporter(cell=cell, origin=origin_of(cell), keys=[str(KEYS.log.verifier)], proofs=proofs)


async def exported(exporter: Exporter, wanted: Wanted = ALL) -> list[bytes]:
    return b"".join([piece.lines async for piece in exporter.pieces(wanted)]).splitlines(keepends=True)


async def export_of(dsn: str, wanted: Wanted = ALL) -> list[bytes]:
    """The lines of an export of a database on which no cell runs."""
    async with opened_raw(dsn) as store:
        proofs = PostgresProofs(pool=store.reads)
        return await exported(exporter_of(CELL, proofs), wanted)


async def in_order(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


@asynccontextmanager
async def restoring(dsn: str, *, keys: CellKeys = KEYS, now: datetime | None = None) -> AsyncIterator[Restore]:
    """As `cellbook audit import` does it."""
    async with opened_raw(dsn) as store:
        owner = await connect(dsn, role=OWNER_ROLE, application="import")
        try:
            yield Restore(
                store=store,
                proofs=PostgresProofs(pool=store.reads),
                intake=PostgresIntake(owner),
                keys=[keys.log.verifier],
                now=now or datetime.now(UTC),
            )
        finally:
            owner.terminate()


async def restored(dsn: str, lines: Iterable[bytes]) -> Restored:
    async with restoring(dsn) as restore:
        return await restore.run(in_order(lines))
