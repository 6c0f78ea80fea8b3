"""The router as a proxy: calls of the cells' services arrive as they were sent, and come back as they were answered."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from cellbook.v1 import auction_pb2, ledger_pb2
from cellbook.v1 import router_pb2 as pb
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from router.routing import proxy
from server.shell.calls import streams
from server.shell.observability.metrics import CallMetrics
from tests.bounds import beyond, needs_bound
from tests.integration.router.fake_cells import EU, US, Way, way_to_cells
from tests.integration.router.rig import Client, new_user, refused
from tests.integration.services_rig import SHOP

PATIENCE_S = 30.0


@pytest.fixture
async def town(dsn: str) -> AsyncIterator[Way]:
    async with way_to_cells(dsn, smart=False) as way:
        yield way


async def test_without_that_a_batch_goes_by_its_first_item(town: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: the others are told that they live elsewhere."""
    monkeypatch.setattr(proxy, "is_batch", lambda _: False)
    assert await town.deposit(await town.user(US), await town.user(EU)) == [US, "WRONG_CELL"]


async def test_a_call_without_a_cell_is_refused_with_its_reason(town: Way) -> None:
    """By metadata that name none, or one that is not there."""
    request = ledger_pb2.GetCommandRequest(command_id=new_user())
    nowhere = await refused(town.send(request, by=SHOP, timeout_s=10))
    assert (nowhere.code, nowhere.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "GOAL_MISSING")
    unknown = await refused(town.send(request, by=(*SHOP, ("cellbook-cell", "mars")), timeout_s=10))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CELL_UNKNOWN")


async def test_nobody_learns_who_is_a_user_here(town: Way) -> None:
    """Strangers and other users get the same answer whether or not there is such a user, and no cell is asked."""
    there, nobody = await town.user(US), new_user()
    other = (("cellbook-principal", f"user/{new_user()}"),)
    for user in (there, nobody):
        stranger = await refused(town.balance(user, by=None))
        assert (stranger.code, stranger.reason) == (grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_MISSING")
        denied = await refused(town.balance(user, by=other))
        assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_ACCOUNT")
        request = ledger_pb2.GetCommandRequest(command_id=new_user())
        at_home = (*other, ("cellbook-user", user))
        assert (await refused(town.send(request, by=at_home))).reason == "NOT_YOUR_ACCOUNT"
    assert not any(cell.calls["GetBalance"] or cell.calls["GetCommand"] for cell in town.cells.values())


async def test_nothing_is_sent_to_a_cell_that_is_down(town: Way) -> None:
    """By an operator's word, at once; undrained it is called again."""
    user = await town.user(US)
    await town.router.operate("MarkCellDown", name=US)
    refusal = await refused(town.balance(user))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_DOWN")
    assert not town.cells[US].calls["GetBalance"]
    # A user whose id names nobody possible is for any cell that is up to refuse.
    assert await town.deposit(user, await town.user(EU), "nobody") == ["CELL_DOWN", EU, "USER_NOT_FOUND"]
    await town.router.operate("UndrainCell", name=US)
    assert (await town.balance(user)).token.cell == US


# --- as it was sent, as it was answered ---------------------------------------------------------------------


async def test_what_is_not_for_a_client_to_say_does_not_arrive(town: Way) -> None:
    """No clock, which is for peers alone; and that the call was passed on, the router says itself, once."""
    user, cell = await town.user(US), town.cells[US]
    await town.balance(user, by=(*SHOP, ("cellbook-hlc", "1"), ("cellbook-vector", "{}"), ("cellbook-forwarded", "no")))
    assert cell.metadata["cellbook-forwarded"] == "1"
    assert not {"cellbook-hlc", "cellbook-vector"} & set(cell.metadata)


async def test_a_cell_that_is_gone_is_unavailable(town: Way) -> None:
    """At once, and not at the caller's deadline: whether to ask again is its own affair."""
    user = await town.user(US)
    await town.balance(user)
    await town.cells[US].stop()
    assert (await refused(town.balance(user, timeout_s=30))).code is grpc.StatusCode.UNAVAILABLE
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


async def test_a_watch_that_is_not_read_ends_here_and_at_the_cell(town: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that reads on afterwards gets what its connection has taken, and then where to resume."""
    monkeypatch.setattr(streams, "UNREAD_MAX_S", 0.5)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(town.router.address, options=options) as channel:
        request = auction_pb2.WatchAuctionRequest(auction=f"cells/{EU}/auctions/{new_user()}")
        call = AuctionServiceStub(channel).WatchAuction(request, metadata=SHOP, timeout=60)
        await asyncio.wait_for(town.cells[EU].given_up.wait(), PATIENCE_S)
        positions: list[int] = []

        async def read_all() -> None:
            async for item in call:
                positions.append(item.next_position)  # noqa: PERF401 - those before the error, too

        refusal = await refused(read_all())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW")
    assert positions == list(range(len(positions)))
    assert refusal.facts["next_position"] == str(positions[-1])


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The methods that the metrics name; a router that is started afterwards adds to it."""
    methods: set[str] = set()
    monkeypatch.setattr(CallMetrics, "observe", lambda _, method, *_rest: methods.add(method))
    return methods


async def test_made_up_methods_share_one_name_in_the_metrics(observed: set[str], town: Way) -> None:
    """However a call of one ends: each name would be a series for good."""
    for metadata in ((), SHOP, (*SHOP, ("cellbook-cell", EU))):
        call: Any = town.router.channel.unary_unary("/cellbook.v1.LedgerService/MadeUp")
        await refused(call(b"", metadata=metadata, timeout=10))
    assert {method for method in observed if "Made" in method or method == "unknown"} == {"unknown"}


async def test_methods_that_are_not_known_are_passed_on_all_the_same(town: Way) -> None:
    """A newer cell's methods need no newer router: the answer is the cell's."""
    call: Any = town.router.channel.unary_unary("/cellbook.v1.LedgerService/Newest")
    refusal = await refused(call(b"\x0a\x01x", metadata=(*SHOP, ("cellbook-cell", EU)), timeout=10))
    assert (refusal.code, refusal.message) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    other: Any = town.router.channel.unary_unary("/elsewhere.v1.Service/Method")
    assert (await refused(other(b"", timeout=10))).code is grpc.StatusCode.UNIMPLEMENTED


# --- bounds of every field ---


A, C = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000003"
OPERATOR, PEER = "operator/test", "peer/us-east"
CELL = {"name": "eu-west"}
OPTIONAL_ID = {"RegisterCell", "SetCellWeight", "DrainCell", "MarkCellDown", "UndrainCell", "RemoveCell"}

GOOD: dict[str, Message] = {
    "RegisterUser": pb.RegisterUserRequest(user_id=A),
    "ResolveUser": pb.ResolveUserRequest(user_id=A),
    "ListCells": pb.ListCellsRequest(),
    "WatchTopology": pb.WatchTopologyRequest(),
    "RegisterCell": pb.RegisterCellRequest(name="mars", region="eu", endpoints=["127.0.0.1:9"]),
    "SetCellWeight": pb.SetCellWeightRequest(**CELL, weight=1),
    "DrainCell": pb.DrainCellRequest(**CELL),
    "MarkCellDown": pb.MarkCellDownRequest(**CELL),
    "UndrainCell": pb.UndrainCellRequest(**CELL),
    "RemoveCell": pb.RemoveCellRequest(**CELL),
    "MoveUser": pb.MoveUserRequest(command_id=C, user_id=A, cell="eu-west"),
    "GetMove": pb.GetMoveRequest(user_id=A),
    "EvacuateCell": pb.EvacuateCellRequest(name="eu-west"),
    "RecordHome": pb.RecordHomeRequest(user_id=A, cell="eu-west", epoch=2),
    "ListDirectory": pb.ListDirectoryRequest(after_user=A, page_size=1),
}


def test_every_rpc_is_tried() -> None:
    """The table covers all RPCs of a router."""
    assert set(GOOD) == {rpc.name for rpc in pb.DESCRIPTOR.services_by_name["RouterService"].methods}


async def test_a_value_beyond_its_bound_is_refused(client: Client) -> None:
    """INVALID_ARGUMENT, with the field named; for every field of every request."""
    for rpc, request in requests_beyond():
        metadata = (("cellbook-principal", PEER if rpc == "RecordHome" else OPERATOR),)
        call = getattr(client.stub, rpc)(request[1], metadata=metadata, timeout=10)
        answer = await refused(call.read() if rpc == "EvacuateCell" else call)
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (rpc, request, answer)
        assert answer.fields == [request[0]], (rpc, request, answer)


def requests_beyond() -> Iterator[tuple[str, tuple[str, Message]]]:
    """The RPC, the field that is wrong, and the request."""
    for rpc, good in GOOD.items():
        descriptor: Any = good.DESCRIPTOR
        for field in filter(needs_bound, descriptor.fields):
            for value in beyond(field):
                if field.name == "command_id" and not value and rpc in OPTIONAL_ID:
                    continue
                request = type(good)()
                request.CopyFrom(good)
                if field.is_repeated:
                    getattr(request, field.name).extend(value)
                else:
                    setattr(request, field.name, value)
                yield rpc, (field.name, request)
