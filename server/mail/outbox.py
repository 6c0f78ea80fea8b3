"""Notices that wait to be sent: a table, so that neither a crash nor a mail server that is away loses one."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from cells.ports import Notice
from cells.sql import queries
from server.shell.database import Pool

SQL = queries("cells.sql", "outbox.sql")
QUEUED = "QUEUED"
# How long it can be looked up what became of a notice.
KEPT_DAYS = 30
TOGETHER_MAX = 1_000


class End(StrEnum):
    """How a notice can end. Each but SENT leaves a word about the problem, which names no address."""

    # The server has confirmed it.
    SENT = "SENT"
    NO_ADDRESS = "NO_ADDRESS"
    # The server has said no for good.
    REFUSED = "REFUSED"
    # It was tried for as long as it is of interest.
    EXPIRED = "EXPIRED"
    # The server may have taken it: nobody can tell, and twice would be worse than never.
    UNCONFIRMED = "UNCONFIRMED"


class Due(NamedTuple):
    notice: Notice
    attempts: int
    age_s: float
    # Why it was put off the last time.
    problem: str


class Waiting(NamedTuple):
    """What is in the queue, and how long until the first of it is due."""

    notices: int
    oldest_s: float
    next_due_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    pool: Pool
    # Set when something has been queued.
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def notify(self, notice: Notice) -> str:
        """Queues it, once however often it is asked for. Raises what the database raises."""
        await self.pool.execute(SQL["put"], *notice)
        self.news.set()
        return QUEUED

    async def due(self, limit: int) -> list[Due]:
        rows = await self.pool.fetch(SQL["due"], limit)
        return [Due(Notice(*row[:-3]), row["attempts"], row["age_s"], row["problem"]) for row in rows]

    async def waiting(self) -> Waiting:
        [row] = await self.pool.fetch(SQL["waiting"])
        return Waiting(*row)

    async def claim(self, notice_id: UUID) -> bool:
        """Durably, before a byte is sent: False where somebody else sends it."""
        return bool(await self.pool.execute(SQL["claim"], notice_id) == "UPDATE 1")

    async def end(self, notice_id: UUID, end: End, problem: str = "") -> None:
        await self.pool.execute(SQL["end"], notice_id, end.value, problem)

    async def put_off(self, notice_id: UUID, problem: str, pause_s: float, *, claimed: bool = False) -> None:
        """`claimed`: it is ours to give back. Else nothing happens to what somebody else has claimed meanwhile."""
        await self.pool.execute(SQL["put_off"], notice_id, problem, pause_s, "SENDING" if claimed else QUEUED)

    async def give_up_unknown(self) -> None:
        """What a process that is gone was sending."""
        await self.pool.execute(SQL["give_up_unknown"])

    async def forget(self) -> None:
        """What has ended long ago."""
        await self.pool.execute(SQL["forget"], KEPT_DAYS, TOGETHER_MAX)
