"""Records findings about changed logs in the log as well: the leader records each of them once."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import structlog

from cells.audit.reconcile.findings import Finding
from cells.domain.audit.events import Mismatch
from cells.domain.commands import ReportMismatches
from cells.domain.refusals import Refused
from cells.time.celltime import CellTime

log = structlog.get_logger()

# Findings in one event; beyond that, only their number is.
RECORDED_MAX = 50
RECORDED_TEXT_MAX = 300


def recorded(findings: Iterable[Finding | Mismatch]) -> tuple[Mismatch, ...]:
    """The findings as an event has them."""
    return tuple(
        Mismatch(
            check=str(each.check),
            row=each.row[:RECORDED_TEXT_MAX],
            expected=each.expected[:RECORDED_TEXT_MAX],
            found=each.found[:RECORDED_TEXT_MAX],
        )
        for each in islice(findings, RECORDED_MAX)
    )


@dataclass(slots=True, kw_only=True)
class LogAlarms:
    """`record` submits the finding as an internal command of this cell."""

    record: Callable[[ReportMismatches], Awaitable[None]]
    time: CellTime
    _recorded: set[tuple[str, str]] = field(default_factory=set)

    async def tell(self, check: str, found: Mapping[str, str], kind: str = "") -> None:
        """`found` maps the name of a row to its problem. Problems of one `kind` are told once, however they are worded.

        A peer words its requests: with other numbers each time it would fill this log.
        """
        fresh = [(row, problem) for row, problem in found.items() if (row, kind or problem) not in self._recorded]
        if not fresh or not self.time.leading:
            return
        command = ReportMismatches(
            full=False,
            from_log_position=0,
            log_position=self.time.durable_position,
            findings_count=len(fresh),
            findings=recorded(
                Mismatch(check=check, row=row, expected="what was signed", found=problem) for row, problem in fresh
            ),
        )
        keys = {(row, kind or problem) for row, problem in fresh}
        # Before it is durable: others may say the same meanwhile.
        self._recorded |= keys
        try:
            await self.record(command)
        except Refused as error:
            self._recorded -= keys
            log.warning("alarm_not_recorded", problem=error.message)
