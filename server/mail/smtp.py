"""Sends one mail over SMTP (RFC 5321), and classifies how that ended."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiosmtplib

from server.shell.settings.addresses import Address

# RFC 5321, section 4.5.3.2, allows a server 5 minutes for an answer, and 10 once it has the mail. Mail that is given up
# after it was sent is never sent again, so a long timeout costs only the time of the mails behind it.
TIMEOUT_S = 60.0
CONFIRMED_WITHIN_S = 600.0
_PERMANENT = range(500, 600)

SmtpTls = Literal["starttls", "tls", "none"]


class No(Exception):
    """`lost`: the connection takes no further mail either. The message names no address."""

    def __init__(self, said: str, *, lost: bool) -> None:
        super().__init__(said)
        self.lost = lost


class NotSent(No):
    """The server has not accepted it; it may be retried."""


class Refused(No):
    """The server will never accept it."""


class Unconfirmed(Exception):
    """The whole mail was sent and no answer came: the server may have accepted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """`tls`: none for plain text, tls from the first byte, starttls after connecting; certificates are checked."""

    address: Address
    tls: SmtpTls
    username: str = ""
    password: str = ""
    # PEM file of the roots that must have signed its certificate; None: the system's roots.
    tls_ca: Path | None = None
    timeout_s: float = TIMEOUT_S
    confirmed_within_s: float = CONFIRMED_WITHIN_S

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Connection"]:
        """Raises NotSent."""
        trusted = str(self.tls_ca) if self.tls_ca else None
        client = aiosmtplib.SMTP(
            hostname=self.address.host,
            port=self.address.port,
            timeout=self.timeout_s,
            use_tls=self.tls == "tls",
            start_tls=self.tls == "starttls",
            tls_context=None if self.tls == "none" else ssl.create_default_context(cafile=trusted),
            username=self.username or None,
            password=self.password or None,
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            client.close()
            raise NotSent(f"{self.address}: {_said(error)}", lost=True) from error
        try:
            yield Connection(client, self.confirmed_within_s)
        finally:
            client.close()


@dataclass(frozen=True, slots=True)
class Connection:
    client: aiosmtplib.SMTP
    confirmed_within_s: float

    async def send(self, content: bytes, *, sender: str, recipient: str) -> None:
        """Raises NotSent, Refused or Unconfirmed; otherwise the server has confirmed the mail."""
        # The command that is under way.
        step = "mail"
        try:
            await self.client.mail(sender)
            step = "rcpt"
            await self.client.rcpt(recipient)
            step = "data"
            await self.client.data(content, timeout=self.confirmed_within_s)
        except aiosmtplib.SMTPResponseException as error:
            # A refusal of the sender says nothing about the recipient: an operator can fix it.
            kind = Refused if error.code in _PERMANENT and step != "mail" else NotSent
            raise kind(_said(error), lost=not await self._can_go_on()) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            if step == "data":
                raise Unconfirmed(_said(error)) from error
            raise NotSent(_said(error), lost=True) from error

    async def _can_go_on(self) -> bool:
        """After a refusal: resets the connection for the next mail."""
        try:
            await self.client.rset()
        except (aiosmtplib.SMTPException, OSError):
            return False
        return True


def _said(error: Exception) -> str:
    """Leaves out the server's own text, because it may repeat the address."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"answered {error.code}"
    return type(error).__name__
