"""What one user may have under way in other cells at once: bids and transfers, from outside."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from cellbook.v1 import auction_pb2, ledger_pb2
from cells.domain.account import ledger_rules
from cells.domain.decision import LedgerPolicy
from cells.domain.refusals import TooManyBids, TooManyFlows, TooManyHolds
from server.shell.calls.statuses import of_status
from tests.integration.services_rig import SHOP, THERE, Rig, new_id, refusal_of, serving, usd
from tests.local_cells import open_auction, until

MOST, TRIED = 5, 30


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with serving() as rig:
        rig.cell.writer._decider.policy = LedgerPolicy(
            user_flows_max=MOST, bid_valid_ms=60_000, transfer_valid_ms=60_000
        )
        yield rig


def bid(auction: str, bidder: UUID, amount_minor: int = 1) -> auction_pb2.PlaceBidRequest:
    return auction_pb2.PlaceBidRequest(
        command_id=new_id(), auction=auction, bidder_user_id=str(bidder), amount=usd(amount_minor)
    )


async def abroad(rig: Rig) -> list[str]:
    """Names of auctions in the other cell, one a bid."""
    ids = [await open_auction(rig.there, rig.carl) for _ in range(TRIED)]
    return [f"cells/{THERE}/auctions/{each}" for each in ids]


def open_flows(rig: Rig, user_id: UUID) -> int:
    return rig.cell.writer.cache.open_flows(user_id)


@pytest.mark.parametrize("batched", [False, True])
async def test_one_has_so_many_bids_under_way_and_no_more(rig: Rig, *, batched: bool) -> None:
    """Cent bids into a cell that is away: the first few wait, the others are turned away at once and write nothing."""
    auctions, events = await abroad(rig), len(rig.store.log)
    rig.peers.cut.add(THERE)
    requests = [bid(auction, rig.ann) for auction in auctions]
    if batched:
        call = rig.auctions.BatchPlaceBids(
            auction_pb2.BatchPlaceBidsRequest(items=requests), metadata=SHOP, timeout=1.0
        )
        answers = [of_status(each.refused) for each in (await call).results]
        assert sum(isinstance(each, TooManyFlows) for each in answers) == TRIED - MOST
        waiting = []
    else:
        waiting = [asyncio.create_task(place(rig, each)) for each in requests[:MOST]]
        await until(lambda: open_flows(rig, rig.ann) == MOST)
        for each in requests[MOST:]:
            assert isinstance(await refusal_of(place(rig, each)), TooManyFlows)
    assert open_flows(rig, rig.ann) == MOST
    begun = [row for row in rig.store.log[events:] if row.event_type == "SAGA_STARTED"]
    assert len(begun) == MOST
    waiting.append(asyncio.create_task(place(rig, bid(auctions[0], rig.ben))))
    await until(lambda: open_flows(rig, rig.ben) == 1)
    rig.peers.cut.clear()
    await until(lambda: not open_flows(rig, rig.ann) and not open_flows(rig, rig.ben))
    await asyncio.gather(*waiting, return_exceptions=True)
    await place(rig, bid(auctions[0], rig.ann, 100))


async def place(rig: Rig, request: auction_pb2.PlaceBidRequest) -> auction_pb2.PlaceBidResponse:
    return await rig.auctions.PlaceBid(request, metadata=SHOP, timeout=10)


async def test_transfers_count_alike(rig: Rig) -> None:
    """Bids and transfers together: what counts is what is open in two cells."""
    rig.peers.cut.add(THERE)

    async def transfer() -> ledger_pb2.TransferResponse:
        request = ledger_pb2.TransferRequest(
            command_id=new_id(), from_user_id=str(rig.ann), to_user_id=str(rig.carl), amount=usd(1)
        )
        return await rig.ledger.Transfer(request, metadata=SHOP, timeout=10)

    waiting = [asyncio.create_task(transfer()) for _ in range(MOST)]
    await until(lambda: open_flows(rig, rig.ann) == MOST)
    assert isinstance(await refusal_of(transfer()), TooManyFlows)
    auction = f"cells/{THERE}/auctions/{new_id()}"
    assert isinstance(await refusal_of(place(rig, bid(auction, rig.ann))), TooManyFlows)
    rig.peers.cut.clear()
    await asyncio.gather(*waiting)
    assert not open_flows(rig, rig.ann)


async def test_a_new_leader_counts_what_is_open(rig: Rig) -> None:
    """Whoever takes over knows from the log what of it has not ended."""
    auctions = await abroad(rig)
    rig.peers.cut.add(THERE)
    waiting = [asyncio.create_task(place(rig, bid(each, rig.ann))) for each in auctions[:MOST]]
    await until(lambda: open_flows(rig, rig.ann) == MOST)
    engine = rig.cell.engine
    await engine.stop()
    assert open_flows(rig, rig.ann) == 0
    await engine.start()
    assert open_flows(rig, rig.ann) == MOST
    rig.peers.cut.clear()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_account_holds_so_much_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command writes the account with all that it holds: it must not grow without end."""
    monkeypatch.setattr(ledger_rules, "HOLDS_MAX", 3)
    monkeypatch.setattr(ledger_rules, "BIDS_MAX", 2)

    async def reserve() -> ledger_pb2.ReserveResponse:
        request = ledger_pb2.ReserveRequest(command_id=new_id(), user_id=str(rig.ann), amount=usd(1))
        return await rig.ledger.Reserve(request, metadata=SHOP, timeout=10)

    held = [await reserve() for _ in range(3)]
    assert isinstance(await refusal_of(reserve()), TooManyHolds)
    auctions = await abroad(rig)
    assert isinstance(await refusal_of(place(rig, bid(auctions[0], rig.ann, 100))), TooManyHolds)
    release = ledger_pb2.ReleaseRequest(command_id=new_id(), user_id=str(rig.ann), hold_id=held[0].hold_id)
    await rig.ledger.Release(release, metadata=SHOP, timeout=10)
    rig.peers.cut.add(THERE)
    waiting = [asyncio.create_task(place(rig, bid(auctions[0], rig.ann, 100 + more))) for more in range(2)]
    await until(lambda: open_flows(rig, rig.ann) == 2)
    assert isinstance(await refusal_of(place(rig, bid(auctions[0], rig.ann, 200))), TooManyBids)
    rig.peers.cut.clear()
    await asyncio.gather(*waiting, return_exceptions=True)
