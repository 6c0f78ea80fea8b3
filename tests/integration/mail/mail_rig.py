"""Mail from an outbox in a real database to a real SMTP server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from cells.notices import Notice
from cells.time.clocks import SystemClock
from server.contacts.vault import Contact, Vault
from server.mail.outbox import Outbox
from server.mail.sender import MailSender
from server.mail.smtp import MailServer as Smtp
from server.shell.settings.addresses import parse_address
from tests.integration.database import ask
from tests.local_cells import until_async

SENDER = "The Märket <no-reply@market.test>"


@dataclass(slots=True, kw_only=True)
class Post:
    """One person with an address, an outbox, and whoever empties it."""

    dsn: str
    vault: Vault
    outbox: Outbox
    ann: UUID

    def notice(self, user_id: UUID | None = None, what: str = "AUCTION_WON") -> Notice:
        auction = f"cells/us-east/auctions/{uuid4()}"
        return Notice(uuid4(), user_id or self.ann, what, auction, "USD", 123_456)

    async def queued(self, user_id: UUID | None = None, what: str = "AUCTION_WON") -> Notice:
        """One in the outbox."""
        notice = self.notice(user_id, what)
        await self.outbox.notify(notice)
        return notice

    async def person(self, email: str) -> UUID:
        user_id = uuid4()
        await self.vault.put(user_id, Contact(name="Ben", email=email, proven=True))
        return user_id

    @asynccontextmanager
    async def carried(self, address: str, timeout_s: float = 5.0, **how: Any) -> AsyncIterator[MailSender]:  # noqa: ANN401
        how = {"tls": "none"} | how
        server = Smtp(address=parse_address(address), timeout_s=timeout_s, confirmed_within_s=timeout_s, **how)
        mail_sender = MailSender(
            outbox=self.outbox, vault=self.vault, server=server, sender=SENDER, clock=SystemClock()
        )
        await mail_sender.start()
        try:
            yield mail_sender
        finally:
            await mail_sender.stop()

    async def row(self, notice: Notice) -> tuple[str, int, str]:
        query = "SELECT state, attempts, problem FROM outbox WHERE notice_id = $1"
        state, attempts, problem = (await ask(self.dsn, query, notice.notice_id))[0]
        return state, attempts, problem

    async def said(self, notice: Notice, problem: str) -> None:
        await until_async(lambda: self.row(notice), lambda found: problem in found[2])

    async def goes_on(self) -> None:
        """The next notice is sent."""
        await self.becomes(await self.queued(), "SENT")

    async def has_ended(self, notice: Notice) -> bool:
        return (await self.row(notice))[0] not in {"QUEUED", "SENDING"}

    async def becomes(self, notice: Notice, state: str) -> None:
        await until_async(lambda: self.row(notice), lambda found: found[0] == state)
