"""The doctor at a router whose database somebody has changed, over real sockets: the cells say otherwise."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1 import router_pb2
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer, add_AuditServiceServicer_to_server
from cells.audit.proofs.keys import checkpoint_body
from server.audit.keys import signing_keys
from server.cli.access import Access
from server.cli.client import Client as Asking
from server.cli.client import ClientError
from server.cli.doctor import homes, processes
from server.cli.doctor.command import examined
from server.cli.doctor.database import examine
from server.cli.doctor.findings import Finding, State
from server.cli.reach import reached
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import CELL, ask
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


async def test_a_process_of_an_older_version_is_no_failure(fakes: list[FakeCell]) -> None:
    """It does not know GetCellStatus yet."""
    process = await processes.ask("eu-west", fakes[0].address, Access())
    assert [(each.check, each.state) for each in processes.answered(process)] == [("version", State.NOTE)]


async def test_a_cell_named_as_the_router_is_said_to_be_none(fakes: list[FakeCell]) -> None:
    """Its status, "Method not found!", names neither the mistake nor what to do."""
    with pytest.raises(ClientError, match=f"{fakes[0].address} is no router, .*--router HOST:PORT"):
        async with reached(fakes[0].address, Access()):
            pass
    [finding] = await processes.examine(fakes[0].address, Access())
    assert (finding.state, finding.detail) == (State.FAIL, "it is no router, perhaps a cell")


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


# --- at a real database ---


SURVIVES = "survives the server's loss"


async def states(dsn: str, cell: str = CELL) -> dict[str, State]:
    return {each.check: each.state for each in await examine(dsn, where="database", cell=cell)}


async def test_a_database_as_migrated(cell_dsn: str) -> None:
    """All but the replica is as it should be; and, for tests, the login is a superuser."""
    found = await states(cell_dsn)
    assert {check for check, state in found.items() if state is not State.OK} <= {SURVIVES, "role", "schema"}
    assert found["append-only"] is State.OK


async def test_what_was_done_to_it_is_found(cell_dsn: str) -> None:
    """By whoever could: a right too many, a trigger less, a setting of the database's own."""
    for query, check in (
        ("GRANT UPDATE (payload) ON event_store TO cellbook_cell", "append-only"),
        ("REVOKE UPDATE (payload) ON event_store FROM cellbook_cell", ""),
        ("GRANT TRUNCATE ON event_store TO cellbook_cell", "append-only"),
        ("REVOKE TRUNCATE ON event_store FROM cellbook_cell", ""),
        ("ALTER TABLE event_store DISABLE TRIGGER ALL", "append-only"),
        ("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
         "synchronous_commit"),
    ):  # fmt: skip
        await ask(cell_dsn, query)
        assert not check or (await states(cell_dsn))[check] is State.FAIL, query


async def test_a_database_from_an_old_backup(cell_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings of its cell alone, while nothing of it runs: it ends before what was signed."""
    for name in [name for name in os.environ if name.startswith("CELLBOOK_")]:
        monkeypatch.delenv(name)
    key = tmp_path / "checkpoint.key"
    signer = signing_keys(key, CELL, make=True).log
    config = tmp_path / "settings.toml"
    config.write_text(f'cell = "{CELL}"\ndsn = "{cell_dsn}"\ncheckpoint_key_file = "{key}"\n')

    async def age() -> Finding:
        found = await examined("", [config], Access())
        return next(each for each in found if each.check == "not an old one")

    assert (await age()).state is State.NOTE
    for size, state in ((0, State.OK), (7, State.FAIL)):
        body = checkpoint_body(signer.name, size, bytes(32))
        (tmp_path / f"{CELL}.checkpoint.last").write_text(signer.note(body))
        found = await age()
        assert found.state is state, found
    assert "this cell has signed its first 7 events" in found.detail
    config.write_text(f"{config.read_text()}state_dir = '/proc/none'\n")
    problems = {each.check for each in await examined("", [config], Access()) if each.state is State.FAIL}
    assert problems == {"state_dir"}


async def test_nobody_answers() -> None:
    """Said in a line, whatever the driver raises."""
    [finding] = await examine("postgresql://127.0.0.1:1/none", where="database", cell=CELL)
    assert (finding.check, finding.state) == ("connects", State.FAIL)
