"""The audit of a cell's own tables, on a schedule and on demand: it reports mismatches, and repairs them on request.

State that is known to be wrong is quarantined: no command is decided and no query is answered from it until it is
repaired.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import structlog

from cells.audit.checks.copies import Proven
from cells.audit.proofs.ports import SignedCheckpoint
from cells.audit.reconcile.cuts import Compared
from cells.audit.reconcile.findings import Check, Finding, Progress, Report, WrongState
from cells.audit.reconcile.one_pass import AnotherPass
from cells.audit.reconcile.passes import Order, Passes, PassFailed, Tell
from cells.audit.reconcile.rebuild import Rebuild, Rebuilt, Reload
from cells.background import BackgroundTask
from cells.cell import Cell
from cells.domain.audit.events import Mismatch
from cells.domain.audit.refusals import AuditUnderWay
from cells.domain.commands import ReportMismatches
from cells.domain.record import replace
from cells.domain.refusals import NotLeading, Refused, Unavailable
from cells.domain.time.hlc import Stamp
from cells.domain.values import Ref
from cells.requests import Author
from cells.store.ports import Fenced, StoreError, Versioned

log = structlog.get_logger()

# Findings logged and recorded one by one; beyond that, only their number is.
LOG_MAX = 20
RECORDED_MAX = 50
RECORDED_TEXT_MAX = 300


NOT_COMPARED = Compared([], 0, [], {}, Stamp(0, 0))


class ClearingCheck(Protocol):
    async def compare(self, *, full: bool) -> Compared: ...


class CopyCheck(Protocol):
    async def compare(self, after: int, until: int, tell: Tell) -> Proven: ...


class HeldTable(Protocol):
    async def keep(self, held: Mapping[Ref, str]) -> None: ...


StatesOf = Callable[[Sequence[UUID]], Awaitable[dict[Ref, Versioned]]]
Signed = Callable[[], SignedCheckpoint | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The result of a pass over this cell's tables and the comparison with other cells."""

    report: Report
    clearing: Compared

    @property
    def findings(self) -> list[Finding]:
        return [*self.report.findings, *self.clearing.findings]

    @property
    def findings_count(self) -> int:
        return self.report.findings_count + len(self.clearing.findings)


@dataclass(slots=True, kw_only=True)
class ReconciliationService:
    cell: Cell
    passes: Passes
    clearing: ClearingCheck
    held: HeldTable
    # The replayed states of aggregates, as the last pass left them.
    states_of: StatesOf
    reload: Reload
    # The last checkpoint that this cell has signed.
    signed: Signed = lambda: None
    # None if users cannot move here.
    copies: CopyCheck | None = None
    # 0: only on demand.
    every_s: int = 0
    # A pass begins at the first event if none has done so for this long; 0: only on demand.
    full_every_s: int = 0
    # The rate of scheduled passes; 0: no limit.
    events_per_s: int = 0
    # The key that seals the replay state between passes; empty: no seal.
    replay_key: bytes = b""
    # For metrics: findings since this process leads, findings of the last pass, and where it ended.
    tally: Counter[Check] = field(default_factory=Counter)
    passes_count: int = 0
    last: Reconciliation | None = None
    # When the last pass ended, or when this process began to lead; None if it does not lead.
    since_s: float | None = None
    _told: frozenset[Finding] = frozenset()
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="reconciliation", work=self._wait_and_reconcile, outages=(Refused,))

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
        async with self._alone():
            report = await self.run_pass(order, tell)
            await self.hold(report.states)
            tell(Progress(stage="clearing", done=0, total=1))
            clearing = await self._cleared(full=report.full)
            tell(Progress(stage="clearing", done=1, total=1))
            found = Reconciliation(report=report, clearing=await self._with_copies(report, clearing, tell))
            await self._publish(found, author)
            return found

    def _alone(self) -> asyncio.Lock:
        if not self.cell.leading:
            raise NotLeading(cell=self.cell.name)
        if self._busy.locked():
            raise AuditUnderWay(cell=self.cell.name)
        return self._busy

    async def run_pass(self, order: Order, tell: Tell) -> Report:
        signed = self.signed()
        if signed is not None:
            order = replace(order, signed_size=signed.size, signed_root=signed.root.hex())
        try:
            return await self.passes.run(replace(order, replay_key=self.replay_key.hex()), tell)
        except AnotherPass:
            raise AuditUnderWay(cell=self.cell.name) from None
        except Fenced:
            raise NotLeading(cell=self.cell.name) from None
        except PassFailed as error:
            raise Unavailable(problem=str(error)) from error

    async def _cleared(self, *, full: bool) -> Compared:
        try:
            return await self.clearing.compare(full=full)
        except (Refused, StoreError, OSError) as error:
            # This cell's tables were compared all the same: report that the others were not.
            return Compared([], 0, [], {self.cell.name: str(error)}, Stamp(0, 0))

    async def _with_copies(self, report: Report, clearing: Compared, tell: Tell) -> Compared:
        """Adds the copies that users brought from other cells, since the last pass or from the beginning."""
        if self.copies is None:
            return clearing
        try:
            copies = await self.copies.compare(report.from_position, report.position, tell)
        except (StoreError, OSError) as error:
            copies = Proven([], {self.cell.name: f"copies of moved events are not proven: {error}"}, 0)
        findings = [*clearing.findings, *copies.findings]
        return clearing._replace(findings=findings, missing=copies.missing | clearing.missing)

    async def hold(self, states: Sequence[WrongState]) -> None:
        """Quarantines exactly these states, and releases all others."""
        cache = self.cell.writer.cache
        wrong = {Ref(each.kind, each.id): each.found for each in states}
        if not wrong and not cache.held:
            return
        cache.hold(wrong)
        cache.let_go([ref for ref in cache.held if ref not in wrong])
        await self.held.keep(cache.held)

    async def release(self, refs: Sequence[Ref]) -> None:
        """Releases states that are right again."""
        cache = self.cell.writer.cache
        cache.let_go(refs)
        await self.held.keep(cache.held)

    async def replayed(self, ids: Sequence[UUID]) -> dict[Ref, Versioned]:
        return await self.states_of(ids)

    async def publish(self, report: Report, author: Author) -> None:
        """Raises the same alarm for the findings of a rebuild, which does not ask other cells."""
        await self._publish(Reconciliation(report=report, clearing=NOT_COMPARED), author)

    async def _publish(self, found: Reconciliation, author: Author | None) -> None:
        self.last, self.since_s = found, self.cell.time.clock.monotonic_s()
        self.passes_count += 1
        self.tally.update(finding.check for finding in found.findings)
        if not found.findings_count:
            self._told = frozenset()
            log.info("reconciled", position=found.report.position, events_count=found.report.events_count)
            return
        self._alarm(found)
        # Findings that repeat in every pass are recorded once.
        findings = frozenset(found.findings)
        if findings - self._told:
            await self.cell.writer.record(_mismatches(found), author)
            self._told |= findings

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

    async def rebuild(self, *, author: Author, note: str, tell: Tell = lambda _: None) -> Rebuilt:
        """Compares everything from the first event on, and rebuilds wrong rows from the events, while the cell serves.

        Raises what `reconcile` raises; rows that were repaired until then stay repaired.
        """
        async with self._alone():
            return await Rebuild(reconciliation=self, epoch=self.cell.writer.epoch, author=author, note=note).run(tell)


def _mismatches(found: Reconciliation) -> ReportMismatches:
    report = found.report
    return ReportMismatches(
        full=report.full,
        from_log_position=report.from_position,
        log_position=report.position,
        findings_count=found.findings_count,
        findings=tuple(
            Mismatch(
                check=each.check.value,
                row=each.row[:RECORDED_TEXT_MAX],
                expected=each.expected[:RECORDED_TEXT_MAX],
                found=each.found[:RECORDED_TEXT_MAX],
            )
            for each in found.findings[:RECORDED_MAX]
        ),
    )
