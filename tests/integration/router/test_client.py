"""The smart client: each call straight to its cell, whoever has moved meanwhile and whoever is gone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from cellbook.v1 import ledger_pb2, types_pb2
from cells.domain.moves.home import Home
from router.client import Client
from tests.integration.router.fake_cells import Truth, WayCell, WayRouter, way_cells
from tests.integration.router.rig import new_user, refused
from tests.local_cells import until

US, EU, AP = "us-east", "eu-west", "ap-tokyo"
PATIENCE_S = 30.0


@dataclass(slots=True, kw_only=True)
class World:
    truth: Truth
    cells: dict[str, WayCell]
    router: WayRouter
    client: Client

    def user(self, cell: str) -> str:
        """Somebody of whom cells and router say the same."""
        user = self.truth.add(cell)
        self.router.homes[user] = (cell, 1)
        return user

    async def balance(self, user: str) -> str:
        """Where it was asked for in the end."""
        return (await self.client.ledger.GetBalance(ledger_pb2.GetBalanceRequest(user_id=user))).token.cell

    def calls(self, method: str) -> dict[str, int]:
        return {name: cell.calls[method] for name, cell in self.cells.items() if cell.calls[method]}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    truth = Truth()
    async with way_cells(truth, US, EU, AP) as cells:
        router = WayRouter({}, {name: [cell.address] for name, cell in cells.items()})  # type: ignore[abstract]
        await router.start()
        try:
            async with Client(router.address, principal="service/shop") as client:
                yield World(truth=truth, cells=cells, router=router, client=client)
        finally:
            await router.stop()


# --- finding the way ----------------------------------------------------------------------------------------


async def test_a_call_goes_to_the_users_home(world: World) -> None:
    """And the router is asked once for each user, however often they are called for."""
    users = {world.user(cell): cell for cell in (US, EU, AP)}
    for _ in range(3):
        assert {user: await world.balance(user) for user in users} == users
    assert set(world.router.resolved.values()) == {1}


async def test_many_who_ask_for_one_user_ask_once(world: World) -> None:
    """A thousand calls at once are one question."""
    user = world.user(EU)
    assert set(await asyncio.gather(*(world.balance(user) for _ in range(200)))) == {EU}
    assert world.router.resolved[user] == 1


async def test_who_calls_and_by_when_is_said(world: World) -> None:
    """The client's principal goes along unless the call names another, and no call goes without a deadline."""
    user, cell = world.user(EU), world.cells[EU]
    await world.balance(user)
    assert cell.metadata["cellbook-principal"] == "service/shop"
    assert 5 < (cell.time_left_s or 0) <= 10.1
    request = ledger_pb2.GetBalanceRequest(user_id=user)
    await world.client.ledger.GetBalance(request, metadata=(("cellbook-principal", "auditor/x"),), timeout=3)
    assert cell.metadata["cellbook-principal"] == "auditor/x"
    assert 0 < (cell.time_left_s or 0) <= 3.1


# --- users who have moved -----------------------------------------------------------------------------------


async def test_a_user_who_has_moved_is_followed(world: World) -> None:
    """By what the old home says, though the router does not know it yet; and remembered."""
    user = world.user(US)
    await world.balance(user)
    world.truth.move(user, EU)
    assert [await world.balance(user) for _ in range(3)] == [EU] * 3
    assert world.calls("GetBalance") == {US: 2, EU: 3}
    assert world.router.resolved[user] == 1
    assert await world.client.home(user) == Home(EU, 2)


async def test_the_router_decides_between_cells_that_contradict(world: World) -> None:
    """A cell that says WRONG_CELL by an older epoch is behind; then the router is asked, and nobody goes in circles."""
    user = world.user(EU)
    await world.balance(user)
    # Both cells think that the user is at home with the other.
    world.cells[EU].truth = Truth({user: (US, 1)})
    refusal = await refused(world.balance(user))
    assert (refusal.reason, refusal.facts["cell"]) == ("WRONG_CELL", US)
    assert world.calls("GetBalance") == {EU: 2}
    assert world.router.resolved[user] == 2
    world.router.homes[user] = (US, 2)
    world.cells[US].truth = Truth({user: (US, 2)})
    assert await world.balance(user) == US


async def test_another_users_wrong_cell_is_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about somebody else in the request: the call is not sent anywhere else for it."""
    user, other = world.user(US), world.user(EU)
    monkeypatch.setattr(WayCell, "wrong", lambda self, _: WayCell_wrong(self, other))
    assert (await refused(world.balance(user))).facts["resource"] == f"user {other}"
    assert world.calls("GetBalance") == {US: 1}


WayCell_wrong = WayCell.wrong


# --- without the router -------------------------------------------------------------------------------------


async def test_known_users_need_no_router(world: World) -> None:
    """Gone for good, it is missed by strangers alone; even users who move are followed."""
    user, stranger = world.user(US), world.user(EU)
    await world.balance(user)
    await world.router.stop()
    assert await world.balance(user) == US
    world.truth.move(user, EU)
    assert await world.balance(user) == EU
    refusal = await refused(world.balance(stranger))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "")
    assert stranger in refusal.message
    await world.router.start()
    await until_answered(lambda: world.balance(stranger))


async def until_answered(call: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await asyncio.gather(call(), return_exceptions=True))[0] != EU:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


async def test_a_home_from_the_cache_costs_no_network(world: World) -> None:
    """It is there with no server at all."""
    user = world.user(US)
    home = await world.client.home(user)
    await world.router.stop()
    assert await world.client.home(user.upper()) == home == Home(US, 1)


async def test_the_cells_are_watched(world: World) -> None:
    """A cell whose processes have moved is found at its new address, and a new one by its name, both unasked."""
    user = world.user(US)
    await world.balance(user)
    async with way_cells(world.truth, US, "us-west") as moved:
        await world.cells[US].stop()
        world.router.cells |= {name: [cell.address] for name, cell in moved.items()}
        world.router.tell()
        await until(lambda: "us-west" in world.client._locations._listed)
        await world.router.stop()
        assert await world.balance(user) == US
        assert moved[US].calls["GetBalance"] == 1
        where = (("cellbook-cell", "us-west"),)
        answer = await world.client.ledger.GetCommand(ledger_pb2.GetCommandRequest(), metadata=where)
        assert answer.token.cell == "us-west"


# --- batches ------------------------------------------------------------------------------------------------


def deposits(*users: str, amount_minor: int = 1) -> ledger_pb2.BatchDepositRequest:
    amount = types_pb2.Money(currency="EUR", amount_minor=amount_minor)
    items = [
        ledger_pb2.DepositRequest(command_id=str(index), user_id=user, amount=amount)
        for index, user in enumerate(users)
    ]
    return ledger_pb2.BatchDepositRequest(items=items)


def told(answer: Message) -> list[tuple[str, str]]:
    """For each item the cell and the command that it is answered for, or the reason and the message."""
    assert isinstance(answer, ledger_pb2.BatchDepositResponse)
    return [
        (result.accepted.receipt.token.cell, result.accepted.receipt.command_id)
        if result.HasField("accepted")
        else ("refused", result.refused.message)
        for result in answer.results
    ]


async def test_items_that_cannot_be_placed_are_told_alone(world: World) -> None:
    """A stranger, and those whose cell does not answer, get the status that they would have got alone."""
    users = [world.user(US), new_user(), world.user(EU)]
    await world.balance(users[2])
    await world.cells[EU].stop()
    answer = await world.client.ledger.BatchDeposit(deposits(*users), timeout=1)
    assert told(answer)[0] == (US, "0")
    codes = [result.refused.code for result in answer.results]
    assert codes[:2] == [0, grpc.StatusCode.NOT_FOUND.value[0]]
    assert codes[2] in {grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
    alone = await refused(world.client.ledger.BatchDeposit(deposits(new_user())))
    assert alone.reason == "USER_NOT_FOUND"
