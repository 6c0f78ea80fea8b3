"""Repairs a cell's tables from its events while it serves.

Like every change of a state, the repair goes through the writer. It quarantines the aggregate, so that no command is
decided from it; waits until commands in flight are durable; and replays the stream. The writer then replaces the wrong
state, in its row and in memory, in one commit with the event that records it. The owner of the tables repairs rows that
follow from single events (`repair` in cells/audit/reconcile/passes.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.audit.reconcile.findings import Check, Order, Report, Tell
from cells.audit.reconcile.service import Reconciliation, ReconciliationService
from cells.domain.audit.events import CorrectedBalance
from cells.domain.audit.refusals import LogDamaged
from cells.domain.commands import RebuildProjections
from cells.domain.decision import Replacement
from cells.domain.refusals import NotLeading, Unavailable
from cells.domain.values import Ref
from cells.requests import Author

log = structlog.get_logger()

# Aggregates in one commit.
AT_ONCE = 500
# If rows go wrong again during the repair, someone is changing them: the repair stops after this many rounds.
ROUNDS_MAX = 4
# The number of damaged rows that a refusal names.
NAMED_MAX = 5


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """The repaired rows, and the remaining findings: in the log itself, outcomes, or another cell's part."""

    before: Report = field(init=False)
    after: Report = field(init=False)
    states_count: int = 0
    house_count: int = 0
    rows_count: int = 0
    # Why rows that only the owner may change were not repaired; empty if they were.
    rows_problem: str = ""


async def rebuild(
    reconciliation: ReconciliationService, *, author: Author, note: str, tell: Tell = lambda _: None
) -> Rebuilt:
    """Compares everything from the first event on, and rebuilds wrong rows from the events, while the cell serves.

    Raises what `reconcile` raises, and LogDamaged; rows that were repaired until then stay repaired.
    """
    async with reconciliation.alone():
        epoch = reconciliation.cell.writer.epoch
        return await Rebuild(reconciliation=reconciliation, epoch=epoch, author=author, note=note).run(tell)


@dataclass(slots=True, kw_only=True)
class Rebuild:
    """Call `run` once."""

    reconciliation: ReconciliationService
    # The epoch of the replay: a later leader would know newer state than the replayed one.
    epoch: int
    author: Author
    note: str
    done: Rebuilt = field(default_factory=Rebuilt)

    async def run(self, tell: Tell) -> Rebuilt:
        done, reconciliation = self.done, self.reconciliation
        done.before = wrong = await self._mended(Order(full=True, mend_epoch=self.epoch), tell)
        await reconciliation.publish(Reconciliation(report=wrong), self.author)
        await reconciliation.hold(wrong.states)
        self._require_log(wrong)
        if wrong.mended_count:
            await self._write((), (), wrong.mended_count)
        for _ in range(ROUNDS_MAX):
            if not (wrong.states or wrong.house):
                break
            wrong = await self._round(tell)
            self._require_log(wrong)
        done.after = await reconciliation.run_pass(Order(full=True), tell)
        await reconciliation.publish(Reconciliation(report=done.after), self.author)
        await reconciliation.hold(done.after.states)
        await reconciliation.reload({each.kind for each in done.before.states})
        log.warning(
            "rebuilt",
            states_count=done.states_count,
            house_count=done.house_count,
            rows_count=done.rows_count,
            left_count=done.after.findings_count,
        )
        return done

    def _require_log(self, report: Report) -> None:
        """Raises LogDamaged: tables are not rebuilt from events that were changed."""
        if report.damaged_count:
            named = [each.row for each in report.findings if each.check is Check.EVENT]
            rows = "; ".join([*named[:NAMED_MAX], *(["and others"] if len(named) > NAMED_MAX else [])])
            raise LogDamaged(cell=report.cell, damaged_count=report.damaged_count, rows=rows)

    async def _mended(self, order: Order, tell: Tell) -> Report:
        """Runs a pass that repairs rows, if a connection with the owner's role is possible."""
        try:
            report = await self.reconciliation.run_pass(order, tell)
        except Unavailable as error:
            self.done.rows_problem = str(error.facts["problem"])
            return await self.reconciliation.run_pass(Order(full=order.full), tell)
        self.done.rows_count += report.mended_count
        return report

    async def _round(self, tell: Tell) -> Report:
        """Repairs states that were quarantined before: only those are unchanged since and can be fully replayed."""
        writer = self.reconciliation.cell.writer
        held = frozenset(writer.cache.held)
        await writer.settled()
        strangers = tuple(sorted(ref.id for ref in held))
        order = Order(mend_epoch=None if self.done.rows_problem else self.epoch, strangers=strangers)
        wrong = await self._mended(order, tell)
        await self.reconciliation.hold(wrong.states)
        still = [each for each in wrong.states if Ref(each.kind, each.id) in held]
        await self._replace([each.id for each in still if each.stream_version], wrong)
        gone = [Ref(each.kind, each.id) for each in still if not each.stream_version]
        if wrong.mended_count:
            self.done.states_count += len(gone)
            await self._write((), (), wrong.mended_count)
            await self.reconciliation.release(gone)
        return wrong

    async def _replace(self, ids: Sequence[UUID], wrong: Report) -> None:
        replayed = await self.reconciliation.states.states(ids)
        states = [Replacement(ref, entry.state, entry.stream_version) for ref, entry in sorted(replayed.items())]
        house = tuple(wrong.house)
        for first in range(0, max(len(states), 1), AT_ONCE):
            part = tuple(states[first : first + AT_ONCE])
            if part or house:
                await self._write(part, house)
            house = ()

    async def _write(
        self, states: tuple[Replacement, ...], house: tuple[CorrectedBalance, ...], rows_count: int = 0
    ) -> None:
        # There is no await from here until the command is queued, and the queue ends with the epoch.
        if self.reconciliation.cell.writer.epoch != self.epoch:
            raise NotLeading(cell=self.reconciliation.cell.name)
        order = RebuildProjections(states=states, house=house, rows_count=rows_count, note=self.note)
        await self.reconciliation.cell.writer.record(order, self.author)
        self.done.states_count += len(states)
        self.done.house_count += len(house)
        await self.reconciliation.release([each.aggregate for each in states])
