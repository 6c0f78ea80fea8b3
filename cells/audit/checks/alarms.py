"""Records findings about changed logs in the log as well: the leader records each of them once."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from cells.domain.audit.events import Mismatch
from cells.domain.commands import ReportMismatches
from cells.domain.refusals import Refused
from cells.time.celltime import CellTime

log = structlog.get_logger()

# Findings in one event.
LOG_MAX = 50
TEXT_MAX = 300


@dataclass(slots=True, kw_only=True)
class LogAlarms:
    """`record` submits the finding as an internal command of this cell."""

    record: Callable[[ReportMismatches], Awaitable[None]]
    time: CellTime
    _told: set[tuple[str, str]] = field(default_factory=set)

    async def tell(self, check: str, found: Mapping[str, str], kind: str = "") -> None:
        """`found` maps the name of a row to its problem. Problems of one `kind` are told once, however they are worded.

        A peer words its requests: with other numbers each time it would fill this log.
        """
        fresh = [(row, problem) for row, problem in found.items() if (row, kind or problem) not in self._told]
        if not fresh or not self.time.leading:
            return
        mismatches = [
            Mismatch(check=check, row=row[:TEXT_MAX], expected="what was signed", found=problem[:TEXT_MAX])
            for row, problem in fresh[:LOG_MAX]
        ]
        command = ReportMismatches(
            full=False,
            from_log_position=0,
            log_position=self.time.durable_position,
            findings_count=len(fresh),
            findings=tuple(mismatches),
        )
        told = {(row, kind or problem) for row, problem in fresh}
        # Before it is durable: others may say the same meanwhile.
        self._told |= told
        try:
            await self.record(command)
        except Refused as error:
            self._told -= told
            log.warning("alarm_not_recorded", problem=error.message)
