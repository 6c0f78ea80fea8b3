"""Sends the mail in the outbox to the mail server, while this process leads the cell.

A notice is claimed durably before it is sent, so it is sent at most once: if a process dies in between, the notice is
not sent. Mail that the server has not accepted is retried for a day, at growing intervals.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import MessageError

import asyncpg
import structlog
from prometheus_client.metrics_core import Metric

from cells.background import Background, in_background, note_failure
from cells.domain.refusals import Unavailable
from cells.store.ports import Clock
from server.contacts.refusals import ContactNotFound, ContactSealed
from server.contacts.vault import Contact, Vault
from server.mail.outbox import CONFIRM_ADDRESS, Due, End, Outbox, Waiting
from server.mail.smtp import Connection, MailServer, NotSent, Refused, Unconfirmed
from server.mail.templates import TEXTS, confirmation, letter
from server.shell.observability.metrics import counter, gauge

TOGETHER_MAX = 50
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 900.0
OF_INTEREST_S = 24 * 3_600.0
# Another process may have queued mail without a signal to this one.
POLL_S = 10.0
AGAIN_S = 1.0
# How long a mail that is being sent may take once this process is to stop.
STOP_S = 5.0
PUT_OFF = "PUT_OFF"
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, Unavailable)

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class MailSender(Background):
    """`sender` is the From header: "Market <no-reply@example.org>"."""

    outbox: Outbox
    vault: Vault
    server: MailServer
    sender: str
    clock: Clock
    # How notices have ended in this process, and how often one was postponed.
    tally: Counter[str] = field(default_factory=Counter)
    # As of the last check.
    waiting: Waiting = field(default_factory=lambda: Waiting(0, 0.0))
    _stopping: bool = False
    # Held from a claim until its result is recorded.
    _under_way: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        self._stopping = False
        self.background.start()

    async def stop(self) -> None:
        """Waits for a mail that is being sent, so that its result is known."""
        self._stopping = True
        if self.background.running:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S), self._under_way:
                    pass
        await self.background.stop()

    @in_background("mail", every_s=None, outages=_LOST)
    async def _send_on(self) -> None:
        await self.outbox.give_up_unknown()
        while not self._stopping:
            self.outbox.news.clear()
            worked = await self._round()
            self.waiting = await self.outbox.waiting()
            if not worked:
                await self.outbox.forget()
                await self._news()

    async def _news(self) -> None:
        """Waits until a notice is due."""
        due_s = self.waiting.next_due_s
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(due_s, 0.0), POLL_S) if due_s is not None else POLL_S):
                await self.outbox.news.wait()

    async def _round(self) -> bool:
        """Sends over one connection. Returns whether there was anything to do."""
        waiting = await self.outbox.due(TOGETHER_MAX)
        due = [each for each in waiting if await self._apart(each, self._can_be_sent(each))]
        if not due:
            return False
        try:
            async with self.server.connected() as connection:
                for each in due:
                    if not await self._apart(each, self._deliver(each, connection)):
                        # Pause only for this mail: the server may reject it alone.
                        await asyncio.sleep(AGAIN_S)
                        break
        except NotSent as error:
            for each in due:
                await self._put_off(each, str(error))
            await asyncio.sleep(AGAIN_S)
        return True

    async def _apart(self, due: Due, step: Awaitable[bool]) -> bool:
        """The result of `step`. If it fails unexpectedly for one notice, the others are still sent."""
        try:
            return await step
        except (*_LOST, NotSent):
            raise
        except Exception as error:  # noqa: BLE001 - one notice's, and put off with it
            note_failure(self.background.name, notice_id=str(due.notice.notice_id))
            await self._put_off(due, f"an error that is in the log: {type(error).__name__}")
            return False

    async def _can_be_sent(self, due: Due) -> bool:
        """Ends a notice without a recipient or past its time; postpones one that this version does not know."""
        if due.age_s > OF_INTEREST_S:
            await self._end(due, End.EXPIRED, f"not taken for a day: {due.problem}")
            return False
        if due.notice.notice not in TEXTS and due.notice.notice != CONFIRM_ADDRESS:
            # Queued by a newer version that runs beside this one.
            await self._put_off(due, "this version does not know what to say")
            return False
        return await self._contact(due) is not None

    async def _contact(self, due: Due) -> Contact | None:
        """None if the notice cannot be sent, which is recorded."""
        try:
            contact = await self.vault.get(due.notice.user_id)
            if self._may_have(due, contact):
                return contact
            problem = "the address is not confirmed" if due.notice.notice in TEXTS else "the address has changed"
            await self._end(due, End.NO_ADDRESS, problem)
        except ContactNotFound:
            await self._end(due, End.NO_ADDRESS, "there is no address")
        except ContactSealed:
            # An operator can still restore the right key.
            problem = "the address does not open with the key in vault_key_file"
            log.error("vault_key_wrong", problem=problem)  # noqa: TRY400 - nothing failed here
            await self._put_off(due, problem)
        return None

    def _may_have(self, due: Due, contact: Contact) -> bool:
        """An unproven address receives only the confirmation of that same address."""
        if due.notice.notice == CONFIRM_ADDRESS:
            return not contact.proven and due.notice.auction == self.vault.tag_of(contact.email)
        return contact.proven

    async def _deliver(self, due: Due, connection: Connection) -> bool:
        """Returns whether the connection is still usable."""
        # Loaded again: the person may have been erased since.
        contact = await self._contact(due)
        content = None if contact is None else await self._written(due, contact)
        if contact is None or content is None:
            return True
        async with self._under_way:
            if self._stopping or not await self.outbox.claim(due.notice.notice_id):
                return True
            return await self._send(due, connection, content, contact.email)

    async def _written(self, due: Due, contact: Contact) -> bytes | None:
        about, at = due.notice, self.clock.wall()
        try:
            if about.notice == CONFIRM_ADDRESS:
                code = await self.vault.code_of(about.user_id)
                return confirmation(about, contact.email, code, sender=self.sender, at=at).as_bytes()
            return letter(about, contact, sender=self.sender, at=at).as_bytes()
        except (ValueError, MessageError) as error:
            # Such an address is refused on input; if one is stored anyway, it must not stop the others.
            await self._end(due, End.REFUSED, f"no mail can be addressed to it: {type(error).__name__}")
            return None

    async def _send(self, due: Due, connection: Connection, content: bytes, recipient: str) -> bool:
        try:
            await connection.send(content, sender=self.sender, recipient=recipient)
        except NotSent as error:
            await _recorded(self._put_off, due, str(error), claimed=True)
            return not error.lost
        except Refused as error:
            await _recorded(self._end, due, End.REFUSED, str(error))
            return not error.lost
        except Unconfirmed as error:
            await _recorded(self._end, due, End.UNCONFIRMED, str(error))
            return False
        except Exception as error:
            # It may have been sent, so it is not sent again.
            await _recorded(self._end, due, End.UNCONFIRMED, f"an error that is in the log: {type(error).__name__}")
            raise
        else:
            await _recorded(self._end, due, End.SENT)
        return True

    async def _end(self, due: Due, end: End, problem: str = "") -> None:
        await self.outbox.end(due.notice.notice_id, end, problem)
        self.tally[end.value] += 1
        level = log.info if end in {End.SENT, End.NO_ADDRESS} else log.warning
        level("notice_ended", state=end.value, attempts=due.attempts + 1, problem=problem)

    async def _put_off(self, due: Due, problem: str, *, claimed: bool = False) -> None:
        """Has no effect if another process has claimed or ended it meanwhile."""
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(due.attempts, 20), PAUSE_MAX_S)
        await self.outbox.put_off(due.notice.notice_id, problem, pause_s, claimed=claimed)
        self.tally[PUT_OFF] += 1
        log.info("notice_put_off", attempts=due.attempts + 1, problem=problem)


async def _recorded(record: Callable[..., Awaitable[None]], *what: object, **further: object) -> None:
    """Only this process knows the result, so the database is asked until it is stored or the process ends."""
    while True:
        try:
            return await record(*what, **further)
        except _LOST as error:
            log.warning("outbox_unavailable", problem=str(error))
            await asyncio.sleep(AGAIN_S)


def mail_metrics(mail_sender: MailSender) -> Iterable[Metric]:
    """Of the process that leads, as of the mail sender's last check, at most seconds ago."""
    yield gauge("cellbook_notices_waiting", "Notices that wait to be mailed.", mail_sender.waiting.notices)
    oldest = "Age of the oldest notice that waits to be mailed; 0 if there is none."
    yield gauge("cellbook_notice_oldest_seconds", oldest, mail_sender.waiting.oldest_s)
    ends = {end.lower(): mail_sender.tally[end] for end in (*(each.value for each in End), PUT_OFF)}
    yield counter("cellbook_notices", "Notices, by result.", ends, "end")
