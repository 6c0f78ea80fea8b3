"""What the router was told is told again: by settings when it starts, by operators, and by those who register users."""

from uuid import UUID

import asyncpg

from cellbook.v1 import router_pb2 as pb
from tests.integration.router.rig import Client, FakeCell, new_user, refused, router
from tests.integration.router.test_operations import (
    ACTIVE,
    CELLS,
    DRAINING,
    OPERATOR,
    add,
    drain,
    remove,
    undrain,
)

__all__ = ["CELLS"]


async def test_an_operators_word_that_is_sent_again_undoes_no_later_one(client: Client) -> None:
    """Under its id it is done once; without one, it is said anew."""
    drained = pb.DrainCellRequest(name="us-east", command_id=new_user())
    for wanted in (DRAINING, DRAINING):
        assert (await client.stub.DrainCell(drained, metadata=OPERATOR, timeout=10)).cell.state == wanted
    await undrain(client, "us-east")
    assert (await client.stub.DrainCell(drained, metadata=OPERATOR, timeout=10)).cell.state == ACTIVE
    reused = pb.MarkCellDownRequest(name="us-east", command_id=drained.command_id)
    assert (
        await refused(client.stub.MarkCellDown(reused, metadata=OPERATOR, timeout=10))
    ).reason == "COMMAND_ID_REUSED"
    other = (("cellbook-principal", "operator/other"),)
    assert (await client.stub.DrainCell(drained, metadata=other, timeout=10)).cell.state == DRAINING
    removing = pb.RemoveCellRequest(name="us-east", command_id=new_user())
    await client.stub.RemoveCell(removing, metadata=OPERATOR, timeout=10)
    again = pb.RegisterCellRequest(name="us-east", region="us", endpoints=["127.0.0.1:9"], bring_back=True)
    await client.stub.RegisterCell(again, metadata=OPERATOR, timeout=10)
    await drain(client, "us-east")
    await client.stub.RemoveCell(removing, metadata=OPERATOR, timeout=10)
    assert "us-east" in {cell.name for cell in await client.list_cells()}


async def test_what_became_of_a_move_out_of_a_cell_that_is_gone_is_not_known(client: Client, dsn: str) -> None:
    """It may have been done: no answer is made up, and none is kept."""
    user, command_id = new_user(), new_user()
    await client.register(user, "eu")
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            """
            INSERT INTO move_commands (principal, command_id, user_id, to_cell, from_cell, from_epoch, residency)
            VALUES ('operator/test', $1, $2, 'eu-west', 'eu-gone', 1, 'eu')
            """,
            UUID(command_id),
            UUID(user),
        )
    finally:
        await connection.close()
    request = pb.MoveUserRequest(command_id=command_id, user_id=user, cell="eu-west")
    for _ in range(2):
        assert (await refused(client.stub.MoveUser(request, metadata=OPERATOR, timeout=10))).reason == "MOVE_UNKNOWN"
    other = pb.MoveUserRequest(command_id=command_id, user_id=user, cell="eu-north")
    refusal = await refused(client.stub.MoveUser(other, metadata=OPERATOR, timeout=10))
    assert refusal.reason == "COMMAND_ID_REUSED"


async def test_a_refused_move_stays_refused(client: Client) -> None:
    """Sent again under its id when it could be done: a no was final."""
    user = new_user()
    await client.register(user, "eu")
    await drain(client, "us-east")
    request = pb.MoveUserRequest(command_id=new_user(), user_id=user, cell="us-east", region="us")
    first = await refused(client.stub.MoveUser(request, metadata=OPERATOR, timeout=10))
    await undrain(client, "us-east")
    again = await refused(client.stub.MoveUser(request, metadata=OPERATOR, timeout=10))
    assert (first.reason, again) == ("CELL_TAKES_NOBODY", first)


async def test_a_removed_cell_stays_removed(dsn: str, fakes: list[FakeCell]) -> None:
    """Though a router starts again with settings that name it. It comes back by an operator's explicit word alone."""
    async with router(dsn, fakes) as client:
        await drain(client, "us-east")
        await remove(client, "us-east")
    async with router(dsn, fakes) as client:
        assert {cell.name for cell in await client.list_cells()} == {"eu-west", "eu-north"}
        assert (await refused(client.register(new_user(), "us"))).reason == "NO_CELL_IN_REGION"
        assert (await refused(add(client, fakes[2]))).reason == "CELL_REMOVED"
        elsewhere = FakeCell("us-east", "eu", address=fakes[2].address)
        assert (await refused(add(client, elsewhere, bring_back=True))).reason == "CELL_IN_OTHER_REGION"
        assert (await add(client, fakes[2], bring_back=True)).state == ACTIVE
    async with router(dsn, fakes) as client:
        assert (await client.register(new_user(), "us")).home.cell == "us-east"


async def test_a_registration_is_the_same_one_after_a_move(client: Client) -> None:
    """Also where the move has changed the region: sent again, it says where the user is at home now."""
    user = new_user()
    assert (await client.register(user, "us")).home.cell == "us-east"
    request = pb.RecordHomeRequest(user_id=user, cell="eu-west", epoch=2, region="eu")
    await client.stub.RecordHome(request, timeout=10, metadata=(("cellbook-principal", "peer/us-east"),))
    for region in ("us", "eu", ""):
        again = (await client.register(user, region)).home
        assert (again.cell, again.epoch, again.region) == ("eu-west", 2, "eu")
    assert (await refused(client.register(user, "ap"))).reason == "USER_REGISTERED_ELSEWHERE"
