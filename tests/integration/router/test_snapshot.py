"""The router without its database: known users are found in the last known good copy, nobody is registered."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import grpc
import pytest

from router.directory.database import Database
from router.directory.follower import Follower
from router.directory.homes import Homes
from router.directory.snapshot import Snapshot
from router.directory.topology import Cell, Topology
from router.directory.users import CopiedHome, Directory
from server.shell.hosting.failures import DatabaseUnusable
from server.shell.postgres import database
from server.shell.postgres.database import Connection
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import connected
from tests.integration.router.rig import Client, FakeCell, new_user, refused, router
from tests.local_cells import until_async

CELLS = ("us-east=us", "eu-west=eu")
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
PATIENCE_S = 30.0


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> str:
    """On a server of this module's own; a test before may have stopped it."""
    await postgres.start()
    name = f"router_{uuid4().hex}"
    await postgres.ensure_database(name)
    return postgres.dsn(name)


async def copied(file: Path, *users: str) -> None:
    """Waits until the copy holds them all."""

    async def held() -> bool:
        with sqlite3.connect(file) as connection:
            known = {row[0] for row in connection.execute("SELECT user_id FROM users")}
        connection.close()
        return known >= {UUID(user).bytes for user in users}

    await until_async(held)


async def registered(dsn: str, fakes: list[FakeCell], file: Path, count: int = 20) -> dict[str, str]:
    """User -> home, of so many that are in the copy."""
    async with router(dsn, fakes, snapshot=file) as client:
        users = [new_user() for _ in range(count)]
        answers = await asyncio.gather(*(client.register(user) for user in users))
        await copied(file, *users)
    return {answer.home.user_id: answer.home.cell for answer in answers}


async def check_read_only(client: Client, homes: dict[str, str]) -> None:
    """Known users are found, strangers are not said to be none, and nobody is registered."""
    for user, home in homes.items():
        found = await client.resolve(user)
        assert (found.home.cell, found.home.epoch, found.cell.name) == (home, 1, home)
        assert found.cell.endpoints
    stranger = new_user()
    for call in (client.resolve(stranger), client.register(stranger, "eu")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE")
        assert refusal.retry_ms


async def test_known_users_are_found_while_the_database_is_away(
    dsn: str, postgres: EmbeddedPostgres, fakes: list[FakeCell], tmp_path: Path
) -> None:
    """Without it only registration stops; back again, it is used again."""
    homes = await registered(dsn, fakes, file := tmp_path / "snapshot.db")
    async with router(dsn, fakes, snapshot=file) as client:
        await postgres.stop("immediate")
        await check_read_only(client, homes)
        await until_async(client.is_read_only)
        await postgres.start()
        user = new_user()

        async def registers() -> bool:
            try:
                homes[user] = (await client.register(user, "eu")).home.cell
            except grpc.aio.AioRpcError:
                return False
            return True

        await until_async(registers)
        assert {user: (await client.resolve(user)).home.cell for user in homes} == homes
        await until_async(client.is_writable)


async def test_a_router_starts_without_its_database(dsn: str, fakes: list[FakeCell], tmp_path: Path) -> None:
    """From the copy on its disk alone, with the endpoints that the settings of this start name."""
    homes = await registered(dsn, fakes, file := tmp_path / "snapshot.db")
    moved = FakeCell("us-east", "us", address="127.0.0.1:9")
    async with router(NOWHERE, [moved], snapshot=file) as client:
        await check_read_only(client, homes)
        assert await client.is_read_only()
        listed = {cell.name: list(cell.endpoints) for cell in await client.list_cells()}
        assert listed == {"us-east": ["127.0.0.1:9"], "eu-west": [fakes[1].address]}


async def test_a_router_that_started_without_it_takes_it_up(
    dsn: str, postgres: EmbeddedPostgres, fakes: list[FakeCell], tmp_path: Path
) -> None:
    """Once the database is there users are registered, without a restart."""
    homes = await registered(dsn, fakes, file := tmp_path / "snapshot.db")
    await postgres.stop("immediate")
    async with router(dsn, fakes, snapshot=file) as client:
        await check_read_only(client, homes)
        await postgres.start()
        await until_async(client.is_writable)
        assert (await client.register(new_user(), "eu")).home.cell == "eu-west"


async def test_another_directory_does_not_take_the_place_of_the_one_copied(
    dsn: str, postgres: EmbeddedPostgres, fakes: list[FakeCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new and empty database, where the old one was lost, would say of everybody that they are nobody."""
    homes = await registered(dsn, fakes, file := tmp_path / "snapshot.db")
    await postgres.ensure_database("another")
    looked = looks(monkeypatch)
    async with router(postgres.dsn("another"), fakes, snapshot=file) as client:
        await check_read_only(client, homes)
        await until_async(looked)
        await check_read_only(client, homes)
    async with router(dsn, fakes, snapshot=file) as client:
        assert await client.is_writable()


def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[bool]]:
    """Tells whether the router has looked at its database again."""
    look_again, seen = Follower.look_again, []

    async def noted(self: Follower) -> None:
        await look_again(self)
        seen.append(True)

    async def looked() -> bool:
        return bool(seen)

    monkeypatch.setattr(Follower, "look_again", noted)
    return looked


async def test_without_looking_which_it_is_known_users_would_be_nobody(
    dsn: str, postgres: EmbeddedPostgres, fakes: list[FakeCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: any database taken for the directory, an empty one says NOT_FOUND of users who have a home."""
    homes = await registered(dsn, fakes, file := tmp_path / "snapshot.db", 1)
    await postgres.ensure_database("empty")
    monkeypatch.setattr(Database, "_check", AsyncMock())
    async with router(postgres.dsn("empty"), fakes, snapshot=file) as client:
        assert (await refused(client.resolve(next(iter(homes))))).code is grpc.StatusCode.NOT_FOUND


async def test_without_a_copy_there_is_nothing_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start without a database fails, and says why."""
    monkeypatch.setattr(database, "GONE_MAX_S", 0.5)
    with pytest.raises(DatabaseUnusable, match="is PostgreSQL running and listening there"):
        async with router(NOWHERE, [], snapshot=tmp_path / "snapshot.db"):
            pass


async def test_without_reading_the_copy_nobody_would_be_found(
    dsn: str, postgres: EmbeddedPostgres, fakes: list[FakeCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: with the directory alone, known users are not found while its database is away."""
    homes = await registered(dsn, fakes, file := tmp_path / "snapshot.db", 1)

    async def directory_alone(self: Homes, user_id: UUID) -> object:
        return await self.directory.find(user_id)

    monkeypatch.setattr(Homes, "find", directory_alone)
    async with router(dsn, fakes, snapshot=file) as client:
        await postgres.stop("immediate")
        assert (await refused(client.resolve(next(iter(homes))))).reason == "DIRECTORY_UNAVAILABLE"


async def test_what_other_routers_write_is_copied_too(dsn: str, fakes: list[FakeCell], tmp_path: Path) -> None:
    """Each has all users in its copy, whoever registered them; and the cells."""
    file = tmp_path / "snapshot.db"
    async with router(dsn, fakes) as one, router(dsn, fakes, snapshot=file):
        users = [new_user() for _ in range(50)]
        await asyncio.gather(*(one.register(user) for user in users))
        await copied(file, *users)
    copy = Snapshot(file)
    assert [cell.name for cell in copy.topology().cells] == ["eu-west", "us-east"]
    copy.close()


# --- the cursor ---------------------------------------------------------------------------------------------


async def insert(connection: Connection) -> UUID:
    user_id = uuid4()
    await connection.execute(
        "INSERT INTO users (user_id, cell, cell_region, residency) VALUES ($1, 'eu-west', 'eu', '')", user_id
    )
    return user_id


@pytest.fixture
async def directory(dsn: str, fakes: list[FakeCell]) -> AsyncIterator[Directory]:
    async with router(dsn, fakes):
        pass

    async def source() -> str:
        return dsn

    database = Database(source)
    await database.open()
    yield Directory(database)
    await database.close()


async def since(directory: Directory, cursor: int, pages_of: int = 3) -> set[UUID]:
    return {home.user_id async for page in directory.homes_since(cursor, pages_of) for home in page}


async def test_a_transaction_that_commits_late_is_not_skipped(dsn: str, directory: Directory) -> None:
    """One that began earlier and commits after the look is seen by the next: commit order is not their order."""
    async with connected(dsn) as slow, connected(dsn) as quick:
        transaction = slow.transaction()
        await transaction.start()
        late = await insert(slow)
        early = [await insert(quick) for _ in range(8)]
        cursor = await directory.oldest_under_way()
        assert await since(directory, 0) == set(early)
        await transaction.commit()
        assert late in await since(directory, cursor)
        # Ablation: from the last one seen on, it would be skipped for good.
        last = await quick.fetchval("SELECT max(homed_by::text::bigint) FROM users")
        assert late not in await since(directory, last)


# --- the file -----------------------------------------------------------------------------------------------

CELL = Cell(name="eu-west", region="eu", endpoints=("a:1", "b:2"))
HOME = CopiedHome(uuid4(), "eu-west", 2, "eu")


async def test_a_copy_is_found_again(tmp_path: Path) -> None:
    """Cells, homes and the cursor, as they were."""
    directory_id = uuid4()
    first = Snapshot(tmp_path / "copy")
    await first.put_topology(directory_id, Topology([CELL], version=7))
    await first.put_users([HOME])
    await first.put_cursor(42)
    first.close()
    again = Snapshot(tmp_path / "copy")
    assert again.topology() == Topology([CELL], version=7, read_only=True)
    assert (again.find(HOME.user_id), again.find(uuid4())) == (HOME, None)
    assert (again.directory_id, again.cursor) == (str(directory_id), 42)
    again.close()


@pytest.mark.parametrize("broken", [False, True])
def test_the_file_is_for_its_owner_alone(tmp_path: Path, broken: bool) -> None:  # noqa: FBT001 - a parameter
    """It says where everybody is at home: also one of an earlier version, and what SQLite puts beside it."""
    before = os.umask(0o022)
    try:
        path = tmp_path / "data" / "copy"
        asyncio.run(kept(path))
        if broken:
            path.write_bytes(b"this is no database" * 100)
        path.chmod(0o644)
        copy = Snapshot(path)
        asyncio.run(copy.put_users([HOME]))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        copy.close()
    finally:
        os.umask(before)
    assert modes == {"copy": 0o600, "copy-wal": 0o600, "copy-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_the_highest_epoch_stays(tmp_path: Path) -> None:
    """What comes of a lower one, from a restored database say, is older."""
    copy = Snapshot(tmp_path / "copy")
    await copy.put_users([HOME])
    await copy.put_users([HOME._replace(epoch=1, cell="us-east")])
    assert copy.find(HOME.user_id) == HOME
    await copy.put_users([HOME._replace(epoch=3, cell="eu-north")])
    assert copy.find(HOME.user_id) == HOME._replace(epoch=3, cell="eu-north")
    copy.close()


def test_a_copy_of_another_format_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version's file is not read as ours."""
    asyncio.run(kept(tmp_path / "copy"))
    monkeypatch.setattr("router.directory.snapshot.FORMAT", "2")
    copy = Snapshot(tmp_path / "copy")
    assert (copy.find(HOME.user_id), copy.directory_id, copy.topology().cells) == (None, "", ())
    copy.close()


async def kept(file: Path) -> None:
    copy = Snapshot(file)
    await copy.put_topology(uuid4(), Topology([CELL]))
    await copy.put_users([HOME])
    copy.close()


def test_a_broken_file_is_thrown_away(tmp_path: Path) -> None:
    """It can be made again: no router stays away for it."""
    file = tmp_path / "copy"
    file.write_bytes(b"no database " * 100)
    copy = Snapshot(file)
    assert (copy.directory_id, copy.find(HOME.user_id)) == ("", None)
    copy.close()
