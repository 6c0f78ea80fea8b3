"""Every RPC of a cell, over a real socket, as a client sees it."""

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

import grpc.aio
import pytest

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2
from cells.domain.decision import LedgerPolicy
from cells.domain.refusals import CommandIdReused, ExternalReferenceUsed, WrongCell
from tests.integration.services_rig import (
    BANK,
    HERE,
    ROUTER,
    THERE,
    Pairs,
    Rig,
    deposit_of,
    new_id,
    refusal_of,
    status_of,
    usd,
)
from tests.local_cells import available, open_auction, until


def deposit(
    rig: Rig, reference: str, *, command_id: str = "", amount_minor: int = 500, by: Pairs = BANK
) -> Awaitable[ledger_pb2.DepositResponse]:
    return rig.call(deposit_of(rig.ann, amount_minor, command_id=command_id, reference=reference), by=by)


# --- the ledger ---


async def test_an_account_is_opened_by_the_router(rig: Rig) -> None:
    """A new account is there, empty, with the router's epoch."""
    user_id = new_id()
    await rig.ask("OpenAccount", user_id=user_id, home_epoch=3, by=ROUTER)
    account = await rig.ask("GetAccount", user_id=user_id)
    assert (account.home_epoch, account.stream_version, list(account.balances)) == (3, 1, [])


async def test_money_comes_moves_and_goes(rig: Rig) -> None:
    """Each answer carries the balance after it, and the account adds up at the end."""
    ann, ben = str(rig.ann), str(rig.ben)
    came = await deposit(rig, "bank-1", amount_minor=500)
    assert (came.balance.currency, came.balance.available_minor) == ("USD", 100_500)
    sent = await rig.ask("Transfer", from_user_id=ann, to_user_id=ben, amount=usd(400))
    assert sent.balance.available_minor == 100_100
    gone = await rig.ask("Withdraw", user_id=ann, amount=usd(100), external_reference="bank-1")
    assert gone.balance.available_minor == 100_000
    read = await rig.ask("GetBalance", user_id=ben)
    assert [balance.available_minor for balance in read.balances] == [100_400]
    assert (read.token.cell, read.token.position) == (HERE, (await rig.store.head()).position)


async def test_money_goes_to_a_user_of_another_cell(rig: Rig) -> None:
    """The answer is that of a transfer at home, GetCommand says the same, and the saga shows its way."""
    command_id, ann, carl = new_id(), str(rig.ann), str(rig.carl)
    sent = await rig.ask("Transfer", command_id=command_id, from_user_id=ann, to_user_id=carl, amount=usd(400))
    assert (sent.balance.currency, sent.balance.available_minor) == ("USD", 99_600)
    assert await available(rig.there, rig.carl) == 100_400
    status = await rig.ask("GetCommand", command_id=command_id)
    assert status.state == ledger_pb2.COMMAND_STATE_ACCEPTED
    assert status.result["available_minor"] == "99600"
    listed = await rig.ask("ListSagas", kind=saga_pb2.SAGA_KIND_TRANSFER)
    (saga,) = listed.sagas
    assert (saga.auction, saga.amount.amount_minor, saga.state) == ("", 400, saga_pb2.SAGA_STATE_COMPLETED)
    assert [(leg.leg, leg.cell, leg.pivot) for leg in saga.legs] == [("send", HERE, False), ("receive", THERE, True)]


async def test_a_hold_is_made_captured_in_part_and_released(rig: Rig) -> None:
    """A capture pays part and frees the rest; a release frees it all; the account lists what is held."""
    ann, ben = str(rig.ann), str(rig.ben)

    async def reserve() -> str:
        reserved = await rig.ask("Reserve", user_id=ann, amount=usd(700))
        assert reserved.balance.reserved_minor >= 700
        return str(reserved.hold_id)

    one, other = await reserve(), await reserve()
    account = await rig.ask("GetAccount", user_id=ann)
    assert [hold.hold_id for hold in account.holds] == sorted([one, other])
    captured = await rig.ask("Capture", user_id=ann, hold_id=one, to_user_id=ben, amount_minor=200)
    assert (captured.captured.amount_minor, captured.balance.available_minor) == (200, 99_100)
    released = await rig.ask("Release", user_id=ann, hold_id=other)
    assert (released.released.amount_minor, released.balance.reserved_minor) == (700, 0)


async def test_the_same_command_is_done_once(rig: Rig) -> None:
    """Sent again it gets the first answer, marked; another principal's is another command, other content is refused."""
    command_id = new_id()
    first = await deposit(rig, "bank-1", command_id=command_id)
    again = await deposit(rig, "bank-1", command_id=command_id)
    assert (first.receipt.replayed, again.receipt.replayed) == (False, True)
    again.receipt.replayed = False
    assert again == first
    other = (("cellbook-principal", "treasury/other"),)
    by_another = deposit(rig, "bank-1", command_id=command_id, by=other)
    of_another = deposit(rig, "bank-1", command_id=command_id, amount_minor=501)
    assert isinstance(await refusal_of(by_another), ExternalReferenceUsed)
    assert isinstance(await refusal_of(of_another), CommandIdReused)


async def test_what_became_of_a_command_can_be_asked(rig: Rig) -> None:
    """Accepted ones tell their result, refused ones the status of the call; unknown ids are not found."""
    accepted, refused = new_id(), new_id()
    await deposit(rig, "bank-1", command_id=accepted)
    await refusal_of(deposit(rig, "bank-1", command_id=refused))
    told = await rig.ask("GetCommand", command_id=accepted, by=BANK)
    assert (told.state, told.result["available_minor"]) == (ledger_pb2.COMMAND_STATE_ACCEPTED, "100500")
    told = await rig.ask("GetCommand", command_id=refused, by=BANK)
    assert told.state == ledger_pb2.COMMAND_STATE_REFUSED
    assert told.refusal.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    unknown = await refusal_of(rig.ask("GetCommand", by=BANK))
    assert unknown.reason == "COMMAND_NOT_FOUND"


async def test_a_deadline_in_a_commit_leaves_the_outcome_askable(rig: Rig) -> None:
    """The client goes, the commit does not: GetCommand tells that it happened."""
    command_id = new_id()
    rig.store.gate.clear()
    slow = rig.call(deposit_of(rig.ann, 1, command_id=command_id), by=BANK, timeout_s=0.3)
    assert await status_of(slow) is grpc.StatusCode.DEADLINE_EXCEEDED
    rig.store.gate.set()
    await until(lambda: UUID(command_id) in rig.store.kept_outcomes)
    told = await rig.ask("GetCommand", command_id=command_id, by=BANK)
    assert told.state == ledger_pb2.COMMAND_STATE_ACCEPTED


# --- auctions and sagas ---


async def test_an_auction_is_won_and_settled(rig: Rig) -> None:
    """From the asset to its new owner, with the settlement's saga to be looked at."""
    name = await rig.auction(increment_minor=50)
    await rig.bid(name, rig.ben, 100)
    low = await refusal_of(rig.bid(name, rig.ben, 149))
    assert (low.reason, low.facts["least_minor"]) == ("BID_TOO_LOW", "150")
    placed = await rig.bid(name, rig.ben, 150)
    closed = await rig.ask("CloseAuction", auction=name)
    assert closed.state == auction_pb2.AUCTION_STATE_SETTLING
    assert (closed.winning_bid.bid_id, closed.winning_bid.amount) == (placed.bid_id, usd(150))
    saga = await settled(rig, closed.saga_id)
    assert (saga.kind, saga.auction, saga.amount) == (saga_pb2.SAGA_KIND_SETTLEMENT, name, usd(150))
    assert {leg.state for leg in saga.legs} == {saga_pb2.LEG_STATE_DONE}
    assert [leg.leg for leg in saga.legs if leg.pivot] == ["ownership"]
    read = await rig.ask("GetAuction", name=name)
    assert read.auction.state == auction_pb2.AUCTION_STATE_SETTLED
    assert (read.auction.bids_accepted, read.auction.highest_bid.bid_id) == (2, placed.bid_id)
    asset = await rig.ask("GetAsset", name=read.auction.asset)
    assert (asset.asset.owner_user_id, asset.asset.locked_by) == (str(rig.ben), "")


async def settled(rig: Rig, saga_id: str) -> saga_pb2.Saga:
    while True:
        answer: saga_pb2.GetSagaResponse = await rig.ask("GetSaga", saga_id=saga_id)
        if answer.saga.state == saga_pb2.SAGA_STATE_COMPLETED:
            return answer.saga
        await asyncio.sleep(0.01)


async def test_an_auction_can_be_called_off(rig: Rig) -> None:
    """A cancelled auction unlocks its asset and gives the leader's money back."""
    name = await rig.auction()
    await rig.bid(name, rig.ben, 100)
    await rig.ask("CancelAuction", auction=name)
    read = await rig.ask("GetAuction", name=name)
    assert read.auction.state == auction_pb2.AUCTION_STATE_CANCELLED
    balance = await rig.ask("GetBalance", user_id=rig.ben)
    assert balance.balances[0].available_minor == 100_000


async def test_a_bid_goes_to_the_bidder_s_home_and_on_from_there(rig: Rig) -> None:
    """A bid in another cell's auction is answered once that cell has taken it."""
    auction_id = await open_auction(rig.there, rig.carl)
    placed = await rig.bid(f"cells/{THERE}/auctions/{auction_id}", rig.ann, 100)
    highest = (await rig.there.auction(auction_id)).state.highest_bid
    assert highest is not None
    assert str(highest.bid_id) == placed.bid_id


async def test_who_owns_an_asset_may_live_elsewhere_but_somewhere(rig: Rig) -> None:
    """The owner's home is the directory's word, and an owner without one is refused."""
    registered = await rig.ask("RegisterAsset", owner_user_id=rig.carl)
    read = await rig.ask("GetAsset", name=registered.asset)
    assert read.asset.owner_cell == THERE
    assert (await refusal_of(rig.ask("RegisterAsset", owner_user_id=new_id()))).reason == "USER_NOT_FOUND"


@pytest.mark.parametrize(
    ("rpc", "field", "collection"),
    [
        ("GetAuction", "name", "auctions"),
        ("CloseAuction", "auction", "auctions"),
        ("CancelAuction", "auction", "auctions"),
        ("GetAsset", "name", "assets"),
        ("CreateAuction", "asset", "assets"),
    ],
)
async def test_what_lives_elsewhere_is_not_looked_for_here(rig: Rig, rpc: str, field: str, collection: str) -> None:
    """WRONG_CELL names the right one."""
    refused = await refusal_of(rig.ask(rpc, {field: f"cells/{THERE}/{collection}/{new_id()}"}))
    assert isinstance(refused, WrongCell)
    assert (refused.facts["cell"], refused.facts["here"]) == (THERE, HERE)


async def test_auctions_are_listed_page_by_page(rig: Rig) -> None:
    """Every auction comes once, in pages of the size asked for, and the last page has no token."""
    names = sorted([await rig.auction() for _ in range(4)])
    await rig.ask("CancelAuction", auction=names[1])
    assert await listed(rig, page_size=2) == [names[:2], names[2:]]
    assert await listed(rig, page_size=3) == [names[:3], names[3:]]
    assert await listed(rig) == [names]
    active = [*names[:1], *names[2:]]
    assert await listed(rig, state=auction_pb2.AUCTION_STATE_ACTIVE) == [active]


async def listed(rig: Rig, **wanted: Any) -> list[list[str]]:  # noqa: ANN401
    return [[auction.name for auction in page.auctions] for page in await rig.pages("ListAuctions", **wanted)]


async def test_sagas_are_listed_by_kind_and_state(rig: Rig) -> None:
    """A filter by kind fills the pages all the same: nothing is lost between them."""
    auction_id = await open_auction(rig.there, rig.carl)
    for amount_minor in (100, 200, 300):
        await rig.bid(f"cells/{THERE}/auctions/{auction_id}", rig.ann, amount_minor)
        name = await rig.auction()
        await rig.bid(name, rig.ben, 100)
        closed = await rig.ask("CloseAuction", auction=name)
        await settled(rig, closed.saga_id)
    for kind in (saga_pb2.SAGA_KIND_SETTLEMENT, saga_pb2.SAGA_KIND_REMOTE_BID):
        pages = await rig.pages("ListSagas", kind=kind, page_size=2)
        assert [saga.kind for page in pages for saga in page.sagas] == [kind] * 3
    assert not (await rig.ask("ListSagas", states=[saga_pb2.SAGA_STATE_RUNNING])).sagas


async def test_what_binds_a_bidder_is_shown(rig: Rig) -> None:
    """How long a late bid extends, and how long a settlement may take: the seller's choice, and the cell's."""
    asset, end_ms = (
        (await rig.ask("RegisterAsset", owner_user_id=rig.ann)).asset,
        rig.cell.time.clock.wall_ms() + 3_600_000,
    )
    terms = {"extension_ms": 86_400_000, "settlement_timeout_ms": 1_000}
    far = rig.auction_of(asset, **terms, end_time_ms=end_ms + 366 * 86_400_000)
    refused = await refusal_of(far)
    assert (refused.reason, refused.facts["field"]) == ("TIME_TOO_FAR", "end_time_ms")
    name = await rig.auction_of(asset, **terms, end_time_ms=end_ms)
    for shown_name, extension_ms, timeout_ms in (
        (name, 86_400_000, 1_000),
        (await rig.auction(), 0, LedgerPolicy().settlement_timeout_ms),
    ):
        shown = (await rig.ask("GetAuction", name=shown_name)).auction
        assert (shown.extension_ms, shown.settlement_timeout_ms) == (extension_ms, timeout_ms)
