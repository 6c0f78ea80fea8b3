"""The router when something goes wrong between its two steps: who registers again finishes what was begun."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellbook.v1 import router_pb2
from router.directory import registration as accounts
from router.directory.registration import Registration, open_command_id
from router.directory.users import UserEntry, UserState
from router.refusals import DirectoryUnavailable
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.router.rig import (
    Behaviour,
    Client,
    FakeCell,
    cells,
    client_of,
    new_user,
    refused,
    router,
)

CELLS = ("eu-west=eu",)
START_S = 60.0


@pytest.fixture
def eu(fakes: list[FakeCell]) -> FakeCell:
    return fakes[0]


# --- the cell -----------------------------------------------------------------------------------------------


async def test_a_lost_reply_is_asked_for_again(client: Client, eu: FakeCell) -> None:
    """The answer is UNAVAILABLE with a time to wait; the next call finishes it under the same command."""
    user = new_user()
    eu.behaviour = Behaviour.LOSES_REPLY
    refusal = await refused(client.register(user, "eu"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_UNAVAILABLE")
    assert refusal.retry_ms
    assert (refusal.facts["user_id"], refusal.facts["cell"]) == (user, "eu-west")
    eu.behaviour = Behaviour.OPENS
    assert (await client.register(user, "eu")).home.cell == "eu-west"
    assert len(eu.calls) == 2
    assert eu.opened == {user: {str(open_command_id(UUID(user), 1))}}


async def test_with_a_new_id_a_lost_reply_opens_twice(
    client: Client, eu: FakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: with a command id drawn anew for each attempt, the cell is told to open it twice."""
    monkeypatch.setattr(accounts, "open_command_id", lambda *_: uuid4())
    user = new_user()
    eu.behaviour = Behaviour.LOSES_REPLY
    await refused(client.register(user, "eu"))
    eu.behaviour = Behaviour.OPENS
    await client.register(user, "eu")
    assert len(eu.opened[user]) == 2


async def test_a_cell_that_is_down_keeps_its_new_users(client: Client, eu: FakeCell) -> None:
    """The home is kept while the cell is away, and is the same when it is back."""
    await eu.stop()
    user = new_user()
    refusal = await refused(client.register(user, "eu"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_UNAVAILABLE")
    assert refusal.retry_ms
    home = (await client.resolve(user)).home
    await eu.start()
    assert await until_registered(client, user) == home
    assert set(eu.opened) == {user}


async def until_registered(client: Client, user: str) -> router_pb2.Home:
    """Asks again as a client does, until the router's channel has found the cell."""
    async with asyncio.timeout(20):
        while True:
            with suppress(grpc.aio.AioRpcError):
                return (await client.register(user, "eu")).home
            await asyncio.sleep(0.05)


async def test_a_cell_that_hangs_does_not_hang_the_caller(client: Client, eu: FakeCell) -> None:
    """The caller hears UNAVAILABLE from the router before its own deadline has passed."""
    eu.behaviour = Behaviour.HANGS
    began_s = time.monotonic()
    refusal = await refused(client.register(new_user(), "eu", timeout_s=2))
    assert time.monotonic() - began_s < 2
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CELL_UNAVAILABLE")
    assert "DEADLINE_EXCEEDED" in refusal.facts["problem"]


async def test_with_the_callers_whole_time_it_would_hang(
    client: Client, eu: FakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: were the cell given all of the caller's time, there would be none left to answer in."""
    monkeypatch.setattr("router.directory.registration._share", lambda _: 30.0)
    eu.behaviour = Behaviour.HANGS
    refusal = await refused(client.register(new_user(), "eu", timeout_s=1))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "")


async def test_an_account_opened_long_ago_is_open(client: Client, eu: FakeCell) -> None:
    """A cell that has forgotten the command, but has the account, ends the registration well."""
    eu.behaviour = Behaviour.ALREADY_OPEN
    user = new_user()
    assert (await client.register(user, "eu")).home.cell == "eu-west"
    assert (await client.register(user, "eu")).home.cell == "eu-west"
    assert len(eu.calls) == 1


@pytest.mark.parametrize("behaviour", [Behaviour.DENIES, Behaviour.FAILS])
async def test_no_other_answer_passes_for_an_open_account(client: Client, eu: FakeCell, behaviour: Behaviour) -> None:
    """Whatever else the cell answers, the registration is not done and says so."""
    eu.behaviour = behaviour
    user = new_user()
    for _ in range(2):
        assert (await refused(client.register(user, "eu"))).reason == "CELL_UNAVAILABLE"
    assert len(eu.calls) == 2
    assert not eu.opened


async def test_another_process_of_the_cell_is_asked(dsn: str) -> None:
    """Where one endpoint does not answer the next one is tried, and is asked first from then on."""
    async with cells("eu-west=eu", "eu-west=eu") as (standby, leader):
        standby.behaviour = Behaviour.FAILS
        both = FakeCell("eu-west", "eu", address=f"{standby.address}+{leader.address}")
        async with router(dsn, [both]) as client:
            for _ in range(3):
                await client.register(new_user(), "eu")
        assert (len(standby.calls), len(leader.calls)) == (1, 3)


# --- the router's own process -------------------------------------------------------------------------------


@asynccontextmanager
async def router_process(folder: Path, eu: FakeCell) -> AsyncIterator[tuple[Client, asyncio.subprocess.Process]]:
    """`python -m router` with its own PostgreSQL in `folder`; killed at the end if it still runs."""
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    flags = (
        "--listen",
        "127.0.0.1:0",
        "--data",
        folder / "data",
        "--ready-file",
        ready,
        "--cells",
        eu.setting,
    )
    environment = {key: value for key, value in os.environ.items() if not key.upper().startswith("CELLBOOK_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "router", *flags, env=environment)
    try:
        async with asyncio.timeout(START_S):
            while not ready.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        async with client_of(json.loads(ready.read_text())["address"]) as client:
            yield client, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stopped(process: asyncio.subprocess.Process) -> int:
    process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(process.wait(), 30)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """For the process; the PostgreSQL that a killed one leaves behind is stopped."""
    yield tmp_path
    await EmbeddedPostgres(tmp_path / "data").stop("immediate")


async def test_a_kill_between_the_steps_loses_nothing(folder: Path, eu: FakeCell) -> None:
    """Killed after the home was written and before the account was opened, it finishes when asked again."""
    user = new_user()
    eu.behaviour = Behaviour.HANGS
    async with router_process(folder, eu) as (client, process):
        registering = asyncio.create_task(refused(client.register(user, "eu")))
        await asyncio.wait_for(eu.called.wait(), 10)
        process.kill()
        await process.wait()
        assert (await registering).code is grpc.StatusCode.UNAVAILABLE
    assert not eu.opened
    eu.behaviour = Behaviour.OPENS
    async with router_process(folder, eu) as (client, process):
        # Written before the cell was asked, and so before the kill.
        assert (await client.resolve(user)).home.cell == "eu-west"
        assert (await client.register(user, "eu")).home.epoch == 1
        assert eu.opened == {user: {str(open_command_id(UUID(user), 1))}}
        assert await stopped(process) == 0


async def test_with_the_account_first_a_failure_leaves_one_that_nobody_knows(
    client: Client, eu: FakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: with the steps exchanged, what goes wrong in between leaves an account without a home."""
    give_home = Registration._give_home

    async def exchanged(self: Registration, user_id: UUID, residency: str) -> UserEntry:
        (cell,) = self.topology.now.open_to_new_users(residency)
        home = UserEntry(user_id=user_id, cell=cell, epoch=1, residency=residency, state=UserState.OPENING)
        await self.accounts.open(home, timeout_s=5)
        if user_id == UUID(user):
            raise DirectoryUnavailable
        return await give_home(self, user_id, residency)

    monkeypatch.setattr(Registration, "_give_home", exchanged)
    user = new_user()
    await refused(client.register(user, "eu"))
    assert user in eu.opened
    assert (await refused(client.resolve(user))).code is grpc.StatusCode.NOT_FOUND


async def test_a_restart_finds_everybody(folder: Path, eu: FakeCell) -> None:
    """Users are at home where they were, and registering them again asks no cell."""
    users = [new_user() for _ in range(20)]
    async with router_process(folder, eu) as (client, process):
        before = await asyncio.gather(*(client.register(user, "eu") for user in users))
        assert await stopped(process) == 0
    asked = len(eu.calls)
    async with router_process(folder, eu) as (client, process):
        resolved = await asyncio.gather(*(client.resolve(user) for user in users))
        assert [answer.home for answer in resolved] == [answer.home for answer in before]
        assert await asyncio.gather(*(client.register(user, "eu") for user in users)) == before
        health = health_pb2_grpc.HealthStub(client.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert len(eu.calls) == asked


# --- its database -------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_no_internal_error(folder: Path, eu: FakeCell) -> None:
    """Calls are told to come again while it is away, and are answered when it is back."""
    user, postgres = new_user(), EmbeddedPostgres(folder / "data")
    await postgres.start()
    async with router(postgres.dsn("postgres"), [eu]) as client:
        home = (await client.register(user, "eu")).home
        await postgres.stop("immediate")
        for call in (client.resolve(user), client.register(user, "eu"), client.register(new_user(), "eu")):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE")
            assert refusal.retry_ms
        await postgres.start()
        assert (await client.resolve(user)).home == home
        assert (await client.register(new_user(), "eu")).home.cell == "eu-west"


@pytest.mark.bench
async def test_many_can_register_at_once(client: Client, eu: FakeCell) -> None:
    """Fifty callers at once register at least a hundred users a second (a thousand were measured)."""
    waiting = [new_user() for _ in range(500)]

    async def caller() -> None:
        while waiting:
            await client.register(waiting.pop(), "eu")

    began_s = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(50)))
    assert len(eu.opened) == 500
    assert 500 / (time.monotonic() - began_s) > 100
