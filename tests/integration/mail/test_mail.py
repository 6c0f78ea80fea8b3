"""Notices by mail, through a real database and a real SMTP server."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.errors import MessageError
from email.policy import default
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import settlement_pb2
from cells.notices import Notice
from server.contacts.seals import Seal, new_key
from server.contacts.vault import Contact
from server.mail import sender as mail_senders
from server.mail import templates as letters
from server.mail.outbox import End, Outbox
from server.mail.sender import MailSender, mail_metrics
from server.process.settings import ServerSettings
from server.shell.settings.host import SettingsInvalid, load_settings
from tests.integration.database import ask
from tests.integration.mail.mail_rig import SENDER, Post
from tests.local_cells import until, until_async
from tests.smtp_server import mail_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def test_a_notice_arrives_once_and_says_what_happened(post: Post) -> None:
    """However often it is asked for; to the person's address, with the amount as people write it."""
    async with mail_server() as server, post.carried(server.address):
        notice = post.notice()
        for _ in range(3):
            assert await post.outbox.notify(notice) == "QUEUED"
        await post.becomes(notice, "SENT")
        assert await post.outbox.notify(notice) == "QUEUED"
        other = await post.queued()
        await post.becomes(other, "SENT")
    [first, second] = server.taken
    assert server.recipients == ["ann@people.test"] * 2
    assert (first["From"], first["Subject"]) == (SENDER, "You have won an auction")
    assert first.as_bytes().isascii()
    assert first["Message-ID"] == f"<{notice.notice_id}@market.test>" != second["Message-ID"]
    text = first.get_content()
    assert "Dear Ann Ómalley" in text
    assert "1,234.56 USD" in text
    assert notice.auction in text


async def test_what_cannot_be_written_does_not_stop_the_mail(post: Post) -> None:
    """An address that is none, a notice that only a newer version knows: the next one goes out all the same."""
    spoilt = await post.queued(await post.person("ben..jr@people.test"))
    newer, usual = await post.queued(what="SOMETHING_NEW"), await post.queued()
    async with mail_server() as server, post.carried(server.address):
        await post.becomes(usual, "SENT")
        await post.becomes(spoilt, "REFUSED")
        assert (await post.row(newer))[0] == "QUEUED"
        assert len(server.taken) == 1


async def test_a_bug_at_one_notice_does_not_stop_the_mail(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, and the others are sent."""
    failing = [RuntimeError("a bug"), RuntimeError("a bug")]
    write = letters.letter

    def written(*what: Any, **how: Any) -> object:  # noqa: ANN401 - the real one's
        if failing:
            raise failing.pop()
        return write(*what, **how)

    monkeypatch.setattr(mail_senders, "letter", written)
    async with mail_server() as server, post.carried(server.address):
        await post.goes_on()
        assert len(server.taken) == 1


async def test_a_wrong_key_loses_no_notice(post: Post) -> None:
    """They wait for the right one, as an operator can put it in its place."""
    notice = await post.queued()
    right, post.vault = post.vault, replace(post.vault, seal=Seal(new_key()))
    async with mail_server() as server:
        async with post.carried(server.address):
            await until_async(lambda: post.row(notice), lambda found: found[1] > 1)
        assert (await post.row(notice))[0] == "QUEUED"
        post.vault = right
        async with post.carried(server.address):
            await post.becomes(notice, "SENT")


async def test_a_mail_under_way_ends_before_the_sender_stops(post: Post) -> None:
    """A restart leaves no notice in doubt where the server answers in time; nothing further is begun."""
    async with mail_server() as server:
        server.confirms.clear()
        notices = [await post.queued() for _ in range(3)]
        async with post.carried(server.address) as mail_sender:
            await until(lambda: bool(server.taken))
            stopping = asyncio.create_task(mail_sender.stop())
            await asyncio.sleep(0)
            server.confirms.set()
            await stopping
        assert sorted([(await post.row(notice))[0] for notice in notices]) == ["QUEUED", "QUEUED", "SENT"]
        assert len(server.taken) == 1


async def test_what_the_server_confirmed_is_recorded_when_the_database_is_back(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word of the mail server is kept until then."""
    end: Callable[..., Awaitable[None]] = Outbox.end
    lost: list[int] = []

    async def loses(outbox: Outbox, *what: Any) -> None:  # noqa: ANN401 - the real one's
        if len(lost) < 3:
            lost.append(1)
            raise ConnectionResetError("no database")
        await end(outbox, *what)

    monkeypatch.setattr(Outbox, "end", loses)
    async with mail_server() as server, post.carried(server.address):
        await post.goes_on()
        assert len(server.taken) == 1


async def test_nobody_puts_off_what_another_process_is_sending(post: Post) -> None:
    """A deposed leader that finds no mail server does not give the new one's notice free."""
    notice = await post.queued()
    assert await post.outbox.claim(notice.notice_id)
    await post.outbox.put_off(notice.notice_id, "no mail server", 0.0)
    assert (await post.row(notice))[0] == "SENDING"
    assert not await post.outbox.claim(notice.notice_id)
    await post.outbox.put_off(notice.notice_id, "answered 451", 0.0, claimed=True)
    assert await post.outbox.claim(notice.notice_id)


async def test_what_ended_long_ago_is_forgotten(post: Post) -> None:
    """After 30 days; what has not ended stays."""
    old, recent, waiting = [await post.queued(uuid4()) for _ in range(3)]
    for notice in (old, recent):
        await post.outbox.end(notice.notice_id, End.NO_ADDRESS)
    aged = "UPDATE outbox SET ended_at = ended_at - interval '31 days' WHERE notice_id = $1"
    await ask(post.dsn, aged, old.notice_id)
    await post.outbox.forget()
    kept = {notice_id for (notice_id,) in await ask(post.dsn, "SELECT notice_id FROM outbox")}
    assert kept == {recent.notice_id, waiting.notice_id}


async def test_metrics_tell_what_waits_and_what_became_of_it(post: Post) -> None:
    """By how notices ended; no label says whose."""
    async with mail_server() as server, post.carried(server.address) as mail_sender:
        server.to_recipient.append("451 later")
        for notice in (post.notice(), post.notice(uuid4())):
            await post.outbox.notify(notice)
            await until_async(partial(post.has_ended, notice))
        await until(lambda: mail_sender.waiting.notices == 0)
        samples = {sample.name + "/".join(sample.labels.values()): sample.value for sample in read(mail_sender)}
    assert samples["cellbook_notices_waiting"] == 0
    assert samples["cellbook_notices_totalsent"] == 1
    assert samples["cellbook_notices_totalno_address"] == 1
    assert samples["cellbook_notices_totalput_off"] == 1


def read(mail_sender: MailSender) -> list[Any]:
    return [sample for metric in mail_metrics(mail_sender) for sample in metric.samples]


async def test_a_process_that_dies_while_it_sends_leaves_it_unconfirmed(post: Post) -> None:
    """Claimed durably before a byte is sent: the successor sends all but that one."""
    caught, waiting = await post.queued(), await post.queued()
    assert await post.outbox.claim(caught.notice_id)
    async with mail_server() as server, post.carried(server.address):
        await post.becomes(waiting, "SENT")
        await post.becomes(caught, "UNCONFIRMED")
        assert len(server.taken) == 1


async def test_without_the_claim_it_would_be_sent_twice(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: two processes that both take themselves for the leader."""

    async def always(_outbox: Outbox, _notice_id: UUID) -> bool:
        both.release()
        await until(lambda: both.locked() is False and both._value >= 2)
        return True

    async def sent() -> int:
        async with mail_server() as server, post.carried(server.address), post.carried(server.address):
            notice = await post.queued()
            await post.becomes(notice, "SENT")
            await until(lambda: bool(server.taken))
        return len(server.taken)

    both = asyncio.Semaphore(0)
    assert await sent() == 1
    monkeypatch.setattr(Outbox, "claim", always)
    assert await sent() == 2


@pytest.mark.parametrize(
    ("what", "subject", "says"),
    [
        ("AUCTION_WON", "You have won an auction", "the item is yours"),
        ("ASSET_SOLD", "Your item is sold", "less our fee"),
        ("SETTLEMENT_FAILED_FOR_WINNER", "Your purchase was called off", "You have paid nothing"),
        ("SETTLEMENT_FAILED_FOR_SELLER", "Your sale was called off", "still yours"),
    ],
)
def test_every_notice_has_its_letter(what: str, subject: str, says: str) -> None:
    """Readable, in the currency's own way: yen have no cents, dinars have a thousand fils."""
    assert set(letters.TEXTS) == set(settlement_notices())
    for currency, amount in (("USD", "1,234.56 USD"), ("JPY", "123,456 JPY"), ("BHD", "123.456 BHD")):
        notice = Notice(uuid4(), uuid4(), what, "cells/us-east/auctions/x", currency, 123_456)
        contact = Contact(name="Ann", email="ann@people.test")
        written = letters.letter(notice, contact, sender=SENDER, at=datetime.now(UTC))
        text = " ".join(written.get_content().split())
        assert written["Subject"] == subject
        assert text.startswith("Dear Ann, ")
        assert says in text
        assert amount in text


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?=0d=0aReply-To=3aboss=40evil.test=0d=0a=0d=0a<h1>Locked</h1>?=",
        '"=?utf-8?b?DQpCY2M6IGFAYi50ZXN0?="',
        "Ann\r\nBcc: all@people.test\r\n\r\nPay here",
        "Ann\u2028\x1b[2J\u202e",
    ],
)
def test_no_name_writes_a_header_or_a_line(name: str) -> None:
    """Whatever an old contact holds, and whichever version of Python writes the mail: the headers are ours."""
    notice = Notice(uuid4(), uuid4(), "AUCTION_WON", "cells/us-east/auctions/x", "USD", 123_456)
    usual, hostile = (
        letters.letter(notice, Contact(name=said, email="ann@people.test"), sender=SENDER, at=datetime.now(UTC))
        for said in ("Ann", name)
    )
    read = message_from_bytes(hostile.as_bytes(), policy=default)
    assert read.keys() == usual.keys()
    assert (read["To"], read["From"]) == ("ann@people.test", SENDER)
    first, blank, *_ = read.get_content().split("\r\n")
    assert first.startswith("Dear ")
    assert first.isprintable()
    assert blank == ""


@pytest.mark.parametrize(
    "email", ["=?utf-8?q?x=0d=0aBcc=3aboss?=@evil.test", "a@b.test\r\nBcc: c@d.test", "a@b.test, c@d.test"]
)
def test_no_address_writes_a_header(email: str) -> None:
    """No mail is made of what is none."""
    notice = Notice(uuid4(), uuid4(), "AUCTION_WON", "cells/us-east/auctions/x", "USD", 123_456)
    with pytest.raises((ValueError, MessageError)):
        letters.letter(notice, Contact(name="Ann", email=email), sender=SENDER, at=datetime.now(UTC))


def settlement_notices() -> list[str]:
    """All that a cell may be asked to tell."""
    return [name.removeprefix("NOTICE_KIND_") for name, value in settlement_pb2.NoticeKind.items() if value]


async def test_nobody_to_write_to_ends_it(post: Post) -> None:
    """Without an address, or with one that was erased meanwhile, there is nothing to send."""
    stranger = post.notice(uuid4())
    forgotten = post.notice()
    await post.vault.erase(post.ann)
    async with mail_server() as server, post.carried(server.address):
        for notice in (stranger, forgotten):
            await post.outbox.notify(notice)
            await post.becomes(notice, "NO_ADDRESS")
    assert server.connections == 0


async def test_news_of_yesterday_is_not_sent(post: Post) -> None:
    """A mail server that was away for a day gets no more of that day's notices."""
    notice = await post.queued()
    await ask(post.dsn, "UPDATE outbox SET queued_at = now() - interval '25 hours'")
    async with mail_server() as server, post.carried(server.address):
        await post.becomes(notice, "EXPIRED")
    assert not server.taken


async def test_the_mail_sender_outlives_its_database(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on when it is back."""
    due: Callable[[Outbox, int], Awaitable[object]] = Outbox.due
    lost: list[int] = []

    async def loses(outbox: Outbox, limit: int) -> object:
        if len(lost) < 3:
            lost.append(1)
            raise ConnectionResetError("no database")
        return await due(outbox, limit)

    monkeypatch.setattr(Outbox, "due", loses)
    async with mail_server() as server, post.carried(server.address):
        notice = await post.queued()
        await post.becomes(notice, "SENT")
    assert len(server.taken) == 1


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--smtp", "mail.test:25"], "mail_from: needed"),
        (["--smtp", "mail.test", "--mail-from", "a@b.test"], "smtp: "),
        (["--mail-from", "nobody"], "mail_from: expected an address"),
        (["--mail-from", "a@b.test\nBcc: c@d.test"], "mail_from: expected an address"),
        (
            ["--smtp", "mail.test:25", "--mail-from", "a@b.test", "--smtp-tls", "none", "--smtp-username", "u"],
            "smtp_tls",
        ),
        (["--smtp-timeout-s", "0"], "smtp_timeout_s"),
    ],
)
def test_settings_that_do_not_fit_are_refused(flags: list[str], problem: str) -> None:
    """Before anything is started."""
    with pytest.raises(SettingsInvalid, match=problem):
        load_settings(ServerSettings, ["--cell", "us-east", "--data", "unused", *flags], program="server")
