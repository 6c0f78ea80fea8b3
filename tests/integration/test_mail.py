"""Notices by mail, through a real database and a real SMTP server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from cells.clocks import SystemClock
from cells.ports import Notice
from server.contacts.seals import Seal, new_key
from server.contacts.vault import Contact, Vault
from server.mail import courier as couriers
from server.mail.courier import Courier
from server.mail.outbox import Outbox
from server.mail.smtp import MailServer as Smtp
from server.shell.addresses import parse_address
from server.shell.database import Pool, open_pool
from tests.integration.database import CELL_ROLE, ask
from tests.local_cells import until, until_async
from tests.smtp_server import mail_server

SENDER = "no-reply@market.test"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(couriers, "PAUSE_MAX_S", 0.05)
    monkeypatch.setattr(couriers, "AGAIN_S", 0.05)


@pytest.fixture
async def pool(cell_dsn: str) -> AsyncIterator[Pool]:
    pool = await open_pool(cell_dsn, role=CELL_ROLE, application="mail", size_max=4)
    yield pool
    await asyncio.wait_for(pool.close(), 10)


@dataclass(slots=True, kw_only=True)
class Post:
    """One person with an address, an outbox, and whoever empties it."""

    dsn: str
    vault: Vault
    outbox: Outbox
    ann: UUID

    def notice(self, user_id: UUID | None = None) -> Notice:
        auction = f"cells/us-east/auctions/{uuid4()}"
        return Notice(uuid4(), user_id or self.ann, "AUCTION_WON", auction, "USD", 123_456)

    @asynccontextmanager
    async def carried(self, address: str, timeout_s: float = 5.0) -> AsyncIterator[Courier]:
        server = Smtp(address=parse_address(address), tls="none", timeout_s=timeout_s)
        courier = Courier(outbox=self.outbox, vault=self.vault, server=server, sender=SENDER, clock=SystemClock())
        await courier.start()
        try:
            yield courier
        finally:
            await courier.stop()

    async def row(self, notice: Notice) -> tuple[str, int, str]:
        query = "SELECT state, attempts, problem FROM outbox WHERE notice_id = $1"
        state, attempts, problem = (await ask(self.dsn, query, notice.notice_id))[0]
        return state, attempts, problem

    async def becomes(self, notice: Notice, state: str) -> None:
        async def so() -> bool:
            return (await self.row(notice))[0] == state

        await until_async(so)


@pytest.fixture
async def post(cell_dsn: str, pool: Pool, tmp_path: Path) -> Post:
    vault = Vault(pool=pool, seal=Seal(new_key()), erasures=tmp_path / "vault.erasures")
    ann = uuid4()
    await vault.put(ann, Contact(name="Ann Ómalley", email="ann@people.test"))
    return Post(dsn=cell_dsn, vault=vault, outbox=Outbox(pool=pool), ann=ann)


async def test_a_notice_arrives_once_and_says_what_happened(post: Post) -> None:
    """However often it is asked for; to the person's address, with the amount as people write it."""
    async with mail_server() as server, post.carried(server.address):
        notice = post.notice()
        for _ in range(3):
            assert await post.outbox.notify(notice) == "QUEUED"
        await post.becomes(notice, "SENT")
        assert await post.outbox.notify(notice) == "QUEUED"
        other = post.notice()
        await post.outbox.notify(other)
        await post.becomes(other, "SENT")
    [first, second] = server.taken
    assert server.recipients == ["ann@people.test"] * 2
    assert (first["From"], first["Subject"]) == (SENDER, "You have won an auction")
    assert first["Message-ID"] == f"<{notice.notice_id}@market.test>" != second["Message-ID"]
    text = first.get_content()
    assert "Dear Ann Ómalley" in text
    assert "1,234.56 USD" in text
    assert notice.auction in text


async def test_a_mail_server_that_is_away_is_waited_for(post: Post) -> None:
    """To queue takes no mail server; the notices go out when it is back."""
    async with mail_server() as server:
        address, port = server.address, server.port
    notices = [post.notice() for _ in range(3)]
    async with post.carried(address):
        for notice in notices:
            await post.outbox.notify(notice)

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
        notice = post.notice()
        await post.outbox.notify(notice)
        await until(lambda: server.connections > 1)
        server.speaks.set()
        await post.becomes(notice, "SENT")
        assert len(server.taken) == 1


async def test_a_no_for_now_is_tried_again(post: Post) -> None:
    """451 to the recipient, 451 to the mail: neither was taken. Others go out meanwhile."""
    async with mail_server() as server, post.carried(server.address):
        server.to_recipient.append("451 ann@people.test is busy")
        server.to_data.append("451 the disk is full")
        notices = [post.notice(), post.notice()]
        for notice in notices:
            await post.outbox.notify(notice)
        for notice in notices:
            await post.becomes(notice, "SENT")
        assert len(server.taken) == 2
        assert sum([(await post.row(notice))[1] for notice in notices]) == 4


@pytest.mark.parametrize("asked", ["to_recipient", "to_data"])
async def test_a_no_for_good_ends_it(post: Post, asked: str) -> None:
    """And what is kept of it does not repeat the address that the server named."""
    async with mail_server() as server, post.carried(server.address):
        getattr(server, asked).append("550 <ann@people.test> is unknown")
        notice, next_one = post.notice(), post.notice()
        await post.outbox.notify(notice)
        await post.becomes(notice, "REFUSED")
        assert await post.row(notice) == ("REFUSED", 1, "answered 550")
        await post.outbox.notify(next_one)
        await post.becomes(next_one, "SENT")


async def test_what_the_server_may_have_taken_is_not_sent_again(post: Post) -> None:
    """The connection is cut after the mail and before the answer: nobody can tell, so once is the limit."""
    async with mail_server() as server, post.carried(server.address):
        server.to_data.append("")
        notice, next_one = post.notice(), post.notice()
        await post.outbox.notify(notice)
        await post.becomes(notice, "UNCONFIRMED")
        await post.outbox.notify(next_one)
        await post.becomes(next_one, "SENT")
        assert len(server.taken) == 1
        assert (await post.row(notice))[0] == "UNCONFIRMED"


async def test_a_process_that_dies_while_it_sends_leaves_it_unconfirmed(post: Post) -> None:
    """Claimed durably before a byte is sent: the successor sends all but that one."""
    caught, waiting = post.notice(), post.notice()
    await post.outbox.notify(caught)
    await post.outbox.notify(waiting)
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
            notice = post.notice()
            await post.outbox.notify(notice)
            await post.becomes(notice, "SENT")
            await until(lambda: bool(server.taken))
        return len(server.taken)

    both = asyncio.Semaphore(0)
    assert await sent() == 1
    monkeypatch.setattr(Outbox, "claim", always)
    assert await sent() == 2


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
    notice = post.notice()
    await post.outbox.notify(notice)
    await ask(post.dsn, "UPDATE outbox SET queued_at = now() - interval '25 hours'")
    async with mail_server() as server, post.carried(server.address):
        await post.becomes(notice, "EXPIRED")
    assert not server.taken


async def test_the_courier_outlives_its_database(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
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
        notice = post.notice()
        await post.outbox.notify(notice)
        await post.becomes(notice, "SENT")
    assert len(server.taken) == 1
