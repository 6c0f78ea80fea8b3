"""A real SMTP server (aiosmtpd) on this loop, that does to mails what a test asks for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass(slots=True)
class MailServer:
    """`taken` is what was confirmed. An answer in `says` is given instead, once each: "" cuts the connection."""

    port: int = 0
    taken: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    to_sender: list[str] = field(default_factory=list)
    to_recipient: list[str] = field(default_factory=list)
    to_data: list[str] = field(default_factory=list)
    connections: int = 0
    # Whoever names this recipient is cut off, each time.
    unbearable: str = ""
    # Unset: it listens and says nothing.
    speaks: asyncio.Event = field(default_factory=asyncio.Event)
    # Unset: it has a mail and says nothing.
    confirms: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def handle_MAIL(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.to_sender:
            return _said(server, self.to_sender.pop(0))
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address == self.unbearable:
            return _said(server, "")
        if self.to_recipient:
            return _said(server, self.to_recipient.pop(0))
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.to_data:
            return _said(server, self.to_data.pop(0))
        assert isinstance(envelope.content, bytes)
        self.taken.append(message_from_bytes(envelope.content, policy=policy.default))
        self.recipients += envelope.rcpt_tos
        await self.confirms.wait()
        return "250 taken"

    async def handle_EHLO(
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        await self.speaks.wait()
        session.host_name = hostname
        return responses


def _said(server: SMTP, answer: str) -> str:
    if not answer:
        cast("Any", server).transport.abort()
    return answer


@asynccontextmanager
async def mail_server(port: int = 0, **how: Any) -> AsyncIterator[MailServer]:  # noqa: ANN401 - of aiosmtpd
    """`how` is further arguments of its SMTP."""
    handler = MailServer()
    handler.speaks.set()
    handler.confirms.set()
    loop = asyncio.get_running_loop()
    sessions: list[SMTP] = []

    def session() -> SMTP:
        sessions.append(SMTP(handler, hostname="mail.test", loop=loop, **how))
        return sessions[-1]

    server = await loop.create_server(session, "127.0.0.1", port)
    handler.port = server.sockets[0].getsockname()[1]
    try:
        yield handler
    finally:
        handler.speaks.set()
        handler.confirms.set()
        server.close()
        await server.wait_closed()
        for each in sessions:
            # Its client may have gone without its having been seen.
            if each.transport is not None:
                cast("Any", each).transport.abort()
