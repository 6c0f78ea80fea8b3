"""WatchAuction over a real socket, on a store in memory and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias
from uuid import UUID

import grpc.aio
import pytest

from cellbook.v1 import auction_pb2
from cells.domain.audit.refusals import PositionNotReached
from cells.domain.commands import CloseAuction
from cells.domain.refusals import AuctionNotFound, FieldInvalid, Refused, WatcherTooSlow
from cells.watch import feed as feeds
from cells.watch import watched as watched_auctions
from cells.watch.feed import AuctionFeed
from server.process.metrics import watch_metrics
from server.shell.calls import streams
from server.shell.calls.denials import TooManyStreams
from server.shell.calls.limits import STREAMS_PERSON, streams_budget
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import town
from tests.integration.services_rig import HERE, SHOP, Over, Pairs, Rig, refusal_of, usd
from tests.local_cells import open_auction, open_user, request, until

# More than a connection takes ahead.
BIDS = 500
BID = auction_pb2.AUCTION_CHANGE_KIND_BID
ANN: Pairs = (("cellbook-principal", f"user/{UUID(int=1)}"),)
Item = auction_pb2.WatchAuctionResponse
Watch: TypeAlias = grpc.aio.UnaryStreamCall[auction_pb2.WatchAuctionRequest, Item]


def watch(rig: Rig, auction: str, from_position: int = 0, *, by: Pairs = SHOP) -> AsyncIterator[Item]:
    wanted = auction_pb2.WatchAuctionRequest(auction=auction, from_position=from_position)
    return aiter(rig.send(wanted, by=by, timeout_s=20))


async def until_end(call: Watch) -> AsyncIterator[Item]:
    while isinstance(item := await call.read(), Item):
        yield item


async def test_a_watcher_is_told_what_the_auction_tells_everybody(rig: Rig) -> None:
    """After each item the auction is as GetAuction had it then: a user who is no party learns nothing else."""
    auction = await rig.auction()
    items = watch(rig, auction, by=ANN)
    first = await anext(items)
    assert not first.changes
    assert first.auction == (await rig.ask("GetAuction", name=auction, by=ANN)).auction
    placed = await rig.bid(auction, rig.ben, 500)
    second = await anext(items)
    [change] = second.changes
    assert (change.kind, change.bid.bid_id, change.HasField("outbid")) == (BID, placed.bid_id, False)
    assert change.position <= placed.receipt.token.position
    assert second.auction == (await rig.ask("GetAuction", name=auction, by=ANN)).auction
    assert second.next_position == change.position + 1
    assert 0 <= second.cell_time_ms - change.time_ms < 10_000
    at = {"position": change.position}
    assert second.auction == (await rig.ask("GetAuction", name=auction, as_of=at, by=ANN)).auction
    await rig.ask("CancelAuction", auction=auction)
    last = [item async for item in items][-1]
    assert last.auction.state == auction_pb2.AUCTION_STATE_CANCELLED


async def test_a_late_bid_moves_the_end(rig: Rig) -> None:
    """The change tells the new end, and whom the bid has outbid."""
    asset = (await rig.ask("RegisterAsset", owner_user_id=rig.ann, description="a lamp")).asset
    auction = await rig.auction_of(asset, extension_ms=2 * 3_600_000)
    dora = await open_user(rig.cell, 100_000, rig.directory)
    items = watch(rig, auction)
    before = await anext(items)
    placed = [await rig.bid(auction, rig.ben, 500), await rig.bid(auction, dora, 600)]
    changes = [*(await anext(items)).changes]
    while len(changes) < len(placed):
        changes += (await anext(items)).changes
    assert [change.bid.bid_id for change in changes] == [bid.bid_id for bid in placed]
    assert [change.outbid.bid_id for change in changes] == ["", placed[0].bid_id]
    assert before.auction.end_time_ms < changes[0].extended_to_ms <= changes[1].extended_to_ms


@pytest.mark.parametrize("from_position", [-1, 2**62])
async def test_a_position_that_is_none_is_refused(rig: Rig, from_position: int) -> None:
    auction = await rig.auction()
    refused = await refusal_of(anext(watch(rig, auction, from_position)))
    assert isinstance(refused, FieldInvalid if from_position < 0 else PositionNotReached)


async def test_an_auction_that_is_none_is_refused(rig: Rig) -> None:
    missing = f"cells/{HERE}/auctions/{UUID(int=7)}"
    assert isinstance(await refusal_of(anext(watch(rig, missing))), AuctionNotFound)
    assert isinstance(await refusal_of(anext(watch(rig, "cells/mars/auctions/x"))), FieldInvalid)


async def test_watchers_take_no_streams_from_others(rig: Rig) -> None:
    """They are counted apart, also per caller."""
    auction = await rig.auction()
    rig.guard.streams_budget = streams_budget(0)
    watches = [watch(rig, auction, by=ANN) for _ in range(STREAMS_PERSON)]
    for items in watches:
        await anext(items)
    assert isinstance(await refusal_of(anext(watch(rig, auction, by=ANN))), TooManyStreams)
    await anext(watch(rig, auction))
    assert rig.guard.watchers_budget.taken == STREAMS_PERSON + 1


def feed_of(rig: Rig) -> AuctionFeed:
    [feed] = [
        each
        for each in (getattr(each, "__self__", None) for each in rig.cell.writer.followers)
        if isinstance(each, AuctionFeed)
    ]
    return feed


async def test_a_watcher_that_goes_leaves_nothing_behind(rig: Rig) -> None:
    auction = await rig.auction()
    wanted = auction_pb2.WatchAuctionRequest(auction=auction)
    calls = [rig.send(wanted, by=SHOP) for _ in range(5)]
    await asyncio.gather(*(call.read() for call in calls))
    feed = feed_of(rig)
    assert feed._watchers == len(calls) == next(iter(watch_metrics(rig.guard))).samples[0].value
    for call in calls:
        call.cancel()
    await until(lambda: not rig.guard.watchers_budget.taken)
    assert not feed._watched
    assert not feed.background.running


@asynccontextmanager
async def slow_watch(rig: Rig, auction: str) -> AsyncIterator[Watch]:
    """Over a connection of its own that takes 64 KiB ahead, and no more the faster it is."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(rig.address, options=options) as channel:
        wanted = auction_pb2.WatchAuctionRequest(auction=auction)
        yield Over(channel).send(wanted, by=SHOP, timeout_s=60)


async def read_to_refusal(call: Watch) -> tuple[list[Item], Refused]:
    items: list[Item] = []

    async def read_all() -> None:
        async for item in call:
            items.append(item)  # noqa: PERF401 - those before the error, too

    return items, await refusal_of(read_all())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed gathers nothing, and sends as much as there is."""
    monkeypatch.setattr(feeds, "GATHER_S", 0.0)
    monkeypatch.setattr(feeds, "SENT_PER_S", 1_000_000)


@pytest.mark.usefixtures("at_once")
async def test_a_watcher_that_has_not_read_is_told_where_to_resume(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After what its connection has taken, by its status: RESOURCE_EXHAUSTED. Meanwhile nothing waits for it."""
    monkeypatch.setattr(watched_auctions, "UPDATES_MAX", 8)
    auction = await rig.auction()
    async with slow_watch(rig, auction) as call:
        await until(lambda: rig.guard.watchers_budget.taken)
        for amount_minor in range(100, 100 + BIDS):
            await rig.bid(auction, rig.ben, amount_minor)
        items, refused = await read_to_refusal(call)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(refused, WatcherTooSlow)
    assert str(refused.facts["next_position"]) == str(items[-1].next_position)
    assert len(items) < BIDS


@pytest.mark.usefixtures("at_once")
async def test_the_watch_of_one_that_never_reads_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it reads after all, it gets what its connection has taken, and then where to resume. Those who read go on."""
    monkeypatch.setattr(streams, "UNREAD_MAX_S", 0.5)
    auction = await rig.auction()
    async with slow_watch(rig, auction) as call:
        reading = watch(rig, auction)
        await anext(reading)
        await until(lambda: rig.guard.watchers_budget.taken == 2)
        for amount_minor in range(100, 100 + BIDS):
            await rig.bid(auction, rig.ben, amount_minor)
        # The one that reads goes on.
        async for item in reading:
            if item.auction.highest_bid.amount.amount_minor == 99 + BIDS:
                break
        await until(lambda: feed_of(rig)._watchers == 1)
        items, refused = await read_to_refusal(call)
    assert isinstance(refused, WatcherTooSlow)
    assert str(refused.facts["next_position"]) == str(items[-1].next_position)
    assert 0 < len(items) < BIDS
    await until(lambda: rig.guard.watchers_budget.taken == 1)


async def test_an_auction_is_watched_on_postgres(cluster: EmbeddedPostgres, template: str) -> None:
    """To its settlement between three cells, live; and again from each of its positions."""
    async with town(cluster, template) as three:
        winner, seller = await three.user("us-east", 100_000), await three.user("ap-tokyo")
        served = three.cells["eu-west"]
        auction_id = await open_auction(served.parts.cell, seller, seller_cell="ap-tokyo")
        name = f"cells/eu-west/auctions/{auction_id}"

        async def watched(from_position: int) -> list[Item]:
            wanted = auction_pb2.WatchAuctionRequest(auction=name, from_position=from_position)
            call = served.send(wanted, by=SHOP, timeout_s=60)
            first = await call.read()
            assert isinstance(first, Item)
            began.set()
            return [first, *[item async for item in until_end(call)]]

        began = asyncio.Event()
        live = asyncio.create_task(watched(0))
        await began.wait()
        for amount_minor in (500, 700):
            await three.bid("us-east", winner, "eu-west", auction_id, amount_minor)
        await served.parts.cell.execute(request(CloseAuction(auction_id=auction_id, by_command=True)))
        changes = [change for item in await live for change in item.changes]
        assert changes[-1].kind == auction_pb2.AUCTION_CHANGE_KIND_SETTLED
        assert [change.bid.amount for change in changes if change.kind == BID] == [usd(500), usd(700)]
        everything = [change for item in await watched(1) for change in item.changes]
        assert everything[1:] == changes
        assert [change.stream_version for change in everything] == list(range(1, len(everything) + 1))
        for change in everything:
            items = await watched(change.position)
            assert [each for item in items for each in item.changes] == everything[change.stream_version - 1 :]
            assert items[-1].auction.state == auction_pb2.AUCTION_STATE_SETTLED
