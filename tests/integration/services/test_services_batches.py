"""The batch RPCs, over a real socket: item by item what the unary calls would have said."""

import asyncio
from typing import TypeVar
from uuid import UUID

import grpc
import grpc.aio
import pytest

from cellbook.v1 import auction_pb2, ledger_pb2
from cellbook.v1.auction_pb2 import PlaceBidResult
from cellbook.v1.ledger_pb2 import DepositResult
from cells.cell import Cell
from cells.domain.moves.home import Home
from cells.domain.refusals import CellUnknown, InProgress, QueueFull, Refused, Unavailable, WrongCell
from cells.requests import CommandRequest, Outcome
from server.shell.calls.policy import BATCH_BYTES_MAX, REQUEST_BYTES_MAX
from server.shell.calls.statuses import of_status
from server.shell.fields.bounds import BATCH
from tests.integration.services_rig import (
    BANK,
    HERE,
    SHOP,
    THERE,
    Rig,
    as_user,
    bid_of,
    deposit_of,
    new_id,
    refusal_of,
    usd,
)
from tests.local_cells import FixedDirectory, open_auction, until

Result = TypeVar("Result", PlaceBidResult, DepositResult)


async def deposit_all(rig: Rig, *items: ledger_pb2.DepositRequest, timeout_s: float = 10.0) -> list[DepositResult]:
    return list((await rig.ask("BatchDeposit", items=items, by=BANK, timeout_s=timeout_s)).results)


async def bid_all(rig: Rig, *items: auction_pb2.PlaceBidRequest, timeout_s: float = 10.0) -> list[PlaceBidResult]:
    return list((await rig.ask("BatchPlaceBids", items=items, by=SHOP, timeout_s=timeout_s)).results)


def refusal(result: PlaceBidResult | DepositResult) -> Refused:
    refused = of_status(result.refused)
    assert refused is not None, result
    return refused


def reasons(results: list[Result]) -> list[str]:
    """Of each the reason of its refusal, or nothing."""
    return [refusal(result).reason if result.HasField("refused") else "" for result in results]


async def available(rig: Rig, user: UUID) -> int:
    return (await rig.cell.account(user)).state.balance("USD").available_minor


# --- item by item ---


async def test_each_item_gets_its_own_answer_in_the_order_of_the_items(rig: Rig) -> None:
    """Some are accepted and some refused, none minds the others, and each answer stands where its item stood."""
    auction = await rig.auction()
    items = [
        bid_of(auction, rig.ben, 100),
        bid_of(auction, rig.ben, 90),
        bid_of(auction, rig.ann, 300),
        bid_of(f"cells/{HERE}/auctions/{new_id()}", rig.ben, 300),
        bid_of(auction, rig.ben, 1_000_000),
        bid_of(auction, rig.ben, 200),
    ]
    results = await bid_all(rig, *items)
    assert reasons(results) == ["", "BID_TOO_LOW", "BID_ON_OWN_AUCTION", "AUCTION_NOT_FOUND", "INSUFFICIENT_FUNDS", ""]
    for item, result in zip(items, results, strict=True):
        if result.HasField("accepted"):
            assert result.accepted.receipt.command_id == item.command_id
            assert len(result.accepted.bid_id) == 36
    highest = (await rig.cell.auction(UUID(auction.rsplit("/", 1)[1]))).state.highest_bid
    assert highest is not None
    assert str(highest.bid_id) == results[-1].accepted.bid_id


async def test_a_refused_item_says_what_the_unary_call_says(rig: Rig) -> None:
    """The whole status is the same, and so is its text: code, reason, facts."""
    auction = await rig.auction()
    for item in (bid_of(auction, rig.ben, 90), bid_of(auction, new_id(), 100)):
        [result] = await bid_all(rig, item)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await rig.call(item, by=SHOP)
        alone = await refusal_of(rig.call(item, by=SHOP))
        assert (refusal(result).reason, refusal(result).facts) == (alone.reason, alone.facts)
        assert (result.refused.code, result.refused.message) == (
            unary.value.code().value[0],
            unary.value.details(),
        )


@pytest.mark.parametrize(("rising", "accepted"), [(True, 300), (False, 1)])
async def test_the_items_are_decided_in_their_order(rig: Rig, rising: bool, accepted: int) -> None:  # noqa: FBT001
    """Rising bids are all accepted, falling ones but the first all refused; positions rise with the items."""
    auction = await rig.auction()
    amounts = range(100, 400) if rising else range(400, 100, -1)
    results = await bid_all(rig, *(bid_of(auction, rig.ben, amount) for amount in amounts))
    positions = [each.accepted.receipt.token.position for each in results if each.HasField("accepted")]
    assert len(positions) == accepted
    assert positions == sorted(set(positions))


async def test_a_batch_shares_its_commits(rig: Rig) -> None:
    """A thousand items take a few transactions."""
    before = rig.store.appends
    results = await deposit_all(rig, *(deposit_of(rig.ann, 1) for _ in range(BATCH.most)))
    assert reasons(results) == [""] * BATCH.most
    assert [each.accepted.balance.available_minor for each in results] == list(range(100_001, 101_001))
    assert rig.store.appends - before < 10


async def test_a_bad_item_is_refused_by_its_path_and_alone(rig: Rig) -> None:
    """The field is named from the whole request on, as a violation too; the other items are done."""
    users = (rig.ann, "junk", rig.ann, rig.ann)
    items = [deposit_of(user, amount) for user, amount in zip(users, (5, 5, 0, 5), strict=True)]
    results = await deposit_all(rig, *items, ledger_pb2.DepositRequest())
    assert reasons(results) == ["", "FIELD_INVALID", "AMOUNT_NOT_POSITIVE", "", "FIELD_INVALID"]
    fields = [refusal(results[index]).facts["field"] for index in (1, 2, 4)]
    assert fields == ["items[1].user_id", "items[2].amount.amount_minor", "items[4].user_id"]
    assert results[1].refused.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert b"items[1].user_id" in results[1].refused.details[1].value
    assert await available(rig, rig.ann) == 100_010


# --- one command under one id, whichever way it comes ---


async def test_a_duplicate_within_a_batch_is_done_once(rig: Rig) -> None:
    """The same item again gets the same answer; another one under its id is refused."""
    first = deposit_of(rig.ann, 7)
    other = deposit_of(rig.ann, 9)
    other.command_id = first.command_id
    results = await deposit_all(rig, first, first, other, deposit_of(rig.ann, 1))
    assert reasons(results) == ["", "", "COMMAND_ID_REUSED", ""]
    assert results[0].accepted.receipt.token == results[1].accepted.receipt.token
    assert await available(rig, rig.ann) == 100_008


async def test_a_batch_sent_again_gets_the_same_answers(rig: Rig) -> None:
    """Accepted and refused alike, marked as replayed, and nothing happens twice."""
    auction = await rig.auction()
    items = [bid_of(auction, rig.ben, 100), bid_of(auction, rig.ben, 10**9), bid_of(auction, rig.ben, 200)]
    first = await bid_all(rig, *items)
    assert reasons(first) == ["", "INSUFFICIENT_FUNDS", ""]
    await bid_all(rig, bid_of(auction, rig.ben, 300))
    again = await bid_all(rig, *items)
    assert [each.accepted.receipt.replayed for each in again if each.HasField("accepted")] == [True, True]
    for result in again:
        if result.HasField("accepted"):
            result.accepted.receipt.replayed = False
    assert again == first
    assert (await rig.cell.auction(UUID(auction.rsplit("/", 1)[1]))).state.bids_accepted == 3


async def test_an_item_is_the_command_that_it_would_be_alone(rig: Rig) -> None:
    """First in a batch, then alone, or the other way round: it is the same command, done once."""
    auction = await rig.auction()
    first, second = bid_of(auction, rig.ben, 100), bid_of(auction, rig.ben, 200)
    [placed] = await bid_all(rig, first)
    alone = await rig.call(first, by=SHOP)
    assert (alone.bid_id, alone.receipt.replayed) == (placed.accepted.bid_id, True)
    alone = await rig.call(second, by=SHOP)
    [placed] = await bid_all(rig, second)
    assert (placed.accepted.bid_id, placed.accepted.receipt.replayed) == (alone.bid_id, True)
    paid = deposit_of(rig.ann)
    await rig.call(paid, by=BANK)
    [again] = await deposit_all(rig, paid)
    assert again.accepted.receipt.replayed


# --- what refuses the whole ---


async def test_a_batch_has_its_bounds(rig: Rig) -> None:
    """A thousand items and a megabyte; past either the whole is refused and nothing is done."""
    refused = await refusal_of(deposit_all(rig, *(deposit_of(rig.ann, 1) for _ in range(BATCH.most + 1))))
    assert (refused.reason, refused.facts["field"]) == ("FIELD_INVALID", "items")
    assert (await refusal_of(deposit_all(rig))).facts["field"] == "items"
    large = [deposit_of(rig.ann, 1, reference="x" * (REQUEST_BYTES_MAX // 4)) for _ in range(5)]
    assert reasons(await deposit_all(rig, *large)) == ["FIELD_INVALID"] * 5
    huge = [deposit_of(rig.ann, 1, reference="x" * BATCH_BYTES_MAX)]
    refused = await refusal_of(deposit_all(rig, *huge))
    assert refused.reason == "REQUEST_TOO_LARGE"
    assert await available(rig, rig.ann) == 100_000


async def test_a_user_bids_for_itself_in_every_item(rig: Rig) -> None:
    """One item for somebody else, wherever it stands, denies the whole batch, and no item is done."""
    auction = await rig.auction()
    ben = as_user(rig.ben)
    own, other = bid_of(auction, rig.ben, 100), bid_of(auction, rig.ann, 200)
    nobody = auction_pb2.PlaceBidRequest(command_id=new_id(), auction=auction, amount=usd(300))
    for items in ([own, other], [other, own], [own, nobody]):
        request = auction_pb2.BatchPlaceBidsRequest(items=items)
        refused = await refusal_of(rig.call(request, by=ben))
        assert refused.reason == "NOT_YOUR_ACCOUNT"
    assert (await rig.cell.auction(UUID(auction.rsplit("/", 1)[1]))).state.highest_bid is None
    request = auction_pb2.BatchPlaceBidsRequest(items=[own])
    assert (await rig.call(request, by=ben)).results[0].HasField("accepted")


async def test_a_batch_is_taken_whole_or_not_at_all(rig: Rig) -> None:
    """Without room for all of its items none is done, and the client is told when to come again."""
    rig.cell.writer.queue.commands_max = 10
    refused = await refusal_of(deposit_all(rig, *(deposit_of(rig.ann) for _ in range(11))))
    assert isinstance(refused, QueueFull)
    assert refused.retry_after_ms
    assert await available(rig, rig.ann) == 100_000
    assert reasons(await deposit_all(rig, *(deposit_of(rig.ann) for _ in range(10)))) == [""] * 10


# --- what another cell has to answer ---


async def test_bids_into_another_cell_are_answered_by_it(rig: Rig) -> None:
    """They come back accepted or refused like the local ones, in their places."""
    auction, local = await open_auction(rig.there, rig.carl), await rig.auction()
    remote = f"cells/{THERE}/auctions/{auction}"
    results = await bid_all(rig, bid_of(local, rig.ben, 100), bid_of(remote, rig.ann, 50), bid_of(remote, rig.ben, 100))
    assert reasons(results) == ["", "BID_TOO_LOW", ""]
    highest = (await rig.there.auction(auction)).state.highest_bid
    assert highest is not None
    assert str(highest.bid_id) == results[2].accepted.bid_id


async def test_a_cut_cable_holds_no_batch_up_beyond_its_deadline(rig: Rig) -> None:
    """The local bids are answered, the remote one is in progress, and its id tells how it ended once it has."""
    auction, local = await open_auction(rig.there, rig.carl), await rig.auction()
    remote = bid_of(f"cells/{THERE}/auctions/{auction}", rig.ann, 100)
    items = [bid_of(local, rig.ben, 100), remote, bid_of(local, rig.ben, 200)]
    rig.peers.cut.add(THERE)
    results = await bid_all(rig, *items, timeout_s=1.0)
    assert reasons(results) == ["", "IN_PROGRESS", ""]
    assert isinstance(refusal(results[1]), InProgress)
    rig.peers.cut.clear()
    again = await bid_all(rig, *items)
    assert reasons(again) == ["", "", ""]
    assert [each.accepted.bid_id for each in again[::2]] == [each.accepted.bid_id for each in results[::2]]


async def test_items_of_users_and_cells_elsewhere_are_told_so(rig: Rig) -> None:
    """WRONG_CELL names the bidder's home, CELL_UNKNOWN the cell that is none, as the unary call does."""
    auction = await rig.auction()
    results = await bid_all(
        rig,
        bid_of(auction, rig.carl, 100),
        bid_of(f"cells/nowhere/auctions/{new_id()}", rig.ben, 100),
        bid_of(auction, new_id(), 100),
        bid_of(auction, rig.ben, 100),
    )
    assert reasons(results) == ["WRONG_CELL", "CELL_UNKNOWN", "USER_NOT_FOUND", ""]
    elsewhere, nowhere = refusal(results[0]), refusal(results[1])
    assert isinstance(elsewhere, WrongCell)
    assert (elsewhere.facts["cell"], elsewhere.facts["epoch"]) == (THERE, "1")
    assert isinstance(nowhere, CellUnknown)


async def test_a_silent_router_holds_no_batch_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not say where a user lives, that item alone is unknown."""

    async def silent(self: FixedDirectory, user_id: UUID) -> Home | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(FixedDirectory, "find", silent)
    results = await deposit_all(rig, deposit_of(rig.ann), deposit_of(new_id()), deposit_of(rig.ann), timeout_s=1.0)
    assert reasons(results) == ["", "UNAVAILABLE", ""]
    assert isinstance(refusal(results[1]), Unavailable)


# --- a client that goes away ---


async def test_a_client_that_goes_away_gives_up_what_is_not_decided(rig: Rig) -> None:
    """What is in the commit under way is done, what still waits is dropped, and ids tell which."""
    rig.cell.writer.batch_max = 2
    rig.store.gate.clear()
    items = [deposit_of(rig.ann, 1) for _ in range(10)]
    call = asyncio.create_task(deposit_all(rig, *items))
    await until(lambda: rig.cell.writer._open is not None and rig.cell.writer._open.answers)
    waiting = list(rig.cell.writer.queue.clients())
    call.cancel()
    await until(lambda: waiting and all(pending.given_up for pending in waiting))
    rig.store.gate.set()
    await rig.call(deposit_of(rig.ben), by=BANK)
    done = await available(rig, rig.ann) - 100_000
    assert done == 10 - len(waiting)
    again = await deposit_all(rig, *items)
    assert [each.accepted.receipt.replayed for each in again] == [True] * done + [False] * len(waiting)
    assert await available(rig, rig.ann) == 100_010


async def test_without_a_common_fingerprint_an_item_would_be_another_command(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: fingerprinted as the batch's, an item sent alone would be refused as a reused id."""
    monkeypatch.setattr("server.services.ledger.DEPOSIT", "/cellbook.v1.LedgerService/BatchDeposit")
    paid = deposit_of(rig.ann)
    await deposit_all(rig, paid)
    assert (await refusal_of(rig.call(paid, by=BANK))).reason == "COMMAND_ID_REUSED"


def positions(results: list[DepositResult]) -> list[int]:
    return [each.accepted.receipt.token.position for each in results]


async def two_at_once(rig: Rig) -> tuple[list[int], list[int]]:
    """The positions of the items of two batches sent at once, the earlier one first."""
    batches = [[deposit_of(rig.ann, 1) for _ in range(100)] for _ in range(2)]
    first, second = sorted(positions(each) for each in await asyncio.gather(*(deposit_all(rig, *b) for b in batches)))
    return first, second


async def test_nothing_comes_between_the_items_of_a_batch(rig: Rig) -> None:
    """Two batches sent at once are decided one after the other."""
    first, second = await two_at_once(rig)
    assert max(first) < min(second)


async def test_without_one_step_batches_would_mix(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: with each item queued once the one before is done, others come between."""

    async def one_by_one(
        self: Cell, requests: list[CommandRequest], *, deadline_s: float | None
    ) -> list[Outcome | Refused]:
        return [await self.execute(request) for request in requests]

    monkeypatch.setattr(Cell, "execute_all", one_by_one)
    first, second = await two_at_once(rig)
    assert max(first) > min(second)
