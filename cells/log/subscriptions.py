"""Follows the log by position: catches up from the table, reports that once, then follows new commits."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from cells.background import Background, in_background
from cells.domain.audit.refusals import EventDamaged, PositionNotReached
from cells.log.tail import LogReader, LogTail
from cells.requests import CaughtUp, Progress
from cells.store.failures import map_store_errors
from cells.store.ports import EventFilter, EventRow, Store, StoreError
from cells.time.celltime import CellTime
from cells.writer.batch import Commit

log = structlog.get_logger()

PAGE = 500
# One query scans at most this many positions, however few events match.
POSITIONS_MAX = 10_000
# Concurrent queries of all readers that catch up; further ones wait. Other reads have the other connections.
QUERIES_MAX = 2
# Another process may lead: its commits are read from the table, once for all readers.
POLL_S = 0.5
# A reader without events receives its progress this often.
PROGRESS_S = 5.0


@dataclass(slots=True, kw_only=True)
class Subscriptions(Background):
    """Readers that have caught up are fed from memory. A slow one costs no memory: it reads the table later."""

    store: Store
    time: CellTime
    tail: LogTail = field(default_factory=LogTail)
    _readers: set[LogReader] = field(default_factory=set)
    _queries: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUERIES_MAX))

    @property
    def behind(self) -> list[int]:
        """For each reader: the number of durable positions that it has not received yet."""
        head = max(self.time.durable_position, self.tail.last)
        return [max(head - self._passed(reader), 0) for reader in self._readers]

    def _passed(self, reader: LogReader) -> int:
        return self.tail.passed(reader) if reader.attached else reader.position - 1

    def follow(self, commit: Commit) -> None:
        """Receives each commit of this process, in order."""
        if self._readers and commit.events:
            self.tail.publish([event.row for event in commit.events])

    async def read(
        self, *, from_position: int, event_filter: EventFilter
    ) -> AsyncGenerator[EventRow | CaughtUp | Progress, None]:
        """Raises Unavailable, PositionNotReached beyond the log's end, and EventDamaged at an impossible row."""
        reader = LogReader(max(from_position, 1), event_filter)
        heard_s, caught_up = self._now_s(), False
        self._begin(reader)
        try:
            while True:
                reader.news.clear()
                live = self.tail.take(reader, PAGE)
                page = await self._page(reader) if live is None else _Page(live)
                for row in page.rows:
                    yield row
                    reader.position, heard_s = row.position + 1, self._now_s()
                if self._goes_live(reader, page) and not caught_up:
                    heard_s, caught_up = self._now_s(), True
                    yield CaughtUp(page.head)
                if self._now_s() - heard_s >= PROGRESS_S:
                    heard_s = self._now_s()
                    yield Progress(self._passed(reader))
                if live == []:
                    await self._news(reader, heard_s + PROGRESS_S)
        finally:
            self._end(reader)

    def _now_s(self) -> float:
        return self.time.clock.monotonic_s()

    async def _news(self, reader: LogReader, until_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(until_s - self._now_s(), 0.0)):
                await reader.news.wait()

    def _begin(self, reader: LogReader) -> None:
        if not self._readers:
            self.tail.restart(self.time.durable_position)
            self.background.start()
        self._readers.add(reader)

    def _end(self, reader: LogReader) -> None:
        self.tail.detach(reader)
        self._readers.discard(reader)
        if not self._readers:
            self.background.cancel()

    # --- the table --------------------------------------------------------------------------------------------------

    def _goes_live(self, reader: LogReader, page: "_Page") -> bool:
        """Records the events read from the table; True if there are no more."""
        if page.until is None:
            return False
        reader.position = max(reader.position, page.until + 1)
        if page.until < page.head:
            return False
        if not self.time.leading and not self.tail.feeds_any:
            self.tail.restart(page.head)
        return self.tail.attach(reader)

    async def _page(self, reader: LogReader) -> "_Page":
        """Raises EventDamaged if the very next row is invalid; earlier rows are returned first."""
        position, limit = reader.position, PAGE
        while True:
            try:
                async with self._queries:
                    # Read before the rows: the next query finds rows written later.
                    head = self.time.durable_position
                    if not self.time.leading:
                        head = (await map_store_errors(self.store.head())).position
                    if position > head + 1:
                        raise PositionNotReached(cell=self.time.cell, head=head, next=head + 1, position=position)
                    until = head if reader.wanted.has_index else min(position + POSITIONS_MAX - 1, head)
                    page = self.store.events(
                        from_position=position, until_position=until, limit=limit, event_filter=reader.wanted
                    )
                    rows = await map_store_errors(page)
            except ValueError as error:
                if limit == 1:
                    log.critical("event_damaged", cell=self.time.cell, position=position, problem=str(error))
                    where = f"the next one from position {position} on"
                    raise EventDamaged(
                        event_id=where, position=position, cell=self.time.cell, problem=str(error)
                    ) from error
                limit //= 2
                continue
            return _Page(rows, rows[-1].position if len(rows) == limit else until, head)

    @in_background("subscriptions", outages=(StoreError, ValueError))
    async def _poll(self) -> None:
        """Feeds readers while another process leads, and sends them to the table after a change of leaders."""
        await asyncio.sleep(POLL_S)
        try:
            await self._look()
        except Exception:
            # Each reader asks the table itself, and gets the error from there.
            self.tail.restart(self.tail.last)
            raise

    async def _look(self) -> None:
        if self.time.leading and self.tail.last != self.time.durable_position:
            self.tail.restart(self.time.durable_position)
        while not self.time.leading and self.tail.feeds_any:
            rows = await self.store.events(from_position=self.tail.last + 1, limit=PAGE)
            if rows and not self.time.leading and self.tail.feeds_any and rows[0].position == self.tail.last + 1:
                self.tail.publish(rows)
            if len(rows) < PAGE:
                return


class _Page(NamedTuple):
    rows: Sequence[EventRow]
    # From the table: it contains all matching events up to here, and the log's end. None: from memory.
    until: int | None = None
    head: int = 0
