"""Each field of each request to a router is held to its bound, over a real socket."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from cellbook.v1 import router_pb2 as pb
from tests.bounds import beyond, needs_bound
from tests.integration.router.rig import Client, refused

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
