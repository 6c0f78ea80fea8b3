"""What a user or a cell may have under way in other cells at once: bids, transfers and releases, from outside."""

import asyncio
from functools import partial
from uuid import UUID, uuid4

import pytest

from cells.domain.account import ledger_rules
from cells.domain.commands import SubmitBid
from cells.domain.decision import LedgerPolicy
from cells.domain.refusals import TooManyBids, TooManyFlows, TooManyHolds, TooManyReleases
from cells.domain.values import Money
from server.shell.calls.statuses import of_status
from tests.integration.sagas.hostile_rig import apply, leg_of
from tests.integration.services_rig import THERE, Rig, bid_of, new_id, refusal_of, usd
from tests.local_cells import open_auction, until

MOST, TRIED = 5, 30


@pytest.fixture
async def rig(rig: Rig) -> Rig:
    policy = LedgerPolicy(user_flows_max=MOST, cell_releases_max=MOST, bid_valid_ms=60_000, transfer_valid_ms=60_000)
    rig.cell.writer._decider.policy = policy
    return rig


async def abroad(rig: Rig) -> list[str]:
    """Names of auctions in the other cell, one a bid."""
    ids = [await open_auction(rig.there, rig.carl) for _ in range(TRIED)]
    return [f"cells/{THERE}/auctions/{each}" for each in ids]


def open_flows(rig: Rig, of: UUID | str) -> int:
    return rig.cell.writer.cache.open_flows(of)


@pytest.mark.parametrize("batched", [False, True])
async def test_one_has_so_many_bids_under_way_and_no_more(rig: Rig, *, batched: bool) -> None:
    """Cent bids into a cell that is away: the first few wait, the others are turned away at once and write nothing."""
    auctions, events = await abroad(rig), len(rig.store.log)
    rig.peers.cut.add(THERE)
    requests = [bid_of(auction, rig.ann, 1) for auction in auctions]
    if batched:
        call = rig.ask("BatchPlaceBids", items=requests, timeout_s=1.0)
        answers = [of_status(each.refused) for each in (await call).results]
        assert sum(isinstance(each, TooManyFlows) for each in answers) == TRIED - MOST
        waiting = []
    else:
        waiting = [asyncio.create_task(rig.call(each)) for each in requests[:MOST]]
        await until(lambda: open_flows(rig, rig.ann) == MOST)
        for each in requests[MOST:]:
            assert isinstance(await refusal_of(rig.call(each)), TooManyFlows)
    assert open_flows(rig, rig.ann) == MOST
    begun = [row for row in rig.store.log[events:] if row.event_type == "SAGA_STARTED"]
    assert len(begun) == MOST
    waiting.append(asyncio.create_task(rig.call(bid_of(auctions[0], rig.ben, 1))))
    await until(lambda: open_flows(rig, rig.ben) == 1)
    rig.peers.cut.clear()
    await until(lambda: not open_flows(rig, rig.ann) and not open_flows(rig, rig.ben))
    await asyncio.gather(*waiting, return_exceptions=True)
    await rig.call(bid_of(auctions[0], rig.ann, 100))


async def test_transfers_count_alike(rig: Rig) -> None:
    """Bids and transfers together: what counts is what is open in two cells."""
    rig.peers.cut.add(THERE)
    paid = {"from_user_id": rig.ann, "to_user_id": rig.carl, "amount": usd(1)}
    waiting = [asyncio.create_task(rig.ask("Transfer", paid)) for _ in range(MOST)]
    await until(lambda: open_flows(rig, rig.ann) == MOST)
    assert isinstance(await refusal_of(rig.ask("Transfer", paid)), TooManyFlows)
    auction = f"cells/{THERE}/auctions/{new_id()}"
    assert isinstance(await refusal_of(rig.call(bid_of(auction, rig.ann, 1))), TooManyFlows)
    rig.peers.cut.clear()
    await asyncio.gather(*waiting)
    assert not open_flows(rig, rig.ann)


async def test_a_cell_has_so_many_releases_under_way_and_no_more(rig: Rig) -> None:
    """A cell outbids itself and is away when its bids are to be released: its further bids have to wait, others not."""
    auction = await rig.auction()
    submit = partial(submitted, rig, auction, rig.carl)
    rig.peers.cut.add(THERE)
    # The first one leads before any bid is outbid.
    for number in range(MOST + 1):
        await submit(100 + number)
    assert open_flows(rig, THERE) == MOST
    assert isinstance(await refusal_of(submit(500)), TooManyReleases)
    await rig.call(bid_of(auction, rig.ben, 600))
    rig.peers.cut.clear()
    await until(lambda: not open_flows(rig, THERE))
    await submit(700)


async def submitted(rig: Rig, auction: str, bidder: UUID, amount_minor: int) -> None:
    bid = SubmitBid(
        auction_id=UUID(auction.rpartition("/")[2]),
        bid_id=uuid4(),
        bidder_id=bidder,
        bidder_cell=THERE,
        amount=Money("USD", amount_minor),
        valid_until_ms=rig.cell.time.clock.wall_ms() + 60_000,
    )
    await apply(rig, leg_of(rig, bid, "submit", saga_id=uuid4()))


async def test_the_bid_of_a_user_who_is_unknown_in_their_cell_has_nothing_to_release(rig: Rig) -> None:
    """Its release ends, and does not wait there for ever."""
    auction = await rig.auction()
    await submitted(rig, auction, uuid4(), 100)
    await rig.call(bid_of(auction, rig.ben, 600))
    await until(lambda: not open_flows(rig, THERE))
    assert [row.event_type for row in rig.store.log][-2:] == ["SAGA_LEG_SKIPPED", "SAGA_COMPLETED"]


async def test_a_new_leader_counts_what_is_open(rig: Rig) -> None:
    """Whoever takes over knows from the log what of it has not ended."""
    auctions = await abroad(rig)
    rig.peers.cut.add(THERE)
    waiting = [asyncio.create_task(rig.call(bid_of(each, rig.ann, 1))) for each in auctions[:MOST]]
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
    hold = {"user_id": rig.ann, "amount": usd(1)}
    held = [await rig.ask("Reserve", hold) for _ in range(3)]
    assert isinstance(await refusal_of(rig.ask("Reserve", hold)), TooManyHolds)
    auctions = await abroad(rig)
    assert isinstance(await refusal_of(rig.call(bid_of(auctions[0], rig.ann, 100))), TooManyHolds)
    await rig.ask("Release", user_id=rig.ann, hold_id=held[0].hold_id)
    rig.peers.cut.add(THERE)
    waiting = [asyncio.create_task(rig.call(bid_of(auctions[0], rig.ann, 100 + more))) for more in range(2)]
    await until(lambda: open_flows(rig, rig.ann) == 2)
    assert isinstance(await refusal_of(rig.call(bid_of(auctions[0], rig.ann, 200))), TooManyBids)
    rig.peers.cut.clear()
    await asyncio.gather(*waiting, return_exceptions=True)
