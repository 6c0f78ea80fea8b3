"""Following the log by position: catch up from the table, say so once, then follow as commits come."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from cells.celltime import CellTime
from cells.domain.audit_refusals import EventDamaged
from cells.domain.refusals import Unavailable
from cells.group import Commit
from cells.ports import EventFilter, EventRow, Store, StoreError
from cells.requests import CaughtUp

log = structlog.get_logger()

PAGE = 500
# Another process may lead: its commits are noticed by looking.
LOOK_S = 0.5


@dataclass(slots=True, eq=False)
class _Reader:
    # The next position that it is to be given.
    position: int


@dataclass(slots=True, kw_only=True)
class Subscriptions:
    """A reader holds a position and nothing else: a slow one costs no memory, it reads the table later."""

    store: Store
    time: CellTime
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _readers: set[_Reader] = field(default_factory=set)

    @property
    def behind(self) -> list[int]:
        """Of each reader: how many durable positions it has not been given yet."""
        return [max(self.time.durable_position + 1 - reader.position, 0) for reader in self._readers]

    def follow(self, commit: Commit) -> None:
        if commit.events:
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def read(self, *, from_position: int, event_filter: EventFilter) -> AsyncGenerator[EventRow | CaughtUp, None]:
        reader, caught_up = _Reader(max(from_position, 1)), False
        self._readers.add(reader)
        try:
            while True:
                news = self._news
                # Read the head first: whatever is written later is found by the next look.
                head, rows, more = await self._page(reader.position, event_filter)
                for row in rows:
                    yield row
                    reader.position = row.position + 1
                if more:
                    continue
                reader.position = max(reader.position, head + 1)
                if not caught_up:
                    caught_up = True
                    yield CaughtUp(head)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await news.wait()
        finally:
            self._readers.discard(reader)

    async def _page(self, position: int, event_filter: EventFilter) -> tuple[int, list[EventRow], bool]:
        """The head as it was before the rows were read, the next rows, and whether there may be more.

        Raises EventDamaged where the very next row is none that the log can hold; what is before it is given first.
        """
        limit = PAGE
        while True:
            try:
                head = (await self.store.head()).position
                rows = await self.store.events(from_position=position, limit=limit, event_filter=event_filter)
            except StoreError as error:
                raise Unavailable(problem=str(error)) from error
            except ValueError as error:
                if limit == 1:
                    log.critical("event_damaged", cell=self.time.cell, position=position, problem=str(error))
                    where = f"the next one from position {position} on"
                    raise EventDamaged(
                        event_id=where, position=position, cell=self.time.cell, problem=str(error)
                    ) from error
                limit //= 2
                continue
            return head, rows, len(rows) == limit
