"""What operators do with cells while everything runs: add, weigh, drain, mark, remove; and who hears of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellbook.v1 import router_pb2 as pb
from router.directory import probes
from router.directory.follower import Follower
from router.directory.topology import Topology
from router.directory.users import Directory
from tests.integration.database import connected
from tests.integration.router.rig import OPERATOR, Client, FakeCell, cells, new_user, refused, router
from tests.local_cells import until_async

if TYPE_CHECKING:
    from google.protobuf.message import Message

# Two in one region, one in another.
CELLS = ("eu-west=eu", "eu-north=eu", "us-east=us")
ACTIVE, DRAINING, DOWN = pb.CELL_STATE_ACTIVE, pb.CELL_STATE_DRAINING, pb.CELL_STATE_DOWN
SERVING, NOT_SERVING = pb.CELL_HEALTH_SERVING, pb.CELL_HEALTH_NOT_SERVING
PATIENCE_S = 30.0


async def add(client: Client, fake: FakeCell, weight: int | None = None, *, bring_back: bool = False) -> pb.Cell:
    return await client.change(  # type: ignore[no-any-return]
        "RegisterCell", fake.name, region=fake.region, endpoints=[fake.address], weight=weight, bring_back=bring_back
    )


async def homes(client: Client, region: str = "eu", count: int = 20) -> set[str]:
    """Where so many new users go."""
    answers = await asyncio.gather(*(client.register(new_user(), region) for _ in range(count)))
    return {answer.home.cell for answer in answers}


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Callable[[Callable[[dict[str, pb.Cell]], bool]], Awaitable[None]]]:
    """Waits, reading the stream, until the cells that it shows are as wanted."""
    call = client.stub.WatchTopology(pb.WatchTopologyRequest(), metadata=OPERATOR)
    pictures = aiter(call)

    async def shows(wanted: Callable[[dict[str, pb.Cell]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not wanted({cell.name: cell for cell in (await anext(pictures)).cells}):
                pass

    try:
        yield shows
    finally:
        call.cancel()


# --- cells come and go --------------------------------------------------------------------------------------


async def test_a_cell_is_added_to_a_running_router(client: Client) -> None:
    """It takes new users at once, watchers hear of it, and those who are at home elsewhere stay there."""
    user = new_user()
    home = (await client.register(user, "us")).home
    async with watching(client) as shows, cells("us-west=us") as (west,):
        await shows(lambda known: "us-west" not in known)
        added = await add(client, west, weight=1_000_000)
        assert (added.name, added.region, added.weight, added.state) == ("us-west", "us", 1_000_000, ACTIVE)
        await shows(lambda known: "us-west" in known)
        assert await homes(client, "us") == {"us-west"}
        assert west.opened
    assert (await client.resolve(user)).home == home


async def test_registering_a_cell_again_moves_its_processes_only(client: Client, fakes: list[FakeCell]) -> None:
    """New endpoints are taken over; weight and state stay unless they are named; the region never changes."""
    await client.change("SetCellWeight", "us-east", weight=7)
    await client.change("DrainCell", "us-east")
    again = await add(client, FakeCell("us-east", "us", address="127.0.0.1:9"))
    assert (list(again.endpoints), again.weight, again.state) == (["127.0.0.1:9"], 7, DRAINING)
    assert (await add(client, FakeCell("us-east", "us", address="127.0.0.1:9"), weight=0)).weight == 0
    moved = await refused(add(client, FakeCell("us-east", "eu", address="127.0.0.1:9")))
    assert (moved.code, moved.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CELL_IN_OTHER_REGION")
    taken = await refused(add(client, FakeCell("us-new", "us", address=fakes[0].address)))
    assert (taken.reason, taken.facts["endpoint"]) == ("ENDPOINT_TAKEN", fakes[0].address)
    assert "us-new" not in {cell.name for cell in await client.list_cells()}


async def test_versions_rise_with_changes_alone(client: Client) -> None:
    """Saying what is so already changes nothing; a change is a new version."""

    async def version() -> int:
        return int((await client.operate("ListCells")).version)

    before = await version()
    await client.change("UndrainCell", "eu-west")
    await client.change("SetCellWeight", "eu-west", weight=100)
    assert await version() == before
    await client.change("SetCellWeight", "eu-west", weight=99)
    assert await version() == before + 1


async def test_only_a_drained_cell_without_users_is_removed(client: Client) -> None:
    """An active one and one with users are refused; one that is gone already is not."""
    assert (await refused(client.change("RemoveCell", "eu-west"))).reason == "CELL_NOT_DRAINING"
    user = new_user()
    home = (await client.register(user, "us")).home
    await client.change("DrainCell", "us-east")
    refusal = await refused(client.change("RemoveCell", "us-east"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CELL_HAS_USERS")
    assert (await client.resolve(user)).home == home
    await client.change("DrainCell", "eu-west")
    for _ in range(2):
        await client.change("RemoveCell", "eu-west")
    assert {cell.name for cell in await client.list_cells()} == {"eu-north", "us-east"}
    assert await homes(client) == {"eu-north"}


async def test_somebody_comes_to_a_cell_that_is_being_removed(client: Client, dsn: str) -> None:
    """Whoever is on the way into the directory counts: the removal waits, and is refused."""
    await client.change("DrainCell", "eu-west")
    async with connected(dsn) as connection, connected(dsn) as watch:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO users (user_id, cell, cell_region, residency) VALUES ($1, 'eu-west', 'eu', '')", uuid4()
            )
            removing = asyncio.create_task(refused(client.change("RemoveCell", "eu-west")))
            await until_async(lambda: watch.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        assert (await removing).reason == "CELL_HAS_USERS"
        assert "eu-west" in {cell.name for cell in await client.list_cells()}


async def test_users_are_counted_for_those_who_ask(client: Client) -> None:
    """A count costs a walk through the directory: it is not made by the way."""
    await asyncio.gather(*(client.register(new_user(), "us") for _ in range(3)))
    counted = await client.operate("ListCells", count_users=True)
    assert {cell.name: cell.users for cell in counted.cells} == {"eu-north": 0, "eu-west": 0, "us-east": 3}
    assert not any(cell.HasField("users") for cell in await client.list_cells())


async def test_an_operators_word_that_is_sent_again_undoes_no_later_one(client: Client) -> None:
    """Under its id it is done once; without one, it is said anew."""
    drained = pb.DrainCellRequest(name="us-east", command_id=new_user())
    told = {"name": "us-east", "command_id": drained.command_id}
    for wanted in (DRAINING, DRAINING):
        assert (await client.change("DrainCell", **told)).state == wanted
    await client.change("UndrainCell", "us-east")
    assert (await client.change("DrainCell", **told)).state == ACTIVE
    assert (await refused(client.change("MarkCellDown", **told))).reason == "COMMAND_ID_REUSED"
    other = (("cellbook-principal", "operator/other"),)
    assert (await client.stub.DrainCell(drained, metadata=other, timeout=10)).cell.state == DRAINING
    removing = {"name": "us-east", "command_id": new_user()}
    await client.change("RemoveCell", **removing)
    await client.change("RegisterCell", "us-east", region="us", endpoints=["127.0.0.1:9"], bring_back=True)
    await client.change("DrainCell", "us-east")
    await client.change("RemoveCell", **removing)
    assert "us-east" in {cell.name for cell in await client.list_cells()}


async def test_a_removed_cell_stays_removed(dsn: str, fakes: list[FakeCell]) -> None:
    """Though a router starts again with settings that name it. It comes back by an operator's explicit word alone."""
    async with router(dsn, fakes) as client:
        await client.change("DrainCell", "us-east")
        await client.change("RemoveCell", "us-east")
    async with router(dsn, fakes) as client:
        assert {cell.name for cell in await client.list_cells()} == {"eu-west", "eu-north"}
        assert (await refused(client.register(new_user(), "us"))).reason == "NO_CELL_IN_REGION"
        assert (await refused(add(client, fakes[2]))).reason == "CELL_REMOVED"
        elsewhere = FakeCell("us-east", "eu", address=fakes[2].address)
        assert (await refused(add(client, elsewhere, bring_back=True))).reason == "CELL_IN_OTHER_REGION"
        assert (await add(client, fakes[2], bring_back=True)).state == ACTIVE
    async with router(dsn, fakes) as client:
        assert (await client.register(new_user(), "us")).home.cell == "us-east"


# --- draining, down, weight ---------------------------------------------------------------------------------


async def test_a_drained_cell_keeps_its_users_and_takes_no_new_ones(client: Client) -> None:
    """New users go to the region's other cell, and are refused where there is none; undrained, it takes them again."""
    user = new_user()
    home = (await client.register(user, "us")).home
    assert (await client.change("DrainCell", "us-east")).state == DRAINING
    assert (await refused(client.register(new_user(), "us"))).reason == "NO_CELL_IN_REGION"
    assert (await client.register(user, "us")).home == home
    await client.change("DrainCell", "eu-west")
    assert await homes(client) == {"eu-north"}
    assert (await client.change("UndrainCell", "us-east")).state == ACTIVE
    assert await homes(client, "us") == {"us-east"}


async def test_an_operator_can_mark_a_cell_down(client: Client) -> None:
    """It gets no new users whatever the probes say, until it is taken back."""
    assert (await client.change("MarkCellDown", "eu-west")).state == DOWN
    assert await homes(client) == {"eu-north"}
    await client.change("UndrainCell", "eu-west")
    assert await homes(client, count=60) == {"eu-west", "eu-north"}


async def test_a_weight_of_nothing_takes_nobody(client: Client) -> None:
    """The region's other cell gets all."""
    assert (await client.change("SetCellWeight", "eu-west", weight=0)).weight == 0
    assert await homes(client) == {"eu-north"}


async def test_a_drain_counts_for_routers_that_have_not_heard_of_it(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is answered nobody is placed there: the directory says no to what another router still proposes."""
    monkeypatch.setattr(Follower, "look_again", deaf)
    async with router(dsn, fakes) as one, router(dsn, fakes) as other:
        await one.change("DrainCell", "us-east")
        refusal = await refused(other.register(new_user(), "us"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_DRAINING")
        assert refusal.retry_ms
    assert not fakes[2].opened


async def deaf(_: Follower) -> None:
    """Hears nothing of what other routers are told."""


async def test_without_that_another_router_would_fill_it(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: were the cell's state not looked at in the insert, a drained cell would get new users."""
    monkeypatch.setattr(Follower, "look_again", deaf)
    make = Directory.__init__

    def careless(self: Directory, *arguments: object) -> None:
        make(self, *arguments)  # type: ignore[arg-type]
        self._sql["add_users"] = self._sql["add_users"].replace("AND state = 'ACTIVE'", "")

    monkeypatch.setattr(Directory, "__init__", careless)
    async with router(dsn, fakes) as one, router(dsn, fakes) as other:
        await one.change("DrainCell", "us-east")
        assert (await other.register(new_user(), "us")).home.cell == "us-east"


async def test_routers_hear_of_each_others_changes(dsn: str, fakes: list[FakeCell]) -> None:
    """What one was told, the other shows soon."""
    async with router(dsn, fakes) as one, router(dsn, fakes) as other, watching(other) as shows:
        await one.change("DrainCell", "us-east")
        await shows(lambda known: known["us-east"].state == DRAINING)
        assert (await refused(other.register(new_user(), "us"))).reason == "NO_CELL_IN_REGION"


# --- probes -------------------------------------------------------------------------------------------------


class Doctor(health_pb2_grpc.HealthServicer):
    """A health service that says what it is told to."""

    serving = True

    async def Check(self, _request: health_pb2.HealthCheckRequest, _context: object) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self.serving else status.NOT_SERVING)


async def test_probes_steer_new_users_and_refuse_nobody(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New users go to cells that answer; where none of the region does, they are placed all the same."""
    monkeypatch.setattr(probes, "PROBE_S", 0.02)
    doctor = Doctor()
    health_pb2_grpc.add_HealthServicer_to_server(doctor, fakes[0].server)
    async with router(dsn, fakes) as client, watching(client) as shows:
        await shows(lambda known: known["eu-west"].health == SERVING)
        doctor.serving = False
        await shows(lambda known: known["eu-west"].health == NOT_SERVING)
        assert await homes(client) == {"eu-north"}
        await client.change("DrainCell", "eu-north")
        assert await homes(client, count=1) == {"eu-west"}
        doctor.serving = True
        await shows(lambda known: known["eu-west"].health == SERVING)


async def test_without_probes_new_users_would_go_to_the_silent(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: with health left out of account, a cell that says NOT_SERVING gets its share."""
    monkeypatch.setattr(probes, "PROBE_S", 0.02)
    monkeypatch.setattr(
        Topology, "open_to_new_users", lambda self, region: [c for c in self.cells if c.region == region]
    )
    doctor = Doctor()
    doctor.serving = False
    health_pb2_grpc.add_HealthServicer_to_server(doctor, fakes[0].server)
    async with router(dsn, fakes) as client, watching(client) as shows:
        await shows(lambda known: known["eu-west"].health == NOT_SERVING)
        assert "eu-west" in await homes(client, count=60)


# --- who may, and what is malformed -------------------------------------------------------------------------


@pytest.mark.parametrize("principal", ["service/x", "peer/x", "auditor/x", "treasury/x"])
async def test_operations_are_for_operators(client: Client, fakes: list[FakeCell], principal: str) -> None:
    """Nobody else changes what all callers go by."""
    name = "eu-west"
    requests: list[Message] = [
        pb.RegisterCellRequest(name=name, region="eu", endpoints=[fakes[0].address]),
        pb.SetCellWeightRequest(name=name, weight=1),
        pb.DrainCellRequest(name=name),
        pb.MarkCellDownRequest(name=name),
        pb.UndrainCellRequest(name=name),
        pb.RemoveCellRequest(name=name),
    ]
    for request in requests:
        method = getattr(client.stub, type(request).__name__.removesuffix("Request"))
        call = method(request, metadata=(("cellbook-principal", principal),), timeout=10)
        assert (await refused(call)).code is grpc.StatusCode.PERMISSION_DENIED


MALFORMED: dict[str, tuple[pb.RegisterCellRequest, str]] = {
    "no name": (pb.RegisterCellRequest(region="eu", endpoints=["h:1"]), "name"),
    "name": (pb.RegisterCellRequest(name="EU West", region="eu", endpoints=["h:1"]), "name"),
    "no region": (pb.RegisterCellRequest(name="a", endpoints=["h:1"]), "region"),
    "region": (pb.RegisterCellRequest(name="a", region="e u", endpoints=["h:1"]), "region"),
    "no endpoint": (pb.RegisterCellRequest(name="a", region="eu"), "endpoints"),
    "endpoint": (pb.RegisterCellRequest(name="a", region="eu", endpoints=["h"]), "endpoints"),
    "many endpoints": (pb.RegisterCellRequest(name="a", region="eu", endpoints=["h:1"] * 17), "endpoints"),
    "weight": (pb.RegisterCellRequest(name="a", region="eu", endpoints=["h:1"], weight=-1), "weight"),
}


@pytest.mark.parametrize(("request_", "field"), MALFORMED.values(), ids=MALFORMED)
async def test_malformed_cells_are_refused(client: Client, request_: pb.RegisterCellRequest, field: str) -> None:
    """The field is named."""
    refusal = await refused(client.stub.RegisterCell(request_, metadata=OPERATOR, timeout=10))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_cells_that_are_not_there_are_refused(client: Client) -> None:
    """By every operation on one; its removal apart, which has nothing left to do."""
    calls = [client.change(rpc, "nowhere") for rpc in ("DrainCell", "UndrainCell", "MarkCellDown")]
    for call in (*calls, client.change("SetCellWeight", "nowhere", weight=1)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_CELL")
        assert refusal.facts == {"cell": "nowhere"}
    await client.change("RemoveCell", "nowhere")
