"""Mail servers that are away, hang, say no or nothing: what becomes of a notice."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from cells.time.clocks import SystemClock
from server.mail.sender import MailSender
from server.mail.smtp import Connection
from server.mail.smtp import MailServer as Smtp
from tests.certificates import make_certificates
from tests.integration.mail.mail_rig import SENDER, Post
from tests.local_cells import until, until_async
from tests.smtp_server import mail_server


async def test_a_mail_server_that_is_away_is_waited_for(post: Post) -> None:
    """To queue takes no mail server; the notices go out when it is back."""
    async with mail_server() as server:
        address, port = server.address, server.port
    async with post.carried(address):
        notices = [await post.queued() for _ in range(3)]

        async def tried() -> bool:
            return all([(await post.row(notice))[1] > 1 for notice in notices])

        await until_async(tried)
        assert "SMTPConnectError" in (await post.row(notices[0]))[2]
        async with mail_server(port) as server:
            for notice in notices:
                await post.becomes(notice, "SENT")
            assert len(server.taken) == 3


async def test_a_mail_server_that_hangs_is_left_alone_in_time(post: Post) -> None:
    """It is tried again, and takes the notice once it speaks."""
    async with mail_server() as server, post.carried(server.address, timeout_s=0.3):
        server.speaks.clear()
        notice = await post.queued()
        await until(lambda: server.connections > 1)
        server.speaks.set()
        await post.becomes(notice, "SENT")
        assert len(server.taken) == 1


async def test_a_no_for_now_is_tried_again(post: Post) -> None:
    """451 to the recipient, 451 to the mail: neither was taken. Others go out meanwhile."""
    async with mail_server() as server, post.carried(server.address):
        server.to_recipient.append("451 ann@people.test is busy")
        server.to_data.append("451 the disk is full")
        notices = [await post.queued(), await post.queued()]
        for notice in notices:
            await post.becomes(notice, "SENT")
        assert len(server.taken) == 2
        assert sum([(await post.row(notice))[1] for notice in notices]) == 4


@pytest.mark.parametrize("asked", ["to_recipient", "to_data"])
async def test_a_no_for_good_ends_it(post: Post, asked: str) -> None:
    """And what is kept of it does not repeat the address that the server named."""
    async with mail_server() as server, post.carried(server.address):
        getattr(server, asked).append("550 <ann@people.test> is unknown")
        notice = await post.queued()
        await post.becomes(notice, "REFUSED")
        assert await post.row(notice) == ("REFUSED", 1, "answered 550")
        await post.goes_on()


async def test_what_the_server_may_have_taken_is_not_sent_again(post: Post) -> None:
    """The connection is cut after the mail and before the answer: nobody can tell, so once is the limit."""
    async with mail_server() as server, post.carried(server.address):
        server.to_data.append("")
        notice = await post.queued()
        await post.becomes(notice, "UNCONFIRMED")
        await post.goes_on()
        assert len(server.taken) == 1
        assert (await post.row(notice))[0] == "UNCONFIRMED"


async def test_a_server_that_takes_a_mail_and_never_says_so_is_not_asked_again(post: Post) -> None:
    """It is given time, and then the notice is in doubt for good; the next one goes out."""
    async with mail_server() as server, post.carried(server.address, timeout_s=0.3):
        server.confirms.clear()
        notice = await post.queued()
        await post.becomes(notice, "UNCONFIRMED")
        server.confirms.set()
        await post.goes_on()
        assert len(server.taken) == 2


async def test_a_no_to_the_sender_is_no_word_on_the_recipient(post: Post) -> None:
    """A mail server that is set up badly loses no notice: it is asked again."""
    async with mail_server() as server, post.carried(server.address):
        server.to_sender += ["550 you may not send here"] * 3
        notice = await post.queued()
        await post.becomes(notice, "SENT")
        assert (await post.row(notice))[1] == 4


async def test_one_that_the_server_cannot_bear_does_not_hold_up_the_others(post: Post) -> None:
    """The connection is cut whenever it is tried; what was queued behind it goes out."""
    async with mail_server() as server, post.carried(server.address):
        server.unbearable = "ben@people.test"
        bad = await post.queued(await post.person(server.unbearable))
        others = [await post.queued() for _ in range(3)]
        for notice in others:
            await post.becomes(notice, "SENT")
        assert (await post.row(bad))[0] == "QUEUED"


@dataclass(slots=True)
class SwallowingServer:
    """Waits for ever, and takes the first cancellation for an answer."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        self.asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        yield cast("Connection", None)


async def test_a_mail_sender_stops_though_a_cancellation_is_swallowed(post: Post) -> None:
    """The library that speaks SMTP may do that; the cell's process is not to hang over it."""
    server = SwallowingServer()
    mail_sender = MailSender(
        outbox=post.outbox, vault=post.vault, server=cast("Smtp", server), sender=SENDER, clock=SystemClock()
    )
    await mail_sender.start()
    await post.queued()
    await asyncio.wait_for(server.asked.wait(), 10)
    await asyncio.wait_for(mail_sender.stop(), 10)


async def test_mail_goes_by_tls_to_whom_we_trust_alone(post: Post, tmp_path: Path) -> None:
    """STARTTLS and a password; neither a stranger's certificate nor a wrong password loses the notice."""
    make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "theirs.pem", tmp_path / "theirs.key")

    def knows(_server: object, _session: object, _envelope: object, _mechanism: str, login: object) -> AuthResult:
        return AuthResult(success=login == LoginPassword(b"shop", b"right"), handled=False)

    notice = await post.queued()
    how: dict[str, Any] = {
        "tls_context": context,
        "require_starttls": True,
        "authenticator": knows,
        "auth_required": True,
    }
    async with mail_server(0, **how) as server:
        trusted: dict[str, Any] = {"tls": "starttls", "tls_ca": tmp_path / "ca.pem", "username": "shop"}
        for wrong, problem in (
            ({"tls": "starttls", "username": "shop", "password": "right"}, "SSLCertVerificationError"),
            (trusted | {"password": "wrong"}, "answered 535"),
            ({"tls": "none"}, "answered 530"),
        ):
            async with post.carried(server.address, **wrong):
                await post.said(notice, problem)
        async with post.carried(server.address, **trusted, password="right"):
            await post.becomes(notice, "SENT")
        assert len(server.taken) == 1
