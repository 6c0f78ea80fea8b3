"""Both ways to call a cell without knowing it, the smart client and the router's own address, find the same cell."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2
from cells.domain.refusals import Unavailable
from cells.home_cache import HomeCache
from tests.integration.router.fake_cells import EU, US, Way, way_to_cells
from tests.integration.router.rig import new_user, refused
from tests.integration.services_rig import SHOP
from tests.local_cells import until

PATIENCE_S = 30.0


@pytest.fixture(params=["smart client", "proxy"])
async def way(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Way]:
    async with way_to_cells(dsn, smart=request.param == "smart client") as way:
        yield way


# --- the cell of a call -------------------------------------------------------------------------------------


async def test_a_call_goes_to_the_users_home(way: Way) -> None:
    """By the user whom the request names."""
    users = {await way.user(cell): cell for cell in (US, EU, US)}
    assert {user: (await way.balance(user)).token.cell for user in users} == users


async def test_a_resource_names_its_cell(way: Way) -> None:
    """Nobody is asked for the home of a resource."""
    request = auction_pb2.GetAuctionRequest(name=f"cells/{EU}/auctions/{new_user()}")
    answer = await way.send(request, by=SHOP, timeout_s=10)
    assert (answer.token.cell, answer.auction.name) == (EU, request.name)


async def test_metadata_name_the_cell_before_the_request_does(way: Way) -> None:
    """A cell by its name, or a user's home; a call that names neither is refused before it goes anywhere."""
    request, user = ledger_pb2.GetCommandRequest(command_id=new_user()), await way.user(US)
    by_cell = await way.send(request, by=(*SHOP, ("cellbook-cell", EU)), timeout_s=10)
    by_user = await way.send(request, by=(*SHOP, ("cellbook-user", user)), timeout_s=10)
    assert (by_cell.token.cell, by_user.token.cell) == (EU, US)
    nowhere = await refused(way.send(request, by=SHOP, timeout_s=10))
    assert nowhere.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "cellbook-cell" in nowhere.message
    assert way.calls("GetCommand") == [1, 1]


async def test_a_user_who_has_moved_is_followed(way: Way) -> None:
    """By the word of the cell that the user has left, which is asked once."""
    user = await way.user(US)
    await way.balance(user)
    way.truth.move(user, EU)
    assert [(await way.balance(user)).token.cell for _ in range(2)] == [EU, EU]
    assert way.calls("GetBalance") == [2, 2]


async def test_without_following_a_moved_user_is_refused(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: if WRONG_CELL is taken for an answer, the user is never found again."""

    async def stubborn(*_: object) -> None:
        """It is as it was."""

    user = await way.user(US)
    await way.balance(user)
    way.truth.move(user, EU)
    monkeypatch.setattr(HomeCache, "corrected", stubborn)
    for _ in range(2):
        assert (await refused(way.balance(user))).reason == "WRONG_CELL"


# --- batches ------------------------------------------------------------------------------------------------


async def test_each_item_of_a_batch_goes_to_its_own_cell(way: Way) -> None:
    """One call a cell, the answers in the order of the items; an error of one item is reported for that one alone."""
    users = [await way.user(cell) for cell in (US, EU, US, EU)]
    assert await way.deposit(*users) == [US, EU, US, EU]
    assert way.calls("BatchDeposit") == [1, 1]
    assert await way.deposit(users[0], users[2]) == [US, US]
    assert way.calls("BatchDeposit") == [2, 1]
    assert await way.deposit(users[1], new_user()) == [EU, "USER_NOT_FOUND"]
    assert (await refused(way.deposit(new_user()))).reason == "USER_NOT_FOUND"
    assert await way.deposit() == []


async def test_items_of_users_who_have_moved_follow_them(way: Way) -> None:
    """Alone or among others; the rest is not sent again."""
    users = [await way.user(US) for _ in range(3)]
    await way.deposit(*users)
    way.truth.move(users[1], EU)
    assert await way.deposit(*users) == [US, EU, US]
    assert way.calls("BatchDeposit") == [2, 1]
    way.truth.move(users[2], EU)
    assert await way.deposit(users[2]) == [EU]


async def test_an_item_whose_home_is_not_told_keeps_its_refusal(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others were executed, and keep their answers."""

    async def away(*_: object) -> None:
        raise Unavailable(problem="the directory is away")

    users = [await way.user(US) for _ in range(2)]
    await way.deposit(*users)
    way.truth.move(users[1], EU)
    monkeypatch.setattr(HomeCache, "corrected", away)
    assert await way.deposit(*users) == [US, "WRONG_CELL"]


async def test_fields_are_named_by_the_item_of_the_whole_batch(way: Way) -> None:
    """Not by its number in the part that its cell received."""
    said = await way.deposit(await way.user(US), await way.user(EU), amount_minor=-1)
    assert said == ["FIELD_INVALID items[0].amount", "FIELD_INVALID items[1].amount"]


# --- as it was sent, as it was answered ---------------------------------------------------------------------


async def test_deadline_and_metadata_arrive(way: Way) -> None:
    """The principal that the call names, binary values, and the rest of its time."""
    user, cell = await way.user(US), way.cells[US]
    said = (("cellbook-principal", "auditor/x"), ("authorization", "Bearer x"), ("trace-bin", b"\x00\xfe"))
    await way.balance(user, by=said, timeout_s=3)
    assert said == tuple((key, cell.metadata[key]) for key, _ in said)
    assert 0 < (cell.time_left_s or 0) <= 3.1


async def test_metadata_come_back(way: Way) -> None:
    """Those at the beginning and those at the end, binary ones as well, with the code."""
    call = way.send(ledger_pb2.GetBalanceRequest(user_id=await way.user(US)), by=SHOP, timeout_s=10)
    assert (await call).token.cell == US
    assert dict(await call.initial_metadata())["said-first"] == US
    last = dict(await call.trailing_metadata())
    assert (last["said-last"], last["said-bin"]) == (US, b"\x00\xff")
    assert await call.code() is grpc.StatusCode.OK


async def test_refusals_come_as_the_cell_says_them(way: Way) -> None:
    """Code, message, reason and facts; a request that names nothing goes to some cell, which names the field."""
    request = auction_pb2.GetAuctionRequest(name=f"cells/{EU}/auctions/none")
    none = await refused(way.send(request, by=SHOP, timeout_s=10))
    assert (none.code, none.reason) == (grpc.StatusCode.NOT_FOUND, "AUCTION_NOT_FOUND")
    assert none.facts == {"auction_id": "none", "cell": EU}
    assert none.message == f"no auction none lives in cell {EU}"
    unnamed = auction_pb2.GetAuctionRequest()
    malformed = await refused(way.send(unnamed, by=SHOP, timeout_s=10))
    assert (malformed.code, malformed.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["name"])
    stranger = await refused(way.balance(new_user()))
    assert (stranger.code, stranger.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")


async def test_a_stream_comes_as_it_flows(way: Way) -> None:
    """Message by message, to its end; and it is cancelled at the cell when the caller cancels it."""
    where = (*SHOP, ("cellbook-cell", EU))
    call = way.send(event_pb2.SubscribeRequest(from_position=3), by=where, timeout_s=10)
    assert [(item.event.cell, item.event.position) async for item in call] == [(EU, n) for n in range(3, 13)]
    way.cells[EU].given_up.clear()
    endless = way.send(event_pb2.SubscribeRequest(), by=where)
    assert (await anext(aiter(endless))).event.cell == EU
    endless.cancel()
    await asyncio.wait_for(way.cells[EU].given_up.wait(), PATIENCE_S)


async def test_a_watch_goes_to_the_cell_of_the_auction(way: Way) -> None:
    """Which its name contains: nothing else has to say so."""
    request = auction_pb2.WatchAuctionRequest(auction=f"cells/{EU}/auctions/{new_user()}", from_position=7)
    items = [item async for item in way.send(request, by=SHOP, timeout_s=10)]
    assert [(item.auction.name, item.next_position) for item in items] == [(request.auction, 7)]
    assert way.calls("WatchAuction") == [0, 1]


@pytest.mark.parametrize("timeout_s", [0.5, 30.0])
async def test_a_call_that_ends_is_ended_at_the_cell(way: Way, timeout_s: float) -> None:
    """By its deadline or by its caller: nothing goes on there where nobody waits."""
    request, where = auction_pb2.ListAuctionsRequest(), (*SHOP, ("cellbook-cell", EU))
    waiting = asyncio.ensure_future(way.send(request, by=where, timeout_s=timeout_s))
    await until(lambda: way.calls("ListAuctions") == [0, 1])
    if timeout_s > 1:
        waiting.cancel()
    else:
        assert (await refused(waiting)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(way.cells[EU].given_up.wait(), PATIENCE_S)
