"""The audit of a cell's own tables, on a schedule and on demand: it reports mismatches, and repairs them on request.

State that is known to be wrong is quarantined: no command is decided and no query is answered from it until it is
repaired.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import structlog

from cells.audit.checks.alarms import recorded
from cells.audit.checks.copies import Copies
from cells.audit.proofs.ports import SignedCheckpoint
from cells.audit.reconcile.cuts import Clearing, Compared
from cells.audit.reconcile.findings import Check, Finding, Order, Progress, Report, Tell, WrongState
from cells.audit.reconcile.passes import Passes
from cells.audit.reconcile.replay_state import AuditStateStore
from cells.background import Background, in_background
from cells.cell import Cell
from cells.domain.audit.refusals import AuditUnderWay
from cells.domain.commands import ReportMismatches
from cells.domain.record import replace
from cells.domain.refusals import NotLeading, Refused
from cells.domain.values import Kind, Ref
from cells.requests import Author
from cells.store.ports import StoreError

log = structlog.get_logger()

# Findings logged one by one; beyond that, only their number is.
LOG_MAX = 20

# Loads the in-memory state of these kinds anew: timers, and the sagas in flight.
Reload = Callable[[AbstractSet[Kind]], Awaitable[None]]
Signed = Callable[[], SignedCheckpoint | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The result of a pass over this cell's tables and the comparison with other cells, which a rebuild lacks."""

    report: Report
    clearing: Compared = field(default_factory=Compared)

    @property
    def findings(self) -> list[Finding]:
        return [*self.report.findings, *self.clearing.findings]

    @property
    def findings_count(self) -> int:
        return self.report.findings_count + len(self.clearing.findings)


@dataclass(slots=True, kw_only=True)
class ReconciliationService(Background):
    cell: Cell
    passes: Passes
    clearing: Clearing
    states: AuditStateStore
    reload: Reload
    # The last checkpoint that this cell has signed.
    signed: Signed = lambda: None
    # None if users cannot move here.
    copies: Copies | None = None
    # 0: only on demand.
    every_s: int = 0
    # A pass begins at the first event if none has done so for this long; 0: only on demand.
    full_every_s: int = 0
    # The rate of scheduled passes; 0: no limit.
    events_per_s: int = 0
    # For metrics: findings since this process leads, findings of the last pass, and where it ended.
    tally: Counter[Check] = field(default_factory=Counter)
    passes_count: int = 0
    last: Reconciliation | None = None
    # When the last pass ended, or when this process began to lead; None if it does not lead.
    since_s: float | None = None
    _recorded: frozenset[Finding] = frozenset()
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- life -------------------------------------------------------------------------------------------------------

    @property
    def age_s(self) -> float:
        """The age of the last pass, or of this process's leadership if there was none."""
        return 0.0 if self.since_s is None else self.cell.time.clock.monotonic_s() - self.since_s

    async def start(self) -> None:
        self.since_s = self.cell.time.clock.monotonic_s()
        if self.every_s:
            self.background.start()

    async def stop(self) -> None:
        self.last = self.since_s = None
        await self.background.stop()

    @in_background("reconciliation", outages=(Refused,))
    async def _wait_and_reconcile(self) -> None:
        await asyncio.sleep(self.every_s)
        await self.reconcile(Order(events_per_s=self.events_per_s, full_every_s=self.full_every_s))

    # --- looking ----------------------------------------------------------------------------------------------------

    async def reconcile(
        self, order: Order, *, author: Author | None = None, tell: Tell = lambda _: None
    ) -> Reconciliation:
        """Compares everything, and raises an alarm if something is wrong.

        Raises:
            NotLeading: only the leader reconciles; AuditUnderWay: a pass is running; Unavailable: the pass failed.
        """
        async with self.alone():
            report = await self.run_pass(order, tell)
            await self.hold(report.states)
            tell(Progress(stage="clearing", done=0, total=1))
            clearing = await self._cleared(full=report.full)
            tell(Progress(stage="clearing", done=1, total=1))
            found = Reconciliation(report=report, clearing=await self._with_copies(report, clearing, tell))
            await self.publish(found, author)
            return found

    def alone(self) -> asyncio.Lock:
        """The lock under which tables are compared and repaired. Raises NotLeading, AuditUnderWay."""
        if not self.cell.leading:
            raise NotLeading(cell=self.cell.name)
        if self._busy.locked():
            raise AuditUnderWay(cell=self.cell.name)
        return self._busy

    async def run_pass(self, order: Order, tell: Tell) -> Report:
        signed = self.signed()
        if signed is not None:
            order = replace(order, signed_size=signed.size, signed_root=signed.root.hex())
        return await self.passes.run(replace(order, replay_key=self.states.replay_key), tell)

    async def _cleared(self, *, full: bool) -> Compared:
        try:
            return await self.clearing.compare(full=full)
        except (Refused, StoreError, OSError) as error:
            # This cell's tables were compared all the same: report that the others were not.
            return Compared(missing={self.cell.name: str(error)})

    async def _with_copies(self, report: Report, clearing: Compared, tell: Tell) -> Compared:
        """Adds the copies that users brought from other cells, since the last pass or from the beginning."""
        if self.copies is None:
            return clearing
        try:
            proven = await self.copies.compare(report.from_position, report.position, tell)
            findings, missing = proven.findings, proven.missing
        except (StoreError, OSError) as error:
            findings, missing = [], {self.cell.name: f"copies of moved events are not proven: {error}"}
        return clearing._replace(findings=[*clearing.findings, *findings], missing={**missing, **clearing.missing})

    async def hold(self, states: Sequence[WrongState]) -> None:
        """Quarantines exactly these states, and releases all others."""
        cache = self.cell.writer.cache
        wrong = {Ref(each.kind, each.id): each.found for each in states}
        if wrong or cache.held:
            cache.hold(wrong)
            await self.release([ref for ref in cache.held if ref not in wrong])

    async def release(self, refs: Sequence[Ref]) -> None:
        """Releases states that are right again."""
        cache = self.cell.writer.cache
        cache.let_go(refs)
        await self.states.keep(cache.held)

    async def publish(self, found: Reconciliation, author: Author | None) -> None:
        """Records the result, and raises an alarm for findings."""
        self.last, self.since_s = found, self.cell.time.clock.monotonic_s()
        self.passes_count += 1
        self.tally.update(finding.check for finding in found.findings)
        if not found.findings_count:
            self._recorded = frozenset()
            log.info("reconciled", position=found.report.position, events_count=found.report.events_count)
            return
        self._alarm(found)
        # Findings that repeat in every pass are recorded once.
        findings = frozenset(found.findings)
        if findings - self._recorded:
            await self.cell.writer.record(
                ReportMismatches(
                    full=found.report.full,
                    from_log_position=found.report.from_position,
                    log_position=found.report.position,
                    findings_count=found.findings_count,
                    findings=recorded(found.findings),
                ),
                author,
            )
            self._recorded |= findings

    def _alarm(self, found: Reconciliation) -> None:
        report = found.report
        log.error(
            "reconciliation_failed",
            findings_count=found.findings_count,
            position=report.position,
            halted_count=len(report.halted),
            damaged_count=report.damaged_count,
        )
        for each in found.findings[:LOG_MAX]:
            # Logs hold no amounts: the event and the answer hold the expected and the found values.
            log.error("mismatch", check=each.check, row=each.found if each.check is Check.BOOKS else each.row)
