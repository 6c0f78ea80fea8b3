"""A cell that runs, somebody who changes its database behind its back, and the four that may notice."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from cells.audit.checks.log_watch import LogWatch
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import new_keys
from cells.audit.proofs.ports import Witnessed
from cells.audit.proofs.store import PostgresProofs
from cells.audit.proofs.tree import TreeIncomplete, TreeReader
from cells.audit.reconcile.cuts import Clearing
from cells.audit.reconcile.findings import Finding, Order
from cells.audit.verify.note import Checkpoint, checkpoint_in, origin_of
from cells.audit.witness.cosigner import Asked, Witness
from cells.domain.commands import Withdraw
from cells.domain.refusals import InsufficientFunds, Refused
from cells.domain.values import Money
from cells.encoding.head_seal import HeadSeal
from cells.encoding.outcome_seal import OutcomeSeal
from cells.store.postgres import PostgresStore
from cells.store.unusable import HeadNotProven
from cells.time.clocks import SystemClock
from server.audit.process import direct_passes
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.integration.audit.proof_rig import KEYS, CheckpointInMemory
from tests.integration.audit.superuser import Superuser, clone, keep, put_back, verified
from tests.integration.database import ask, copy_database, opened, opened_raw
from tests.integration.played import HERE, THERE, DirectCutPeers
from tests.local_cells import DirectPeers, LocalCell, build_cell, open_user, request, until

WITNESS_KEYS = new_keys(THERE, os.urandom)
VERIFIERS = [KEYS.log.verifier, WITNESS_KEYS.witness.verifier]
# Of the first tree there is a full tile, and then some events more, which the last checkpoint covers; then some that
# nothing covers yet.
SIZES = (300, 330, 350)
UNSIGNED = 5
# So many cells are changed at a time.
TOGETHER = 2
REPLAY_KEY = KEYS.secret("replay")


@dataclass(slots=True)
class Noticed:
    """What each of the four names; empty: nothing."""

    alarm: set[str] = field(default_factory=set)
    reconcile: set[str] = field(default_factory=set)
    verify: set[str] = field(default_factory=set)
    witness: set[str] = field(default_factory=set)

    def row(self) -> tuple[str, str, str, str]:
        first, second, third, fourth = (
            ", ".join(sorted(each)) for each in (self.alarm, self.reconcile, self.verify, self.witness)
        )
        return first, second, third, fourth


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Databases to be cloned, and what lies outside of them."""

    cluster: EmbeddedPostgres
    here: str
    # The same as it was at the first checkpoint.
    old: str
    there: str
    # The checkpoints: what the cell's disk, the witness and an auditor know is the last one.
    notes: tuple[str, ...]
    # The other cell, which leads.
    neighbour: Clearing
    # Databases that are as `here` is.
    free: "asyncio.Queue[str]"

    @property
    def held(self) -> Checkpoint:
        return checkpoint_in(self.notes[-1], VERIFIERS)

    async def witness(self) -> Witness:
        proofs, held = MemoryProofs(MemoryStore(THERE)), self.held
        seen = Witnessed(
            held.origin, str(KEYS.log.verifier), held.size, held.root, self.notes[-1], SystemClock().wall()
        )
        await proofs.witness(seen, None)
        return Witness(cell=THERE, key=WITNESS_KEYS.witness, proofs=proofs, clock=SystemClock())


@dataclass(slots=True, kw_only=True)
class Running:
    dsn: str
    store: PostgresStore
    cell: LocalCell
    checkpoint_signer: CheckpointSigner
    proofs: PostgresProofs
    task: asyncio.Task[None]

    async def write(self, count: int) -> None:
        await asyncio.gather(*(open_user(self.cell) for _ in range(count)))

    async def signed(self) -> None:
        """All that is durable, once; or the checkpoint signer says why not."""
        checkpoint_signer, time = self.checkpoint_signer, self.cell.time
        checkpoint_signer.events_max = 1
        await until(
            lambda: (
                checkpoint_signer.broken
                or self.task.done()
                or (checkpoint_signer.last and checkpoint_signer.last.size == time.durable_position)
            )
        )
        checkpoint_signer.events_max = 1_000_000


@asynccontextmanager
async def running(dsn: str, checkpoint_file: CheckpointInMemory, accepted: int | None = None) -> AsyncIterator[Running]:
    """Leads, or `task` says why not. Signs when it is told to."""
    async with opened_raw(dsn) as store:
        store.outcome_seal = OutcomeSeal(KEYS.secret("replay"))
        store.seal = HeadSeal(cell=HERE, key=KEYS.secret("head"), outcomes=store.outcome_seal, accepted=accepted)
        cell = build_cell(HERE, store, peers=DirectPeers(cut={THERE}))
        proofs, seal = PostgresProofs(pool=store.reads), store.seal
        checkpoint_signer = CheckpointSigner(
            store=proofs,
            time=cell.time,
            key=KEYS.log,
            checkpoint_file=checkpoint_file,
            events_max=1_000_000,
            pause_max_s=3_600.0,
            signed=lambda checkpoint: seal.signed(checkpoint.size),
        )
        cell.tasks.append(checkpoint_signer)
        task = asyncio.create_task(_prepared_and_run(store, cell))
        try:
            await until(lambda: task.done() or cell.leading)
            # The checkpoint signer has compared what is stored with what was signed, and goes on from there.
            await until(
                lambda: (
                    task.done()
                    or checkpoint_signer.broken
                    or checkpoint_signer._frontier.size == cell.time.durable_position
                )
            )
            yield Running(
                dsn=dsn, store=store, cell=cell, checkpoint_signer=checkpoint_signer, proofs=proofs, task=task
            )
        finally:
            cell.stop()
            await asyncio.wait([task], timeout=10)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _prepared_and_run(store: PostgresStore, cell: LocalCell) -> None:
    await store.prepare()
    await cell.run()


# --- who may notice -----------------------------------------------------------------------------------------------


async def noticed(
    base: Base, make: Callable[["Evil"], Awaitable[None]], *, down: bool = False, fresh: bool = False
) -> Noticed:
    """Somebody does it to a running cell; it goes on, is asked, writes once more, and is started again.

    With `down`, somebody does it between the cell's end and its next start; with `fresh`, to more than rows.
    """
    found, checkpoint_file, witness = Noticed(), CheckpointInMemory([base.notes[-1]]), await base.witness()
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(_database(base, fresh=fresh))
        async with running(dsn, checkpoint_file) as run:
            await run.write(UNSIGNED)
            evil = Evil(base=base, dsn=dsn, run=run, stack=stack, found=found)
            if not down:
                await make(evil)
                await _look(base, run, found)
                await run.signed()
                await _ask(witness, run, found)
                await _write_on(run, found)
        if down:
            await make(evil)
        checkpoint_file.notes = checkpoint_file.notes if evil.disk is None else evil.disk
        async with running(evil.dsn, checkpoint_file) as again:
            _started(again, found)
            if down:
                await _look(base, again, found)
            if not again.task.done():
                await again.signed()
                await _ask(witness, again, found)
        found.verify |= await verified(evil.dsn, [base.held], VERIFIERS)
    return found


@asynccontextmanager
async def _database(base: Base, *, fresh: bool) -> AsyncIterator[str]:
    if fresh:
        yield await clone(base.cluster, base.here)
        return
    dsn = await base.free.get()
    yield dsn
    await put_back(dsn)
    base.free.put_nowait(dsn)


@dataclass(slots=True, kw_only=True)
class Evil:
    """A superuser of the database. `dsn` is what the cell finds when it starts again."""

    base: Base
    dsn: str
    run: Running
    stack: AsyncExitStack
    found: Noticed
    # What its disk knows then of what was signed; None: what the cell has kept there.
    disk: list[str] | None = None

    async def sql(self, *statements: str) -> None:
        """Past every trigger, which are as they were afterwards. Each changes something."""
        async with self.unguarded():
            for statement in statements:
                assert await ask(self.dsn, f"{statement} RETURNING 1"), statement

    @asynccontextmanager
    async def unguarded(self) -> AsyncIterator[Superuser]:
        guards = await ask(
            self.dsn,
            "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled = 'A' AND NOT tgisinternal",
        )
        for how in ("DISABLE", "ENABLE ALWAYS"):
            text = "; ".join(f"ALTER TABLE {table} {how} TRIGGER {trigger}" for table, trigger in guards)
            await ask(self.dsn, f"DO $$ BEGIN {text}; END $$")
            if how == "DISABLE":
                yield Superuser(dsn=self.dsn)

    async def swap(self, template: str) -> None:
        """Another database stands in its place."""
        self.dsn = await clone(self.base.cluster, template)


async def _look(base: Base, run: Running, found: Noticed) -> None:
    watch = LogWatch(
        checkpoint_signer=run.checkpoint_signer,
        proofs=run.proofs,
        events_per_s=1_000_000,
    )
    await watch.round()
    found.alarm |= {"log watch"} if watch.before else set()
    found.reconcile |= await passed(run, full=True)
    if run.cell.leading:
        found.reconcile |= {each.check.value for each in await _compared(base, run)}


async def passed(run: Running, *, full: bool) -> set[str]:
    last = run.checkpoint_signer.last
    size, root = (last.size, last.root.hex()) if last else (0, "")
    order = Order(full=full, replay_key=REPLAY_KEY, signed_size=size, signed_root=root)
    report = await direct_passes(run.dsn, HERE).run(order, lambda _: None)
    return {each.check.value for each in report.findings}


async def _compared(base: Base, run: Running) -> Sequence[Finding]:
    """Movements, with the other cell."""
    peers = DirectPeers(cells={HERE: run.cell, THERE: base.neighbour.cell})
    asked = DirectCutPeers(HERE, peers, {THERE: base.neighbour})
    return (await Clearing(cell=run.cell, store=run.store, peers=asked).compare(full=True)).findings


async def _ask(witness: Witness, run: Running, found: Noticed) -> None:
    """For its signature under what the cell has signed, which an auditor is shown then."""
    last, seen = run.checkpoint_signer.last, await witness.proofs.witnessed(origin_of(HERE))
    if last is None or seen is None or run.checkpoint_signer.broken or run.task.done():
        return
    try:
        path = await TreeReader(run.proofs, last.size).consistency(min(seen.size, last.size))
        asked = Asked(key=str(KEYS.log.verifier), note=last.note, old_size=seen.size, path=path)
        line = await witness.cosign(HERE, asked)
        await run.proofs.add_cosignature(last.size, THERE, line, SystemClock().wall())
    except TreeIncomplete:
        found.witness.add("no proof")
    except Refused as refused:
        found.witness.add(refused.reason)


async def _write_on(run: Running, found: Noticed) -> None:
    """The next commit of the cell that was leading."""
    epoch, writing = run.cell.writer.epoch, asyncio.ensure_future(run.write(1))
    await asyncio.wait([writing, run.task], return_when=asyncio.FIRST_COMPLETED)
    if run.task.done():
        writing.cancel()
    [failed] = await asyncio.gather(writing, return_exceptions=True)
    if failed is not None:
        # It ends, or leads anew.
        await until(lambda: run.task.done() or (run.cell.leading and run.cell.writer.epoch > epoch))
    if run.task.done():
        found.alarm |= _why(run.task)


def _started(run: Running, found: Noticed) -> None:
    if run.task.done():
        found.alarm |= _why(run.task)
    elif run.checkpoint_signer.broken:
        found.alarm.add("signing")


def _why(task: "asyncio.Task[None]") -> set[str]:
    error = task.exception()
    return {"head seal" if isinstance(error, HeadNotProven) else "start"}


@asynccontextmanager
async def based(cluster: EmbeddedPostgres, templates: dict[str, str]) -> AsyncIterator[Base]:
    """A market of two cells, of which one signs, is witnessed and is going to be changed."""
    checkpoint_file, names = CheckpointInMemory(), {each: f"tampered_{each}" for each in ("here", "old")}
    await copy_database(cluster, templates[HERE], names["here"])
    dsn = cluster.dsn(names["here"])
    [(accepted,)] = await ask(dsn, "SELECT position FROM head")
    for size in SIZES:
        async with running(dsn, checkpoint_file, accepted) as run:
            if size == SIZES[0]:
                await _refused(run)
            await run.write(size - run.cell.time.durable_position)
            await run.signed()
            await _cosigned(run)
        await direct_passes(dsn, HERE).run(Order(replay_key=REPLAY_KEY), lambda _: None)
        if size == SIZES[0]:
            await copy_database(cluster, names["here"], names["old"])
    notes = tuple(each for (each,) in await ask(dsn, "SELECT note FROM checkpoints ORDER BY size"))
    async with AsyncExitStack() as stack:
        there_dsn = await clone(cluster, templates[THERE])
        store = await stack.enter_async_context(opened(there_dsn, THERE))
        there = build_cell(THERE, store, peers=DirectPeers(cut={HERE}))
        task = asyncio.create_task(there.run())
        await until(lambda: there.leading)
        free = asyncio.Queue[str]()
        for _ in range(TOGETHER):
            changed = await clone(cluster, names["here"])
            await keep(changed)
            free.put_nowait(changed)
        yield Base(
            cluster=cluster,
            here=names["here"],
            old=names["old"],
            there=templates[THERE],
            notes=notes,
            neighbour=Clearing(cell=there, store=store, peers=DirectCutPeers(THERE, DirectPeers(), {})),
            free=free,
        )
        there.stop()
        await task


async def _refused(run: Running) -> None:
    """An answer that is stored, and that no event tells of."""
    withdrawal = Withdraw(user_id=await open_user(run.cell), amount=Money("USD", 1), external_reference="iban")
    with suppress(InsufficientFunds):
        await run.cell.execute(request(withdrawal))


async def _cosigned(run: Running) -> None:
    last = run.checkpoint_signer.last
    assert last is not None
    line = WITNESS_KEYS.witness.cosign(last.note.partition("\n\n")[0] + "\n", 1_800_000_000)
    await run.proofs.add_cosignature(last.size, THERE, line, SystemClock().wall())
    assert checkpoint_in(last.note + line, VERIFIERS).cosigned
    assert last.note.startswith(origin_of(HERE))
