"""Sending one mail over SMTP (RFC 5321), and telling apart what its end means."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Literal

import aiosmtplib

from server.shell.addresses import Address

TIMEOUT_S = 20.0
_PERMANENT = range(500, 600)

SmtpTls = Literal["starttls", "tls", "none"]


class NotSent(Exception):
    """The server has not taken it: it may be tried again. `lost`: nor will it take another by this connection.

    The message names no address.
    """

    def __init__(self, said: str, *, lost: bool) -> None:
        super().__init__(said)
        self.lost = lost


class Refused(Exception):
    """The server will never take it."""


class Unconfirmed(Exception):
    """The whole mail was sent, and no answer came: the server may have taken it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """`tls`: none in plain text, tls from the first byte, starttls once connected; certificates are checked."""

    address: Address
    tls: SmtpTls
    username: str = ""
    password: str = ""
    timeout_s: float = TIMEOUT_S

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Connection"]:
        """Raises NotSent."""
        client = aiosmtplib.SMTP(
            hostname=self.address.host,
            port=self.address.port,
            timeout=self.timeout_s,
            use_tls=self.tls == "tls",
            start_tls=self.tls == "starttls",
            tls_context=None if self.tls == "none" else ssl.create_default_context(),
            username=self.username or None,
            password=self.password or None,
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            client.close()
            raise NotSent(f"{self.address}: {_said(error)}", lost=True) from error
        try:
            yield Connection(client)
        finally:
            client.close()


@dataclass(frozen=True, slots=True)
class Connection:
    client: aiosmtplib.SMTP

    async def send(self, message: EmailMessage, *, sender: str, recipient: str) -> None:
        """Raises NotSent, Refused or Unconfirmed; without an error the server has confirmed that it has it."""
        try:
            await self.client.mail(sender)
            await self.client.rcpt(recipient)
        except aiosmtplib.SMTPResponseException as error:
            raise await self._answered(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise NotSent(_said(error), lost=True) from error
        try:
            await self.client.data(message.as_bytes())
        except aiosmtplib.SMTPResponseException as error:
            raise await self._answered(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unconfirmed(_said(error)) from error

    async def _answered(self, error: aiosmtplib.SMTPResponseException) -> NotSent | Refused:
        """What a no means. The next mail begins anew on the same connection."""
        try:
            await self.client.rset()
            lost = False
        except (aiosmtplib.SMTPException, OSError):
            lost = True
        if error.code in _PERMANENT and not lost:
            return Refused(_said(error))
        return NotSent(_said(error), lost=lost)


def _said(error: Exception) -> str:
    """Without what the server said: it may repeat the address."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"answered {error.code}"
    return type(error).__name__
