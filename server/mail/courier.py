"""Takes what is in the outbox to the mail server, while this process leads the cell.

A notice is claimed durably before it is sent, so that it is sent once at most: a process that dies in between leaves it
to nobody. What the server has not taken is tried again, later and later, for a day.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg
import structlog

from cells.domain.refusals import Unavailable
from cells.ports import Clock
from server.contacts.refusals import ContactNotFound
from server.contacts.seals import SealBroken
from server.contacts.vault import Contact, Vault
from server.mail.letters import letter
from server.mail.outbox import Due, End, Outbox
from server.mail.smtp import Connection, MailServer, NotSent, Refused, Unconfirmed

TOGETHER_MAX = 50
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 900.0
OF_INTEREST_S = 24 * 3_600.0
# Another process may have queued something without a word to this one.
LOOK_S = 10.0
AGAIN_S = 1.0

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Courier:
    """`sender` is what recipients see: "Market <no-reply@example.org>"."""

    outbox: Outbox
    vault: Vault
    server: MailServer
    sender: str
    clock: Clock
    _task: asyncio.Task[None] | None = field(default=None)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        begun = False
        while True:
            try:
                if not begun:
                    await self.outbox.give_up_unknown()
                    begun = True
                self.outbox.news.clear()
                if not await self._round():
                    await self._news()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, Unavailable) as error:
                log.warning("outbox_unavailable", problem=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _news(self) -> None:
        """Until something is due."""
        due_s = await self.outbox.next_due_s()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(due_s, 0.0), LOOK_S) if due_s is not None else LOOK_S):
                await self.outbox.news.wait()

    async def _round(self) -> bool:
        """One connection's worth. Whether there was anything to do."""
        due = [each for each in await self.outbox.due(TOGETHER_MAX) if not await self._nobody(each)]
        if not due:
            return False
        try:
            async with self.server.connected() as connection:
                for each in due:
                    await self._deliver(each, connection)
        except NotSent as error:
            for each in due:
                await self._put_off(each, str(error))
        return True

    async def _contact(self, due: Due) -> Contact | None:
        with suppress(ContactNotFound, SealBroken):
            return await self.vault.get(due.notice.user_id)
        return None

    async def _nobody(self, due: Due) -> bool:
        """Ends what has no recipient, or is no longer of interest."""
        if due.age_s > OF_INTEREST_S:
            await self._end(due, End.EXPIRED, "the mail server was away for too long")
            return True
        if await self._contact(due) is None:
            await self._end(due, End.NO_ADDRESS, "there is no address")
            return True
        return False

    async def _deliver(self, due: Due, connection: Connection) -> None:
        """Raises NotSent where the connection is of no more use."""
        contact = await self._contact(due)
        if contact is None or not await self.outbox.claim(due.notice.notice_id):
            return
        message = letter(due.notice, contact, sender=self.sender, at=self.clock.wall())
        try:
            await connection.send(message, sender=self.sender, recipient=contact.email)
        except NotSent as error:
            if error.lost:
                raise
            await self._put_off(due, str(error))
        except Refused as error:
            await self._end(due, End.REFUSED, str(error))
        except Unconfirmed as error:
            await self._end(due, End.UNCONFIRMED, str(error))
            raise NotSent(str(error), lost=True) from error
        else:
            await self._end(due, End.SENT)

    async def _end(self, due: Due, end: End, problem: str = "") -> None:
        await self.outbox.end(due.notice.notice_id, end, problem)
        level = log.info if end in {End.SENT, End.NO_ADDRESS} else log.warning
        level("notice_ended", state=end.value, attempts=due.attempts + 1, problem=problem)

    async def _put_off(self, due: Due, problem: str) -> None:
        """Unless it has ended meanwhile."""
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(due.attempts, 20), PAUSE_MAX_S)
        await self.outbox.put_off(due.notice.notice_id, problem, pause_s)
        log.info("notice_put_off", attempts=due.attempts + 1, problem=problem)
