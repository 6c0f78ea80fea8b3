"""Records reads by staff in the log, in batches, so that a read neither waits for a commit nor causes one.

Every process of a cell notes the reads that it answers, and sends them to the leader, which writes them. Until then
they are only in memory: a process that is killed loses them.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import islice

import structlog

from cells.background import Background, in_background
from cells.domain.audit.events import Access
from cells.domain.audit.refusals import AccessLogFull
from cells.domain.refusals import Refused
from cells.store.ports import Clock, PeerUnknown

log = structlog.get_logger()

# A process that is killed loses at most the accesses of this interval and of one commit.
FLUSH_S = 5.0
# Accesses in one event.
ACCESSES_MAX = 250
# Subjects listed per principal and minute; more subjects become one entry per method.
SUBJECTS_MAX = 100
# Accesses that may wait for a leader. Reads that cannot be recorded are refused.
WAITING_MAX = 10_000
LAST_FLUSH_S = 2.0
MINUTE_MS = 60_000
MORE = "*"


@dataclass(slots=True, kw_only=True)
class AccessLog(Background):
    """`record` commits accesses in this process if it leads, otherwise through the leader."""

    clock: Clock
    record: Callable[[tuple[Access, ...]], Awaitable[None]]
    _minute_ms: int = 0
    # Principal -> accesses noted in this minute.
    _noted: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    _waiting: deque[Access] = field(default_factory=deque)

    def note(self, principal: str, method: str, subject: str) -> None:
        """Notes a read, once a minute. Raises AccessLogFull."""
        minute_ms = self._minute()
        if minute_ms != self._minute_ms:
            self._minute_ms = minute_ms
            self._noted.clear()
        noted = self._noted.setdefault(principal, set())
        if (method, subject) in noted:
            return
        if len(noted) >= SUBJECTS_MAX:
            subject = MORE
            if (method, subject) in noted:
                return
        if len(self._waiting) >= WAITING_MAX:
            raise AccessLogFull(waiting=len(self._waiting))
        noted.add((method, subject))
        self._waiting.append(Access(principal=principal, method=method, subject=subject, minute_ms=minute_ms))

    def access(self, principal: str, method: str, subject: str, reason: str) -> Access:
        """A read at this moment, to be recorded by the caller."""
        return Access(principal=principal, method=method, subject=subject, minute_ms=self._minute(), reason=reason)

    def _minute(self) -> int:
        """When the present one began."""
        now_ms = self.clock.wall_ms()
        return now_ms - now_ms % MINUTE_MS

    @in_background("accesses", every_s=FLUSH_S, outages=(Refused, PeerUnknown))
    async def flush(self) -> None:
        """Records the waiting accesses; those that cannot be recorded keep waiting."""
        while self._waiting:
            part = tuple(islice(self._waiting, ACCESSES_MAX))
            await self.record(part)
            for _ in part:
                self._waiting.popleft()

    async def stop(self) -> None:
        await self.background.stop()
        try:
            async with asyncio.timeout(LAST_FLUSH_S):
                await self.flush()
        except (Refused, PeerUnknown, TimeoutError) as problem:
            log.warning("accesses_not_recorded", accesses_count=len(self._waiting), problem=str(problem))
