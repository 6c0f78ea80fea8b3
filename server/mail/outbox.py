"""Notices that wait to be sent, in a table, so that none is lost if a process crashes or the mail server is away.

Mail to an unproven address is a fixed text with a code, a few times a day. Without this limit any user could make us
send mail to any address, as often as they like and in words of their own.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID, uuid4

from cells.notices import Notice
from cells.sql import queries
from server.contacts.refusals import ConfirmationsExhausted
from server.shell.postgres.database import Connection, Pool

SQL = queries("cells.sql", "outbox.sql")
CONFIRMATIONS = queries("cells.sql", "confirmations.sql")
QUEUED, SKIPPED = "QUEUED", "SKIPPED"
# The notice that asks for confirmation; its `auction` is the address's tag.
CONFIRM_ADDRESS = "CONFIRM_ADDRESS"
A_DAY_FOR_AN_ADDRESS = 3
A_DAY_FOR_A_PERSON = 5
# How long the result of a notice can be looked up.
KEPT_DAYS = 30
TOGETHER_MAX = 1_000


class End(StrEnum):
    """How a notice can end. All but SENT are stored with the problem, which names no address."""

    # The server has confirmed it.
    SENT = "SENT"
    NO_ADDRESS = "NO_ADDRESS"
    # The server has refused it for good.
    REFUSED = "REFUSED"
    # It was tried for as long as it is of interest.
    EXPIRED = "EXPIRED"
    # The server may have accepted it; it is unknown, and a duplicate would be worse than a loss.
    UNCONFIRMED = "UNCONFIRMED"


class Due(NamedTuple):
    notice: Notice
    attempts: int
    age_s: float
    # Why it was last postponed.
    problem: str


class Waiting(NamedTuple):
    """The length of the queue, and the time until its first notice is due."""

    notices: int
    oldest_s: float
    next_due_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    pool: Pool
    # Set when something has been queued.
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def notify(self, notice: Notice) -> str:
        """Queues it, once however often it is called. Raises the database's errors."""
        await self.pool.execute(SQL["put"], *notice)
        self.news.set()
        return QUEUED

    async def ask(self, connection: Connection, user_id: UUID, address_tag: str) -> None:
        """Queues a request for confirmation in the transaction that sets the address; set `news` when it is durable.

        Raises ConfirmationsExhausted.
        """
        confirmation_id, bounds = uuid4(), (A_DAY_FOR_AN_ADDRESS, A_DAY_FOR_A_PERSON)
        await connection.execute(CONFIRMATIONS["lock"])
        await connection.execute(CONFIRMATIONS["forget"])
        noted = await connection.execute(CONFIRMATIONS["note"], confirmation_id, user_id, address_tag, *bounds)
        if noted == "INSERT 0 0":
            raise ConfirmationsExhausted(user_id=str(user_id))
        await connection.execute(SQL["put"], confirmation_id, user_id, CONFIRM_ADDRESS, address_tag, "", 0)

    async def due(self, limit: int) -> list[Due]:
        rows = await self.pool.fetch(SQL["due"], limit)
        return [Due(Notice(*row[:-3]), row["attempts"], row["age_s"], row["problem"]) for row in rows]

    async def waiting(self) -> Waiting:
        [row] = await self.pool.fetch(SQL["waiting"])
        return Waiting(*row)

    async def claim(self, notice_id: UUID) -> bool:
        """Claims it durably, before a byte is sent. False if another process sends it."""
        return bool(await self.pool.execute(SQL["claim"], notice_id) == "UPDATE 1")

    async def end(self, notice_id: UUID, end: End, problem: str = "") -> None:
        await self.pool.execute(SQL["end"], notice_id, end.value, problem)

    async def put_off(self, notice_id: UUID, problem: str, pause_s: float, *, claimed: bool = False) -> None:
        """`claimed`: this process holds the claim. Without it, a notice claimed by another process stays as it is."""
        await self.pool.execute(SQL["put_off"], notice_id, problem, pause_s, "SENDING" if claimed else QUEUED)

    async def give_up_unknown(self) -> None:
        """Ends notices that a process was sending when it died."""
        await self.pool.execute(SQL["give_up_unknown"])

    async def forget(self) -> None:
        """Deletes notices that ended long ago."""
        await self.pool.execute(SQL["forget"], KEPT_DAYS, TOGETHER_MAX)


class NullMailer:
    """The Notifier of a cell that has no mail server configured."""

    async def notify(self, notice: Notice) -> str:  # noqa: ARG002 - the port's signature
        return SKIPPED
