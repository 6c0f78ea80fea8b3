"""The router as a proxy: calls of the cells' services arrive as they were sent, and come back as they were answered."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2, types_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cells.home_cache import HomeCache
from router.routing import proxy
from server.shell.calls.statuses import of_status
from server.shell.observability.metrics import CallMetrics
from tests.integration.router.fake_cells import Truth, WayCell, way_cells
from tests.integration.router.rig import Client, new_user, refused, router

if TYPE_CHECKING:
    from cellbook.v1.auction_pb2_grpc import AuctionServiceAsyncStub
    from cellbook.v1.event_pb2_grpc import EventServiceAsyncStub
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

US, EU = "us-east", "eu-west"
OPERATOR = (("cellbook-principal", "operator/test"),)
SHOP = (("cellbook-principal", "service/shop"),)
BANK = (("cellbook-principal", "treasury/test"),)
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    cells: dict[str, WayCell]
    truth: Truth
    router: Client
    ledger: "LedgerServiceAsyncStub"
    auctions: "AuctionServiceAsyncStub"
    events: "EventServiceAsyncStub"

    async def user(self, region: str) -> str:
        user = new_user()
        await self.router.register(user, region)
        return user

    async def balance(self, user: str, **how: Any) -> ledger_pb2.GetBalanceResponse:  # noqa: ANN401 - as of any call
        request = ledger_pb2.GetBalanceRequest(user_id=user)
        return await self.ledger.GetBalance(request, **{"timeout": 10, "metadata": SHOP, **how})


@pytest.fixture
async def town(dsn: str) -> AsyncIterator[Town]:
    truth = Truth()
    async with way_cells(truth, US, EU) as cells, router(dsn, cells.values()) as client:
        yield Town(
            cells=cells,
            truth=truth,
            router=client,
            ledger=LedgerServiceStub(client.channel),
            auctions=AuctionServiceStub(client.channel),
            events=EventServiceStub(client.channel),
        )


# --- batches ------------------------------------------------------------------------------------------------


def deposits(*users: str) -> ledger_pb2.BatchDepositRequest:
    amount = types_pb2.Money(currency="USD", amount_minor=1)
    return ledger_pb2.BatchDepositRequest(
        items=[ledger_pb2.DepositRequest(command_id=new_user(), user_id=user, amount=amount) for user in users]
    )


async def answers(town: Town, *users: str) -> list[str]:
    """Of each item: the cell that accepted it, or the reason why not."""
    said = []
    for result in (await town.ledger.BatchDeposit(deposits(*users), timeout=10, metadata=BANK)).results:
        refusal = of_status(result.refused) if result.HasField("refused") else None
        said.append(refusal.reason if refusal is not None else result.accepted.receipt.token.cell)
    return said


async def test_each_item_of_a_batch_goes_to_its_own_cell(town: Town) -> None:
    """One call a cell, the answers in the order of the items; what goes wrong with one is said of that one alone."""
    users = [await town.user(region) for region in ("us", "eu", "us", "eu")]
    assert await answers(town, *users) == [US, EU, US, EU]
    assert [town.cells[cell].calls["BatchDeposit"] for cell in (US, EU)] == [1, 1]
    assert await answers(town, users[0], users[2]) == [US, US]
    assert [town.cells[cell].calls["BatchDeposit"] for cell in (US, EU)] == [2, 1]
    town.truth.move(users[0], EU)
    assert await answers(town, *users) == [EU, EU, US, EU]
    town.truth.move(users[2], EU)
    assert await answers(town, users[2]) == [EU]
    assert await answers(town, users[1], new_user(), "nobody") == [EU, "USER_NOT_FOUND", "USER_NOT_FOUND"]
    assert await answers(town) == []
    await town.router.operate("MarkCellDown", name=EU)
    other = await town.user("us")
    assert await answers(town, users[1], other) == ["CELL_DOWN", US]
    stranger = await refused(town.ledger.BatchDeposit(deposits(new_user()), timeout=10, metadata=BANK))
    assert stranger.reason == "USER_NOT_FOUND"


async def test_without_that_a_batch_goes_by_its_first_item(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: the others are told that they live elsewhere."""
    monkeypatch.setattr(proxy, "is_batch", lambda _: False)
    assert await answers(town, await town.user("us"), await town.user("eu")) == [US, "WRONG_CELL"]


# --- where a call goes --------------------------------------------------------------------------------------


async def test_a_call_is_passed_on_to_the_users_home(town: Town) -> None:
    """By the user that the request names, though nothing is decoded."""
    users = {await town.user(cell.partition("-")[0]): cell for cell in (US, EU, US)}
    assert {user: (await town.balance(user)).token.cell for user in users} == users


async def test_a_call_is_passed_on_by_a_name(town: Town) -> None:
    """Resources say themselves where they live."""
    request = auction_pb2.GetAuctionRequest(name=f"cells/{EU}/auctions/{new_user()}")
    answer = await town.auctions.GetAuction(request, metadata=SHOP, timeout=10)
    assert (answer.token.cell, answer.auction.name) == (EU, request.name)


async def test_metadata_say_where_before_the_request_does(town: Town) -> None:
    """A cell by its name, or a user's home; what names nothing is refused before it goes anywhere."""
    request, user = ledger_pb2.GetCommandRequest(command_id=new_user()), await town.user("us")
    by_cell = await town.ledger.GetCommand(request, metadata=(*SHOP, ("cellbook-cell", EU)), timeout=10)
    by_user = await town.ledger.GetCommand(request, metadata=(*SHOP, ("cellbook-user", user)), timeout=10)
    assert (by_cell.token.cell, by_user.token.cell) == (EU, US)
    nowhere = await refused(town.ledger.GetCommand(request, metadata=SHOP, timeout=10))
    assert (nowhere.code, nowhere.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "GOAL_MISSING")
    unknown = await refused(town.ledger.GetCommand(request, metadata=(*SHOP, ("cellbook-cell", "mars")), timeout=10))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CELL_UNKNOWN")
    stranger = await refused(town.balance(new_user()))
    assert (stranger.code, stranger.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")


async def test_nobody_learns_who_is_a_user_here(town: Town) -> None:
    """Strangers and other users get the same answer whether or not there is such a user, and no cell is asked."""
    there, nobody = await town.user("us"), new_user()
    other = (("cellbook-principal", f"user/{new_user()}"),)
    for user in (there, nobody):
        stranger = await refused(town.balance(user, metadata=None))
        assert (stranger.code, stranger.reason) == (grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_MISSING")
        denied = await refused(town.balance(user, metadata=other))
        assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_ACCOUNT")
        request = ledger_pb2.GetCommandRequest(command_id=new_user())
        at_home = (*other, ("cellbook-user", user))
        assert (await refused(town.ledger.GetCommand(request, metadata=at_home))).reason == "NOT_YOUR_ACCOUNT"
    assert not any(cell.calls["GetBalance"] or cell.calls["GetCommand"] for cell in town.cells.values())


async def test_what_names_nothing_well_is_refused_by_a_cell(town: Town) -> None:
    """The cell names the field: the router reads no request."""
    request = auction_pb2.GetAuctionRequest()
    malformed = await refused(town.auctions.GetAuction(request, metadata=SHOP, timeout=10))
    assert (malformed.code, malformed.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["name"])


async def test_a_user_who_has_moved_is_followed(town: Town) -> None:
    """By the cell's word, where its epoch is higher than the directory's."""
    user = await town.user("us")
    await town.balance(user)
    town.truth.move(user, EU)
    assert [(await town.balance(user)).token.cell for _ in range(2)] == [EU, EU]
    assert town.cells[US].calls["GetBalance"] == 2


async def test_without_following_a_moved_user_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: taken as it is, WRONG_CELL of an old map is all that a caller gets."""

    async def stubborn(*_: object) -> None:
        """It is as it was."""

    user = await town.user("us")
    await town.balance(user)
    town.truth.move(user, EU)
    monkeypatch.setattr(HomeCache, "corrected", stubborn)
    assert (await refused(town.balance(user))).reason == "WRONG_CELL"


async def test_nothing_is_sent_to_a_cell_that_is_down(town: Town) -> None:
    """By an operator's word, at once; undrained it is called again."""
    user = await town.user("us")
    await town.router.operate("MarkCellDown", name=US)
    refusal = await refused(town.balance(user))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_DOWN")
    assert not town.cells[US].calls["GetBalance"]
    await town.router.operate("UndrainCell", name=US)
    assert (await town.balance(user)).token.cell == US


# --- as it was sent, as it was answered ---------------------------------------------------------------------


async def test_deadline_and_metadata_arrive(town: Town) -> None:
    """The caller's own principal, binary values and what is left of its time."""
    user, cell = await town.user("us"), town.cells[US]
    said = (("cellbook-principal", "auditor/x"), ("authorization", "Bearer x"), ("trace-bin", b"\x00\xfe"))
    await town.balance(user, metadata=said, timeout=3)
    assert said == tuple((key, cell.metadata[key]) for key, _ in said)
    assert 0 < (cell.time_left_s or 0) <= 3.1


async def test_what_is_not_for_a_client_to_say_does_not_arrive(town: Town) -> None:
    """No clock, which is for peers alone; and that the call was passed on, the router says itself, once."""
    user, cell = await town.user("us"), town.cells[US]
    await town.balance(
        user, metadata=(*SHOP, ("cellbook-hlc", "1"), ("cellbook-vector", "{}"), ("cellbook-forwarded", "no"))
    )
    assert cell.metadata["cellbook-forwarded"] == "1"
    assert not {"cellbook-hlc", "cellbook-vector"} & set(cell.metadata)


async def test_metadata_come_back(town: Town) -> None:
    """Those at the beginning and those at the end, binary ones as well."""
    user = await town.user("us")
    request = ledger_pb2.GetBalanceRequest(user_id=user)
    call = town.ledger.GetBalance(request, metadata=SHOP, timeout=10)
    await call
    assert dict(await call.initial_metadata())["said-first"] == US
    last = dict(await call.trailing_metadata())
    assert (last["said-last"], last["said-bin"]) == (US, b"\x00\xff")


async def test_a_refusal_comes_back_with_its_details(town: Town) -> None:
    """Code, message, reason and facts as the cell has said them."""
    none = await refused(
        town.auctions.GetAuction(
            auction_pb2.GetAuctionRequest(name=f"cells/{EU}/auctions/none"), metadata=SHOP, timeout=10
        )
    )
    assert (none.code, none.reason) == (grpc.StatusCode.NOT_FOUND, "AUCTION_NOT_FOUND")
    assert none.facts == {"auction_id": "none", "cell": EU}
    assert none.message == f"no auction none lives in cell {EU}"


async def test_a_stream_comes_as_it_flows(town: Town) -> None:
    """Message by message, to its end; and it is cancelled at the cell when the caller cancels it."""
    where = (*SHOP, ("cellbook-cell", EU))
    call = town.events.Subscribe(event_pb2.SubscribeRequest(from_position=3), metadata=where, timeout=10)
    assert [item.event.position async for item in call] == list(range(3, 13))
    town.cells[EU].given_up.clear()
    endless = town.events.Subscribe(event_pb2.SubscribeRequest(), metadata=where)
    assert (await anext(aiter(endless))).event.cell == EU
    endless.cancel()
    await asyncio.wait_for(town.cells[EU].given_up.wait(), PATIENCE_S)


async def test_a_deadline_that_passes_ends_the_call_at_the_cell(town: Town) -> None:
    """Nothing goes on there for a caller who has gone."""
    call = town.auctions.ListAuctions(
        auction_pb2.ListAuctionsRequest(), metadata=(*SHOP, ("cellbook-cell", EU)), timeout=0.5
    )
    assert (await refused(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(town.cells[EU].given_up.wait(), PATIENCE_S)


async def test_a_cell_that_is_gone_is_unavailable(town: Town) -> None:
    """At once, and not at the caller's deadline: whether to ask again is its own affair."""
    user = await town.user("us")
    await town.balance(user)
    await town.cells[US].stop()
    assert (await refused(town.balance(user, timeout=30))).code is grpc.StatusCode.UNAVAILABLE
    await town.cells[US].start()

    async def answered() -> bool:
        try:
            await town.balance(user)
        except grpc.aio.AioRpcError:
            return False
        return True

    async with asyncio.timeout(PATIENCE_S):
        while not await answered():  # noqa: ASYNC110 - what is waited for is another server
            await asyncio.sleep(0.05)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The methods that the metrics name; a router that is started afterwards adds to it."""
    methods: set[str] = set()
    monkeypatch.setattr(CallMetrics, "observe", lambda _, method, *_rest: methods.add(method))
    return methods


async def test_made_up_methods_share_one_name_in_the_metrics(observed: set[str], town: Town) -> None:
    """However a call of one ends: each name would be a series for good."""
    for metadata in ((), SHOP, (*SHOP, ("cellbook-cell", EU))):
        call: Any = town.router.channel.unary_unary("/cellbook.v1.LedgerService/MadeUp")
        await refused(call(b"", metadata=metadata, timeout=10))
    assert {method for method in observed if "Made" in method or method == "unknown"} == {"unknown"}


async def test_methods_that_are_not_known_are_passed_on_all_the_same(town: Town) -> None:
    """A newer cell's methods need no newer router: the answer is the cell's."""
    call: Any = town.router.channel.unary_unary("/cellbook.v1.LedgerService/Newest")
    refusal = await refused(call(b"\x0a\x01x", metadata=(*SHOP, ("cellbook-cell", EU)), timeout=10))
    assert (refusal.code, refusal.message) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    other: Any = town.router.channel.unary_unary("/elsewhere.v1.Service/Method")
    assert (await refused(other(b"", timeout=10))).code is grpc.StatusCode.UNIMPLEMENTED
