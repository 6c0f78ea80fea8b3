"""Each field of each request to a router is held to its bound, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message

from cellbook.v1 import router_pb2 as pb
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bounds import beyond, needs_bound
from tests.integration.router_rig import Client, cells, refused, router

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


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("router"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop("immediate"))


@pytest.fixture
async def client(postgres: EmbeddedPostgres) -> AsyncIterator[Client]:
    name = f"router_{uuid4().hex}"
    await postgres.ensure_database(name)
    async with cells("eu-west=eu", "us-east=us") as fakes, router(postgres.dsn(name), fakes) as running:
        yield running


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
