"""The doctor at a router whose database somebody has changed, over real sockets: the cells say otherwise."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1 import router_pb2
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer, add_AuditServiceServicer_to_server
from server.cli.client import Client as Asking
from server.cli.doctor import homes
from server.cli.doctor.findings import State
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import ask
from tests.integration.router.rig import Client, FakeCell, cells, new_user, router

OPERATOR = (("cellbook-principal", "operator/test"),)


@dataclass
class Homes(AuditServiceServicer):
    """The users whose accounts a cell has opened, as it lists them."""

    fake: FakeCell

    async def ListHomes(self, request: pb.ListHomesRequest, _context: object) -> pb.ListHomesResponse:
        users = [user for user in sorted(self.fake.opened) if user > request.after_user][: request.page_size]
        return pb.ListHomesResponse(homes=[pb.UserHome(user_id=user, epoch=1) for user in users])


@pytest.fixture
async def fakes() -> AsyncIterator[list[FakeCell]]:
    async with cells("eu-west=eu", "us-east=us") as running:
        for fake in running:
            add_AuditServiceServicer_to_server(Homes(fake), fake.server)  # type: ignore[abstract]
        yield running


async def told(client: Client) -> list[tuple[State, str]]:
    async with Asking(client.address) as asking:
        listed = await client.stub.ListCells(router_pb2.ListCellsRequest(), timeout=10, metadata=OPERATOR)
        return [(each.state, each.detail) for each in await homes.examine(asking, listed)]


async def test_a_changed_directory_is_named(
    cluster: EmbeddedPostgres, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user moved in the directory alone, one removed from it, one whom a second cell has, too; and no others."""
    monkeypatch.setattr(homes, "AGAIN_S", 0)
    monkeypatch.setattr(homes, "PAGE", 2)
    name = f"router_{uuid4().hex}"
    await cluster.ensure_database(name)
    dsn = cluster.dsn(name)
    async with router(dsn, fakes) as client:
        users = [new_user() for _ in range(7)]
        for user in users:
            await client.register(user, "eu")
        assert await told(client) == [(State.OK, "7 users, each at home where the directory has them")]
        moved = "UPDATE users SET cell = 'us-east', cell_region = 'us', residency = '' WHERE user_id = $1"
        await ask(dsn, moved, users[0])
        await ask(dsn, "DELETE FROM users WHERE user_id = $1", users[1])
        fakes[1].opened[users[2]] = {"restored"}
        found = await told(client)
        assert {state for state, _ in found} == {State.FAIL}
        for user, problem in (
            (users[0], "the directory says us-east (epoch 1), and is at home in eu-west (epoch 1)"),
            (users[1], "has a home in eu-west, and the directory does not know them"),
            (users[2], "is at home in eu-west (epoch 1) and us-east (epoch 1) at once"),
        ):
            assert any(user in detail and problem in detail for _, detail in found), found
        assert len(found) == 3
        await fakes[1].stop()
        assert any("not proven: us-east" in detail for _, detail in await told(client))
