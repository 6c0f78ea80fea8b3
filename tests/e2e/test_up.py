"""The cluster that stays: found as it was, told when a part of it dies, gone without a trace."""

import asyncio
import json
import os
import random
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc
import grpc.aio
import httpx2
import pytest

from cellbook.v1 import router_pb2
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from lab.cluster import CELLS
from lab.market import Market
from lab.member import is_free
from server.cli.access import PLAIN, Access, access_by_keys
from tests.e2e.cellbook_command import Running, begin, processes_of, run

pytestmark = pytest.mark.e2e


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """A cluster that `cellbook up` has started, as its one line of JSON describes it."""

    running: Running
    router: str
    processes: dict[str, dict[str, str]]
    # Of a secure one: where its keys are, and where it is called without a certificate.
    keys: str
    public: str
    console: str

    @property
    def access(self) -> Access:
        return access_by_keys(Path(self.keys)) if self.keys else PLAIN


def port_base() -> int:
    """The first of some ports in a row that are free.

    Anywhere but at the documented ones, where a developer may have a cluster running, and below those that the system
    gives to outgoing connections: a closed one blocks its port for a minute.
    """
    ports = range(12_000, 20_000)
    for base in random.sample(ports, 100):
        if all(is_free(port) for port in range(base, base + 3 + len(CELLS))):
            return base
    pytest.fail(f"no free ports in a row among {ports}")


async def up(*arguments: str | Path, temporary: Path) -> Up:
    running = await begin("up", "--json", "--port-base", str(port_base()), *arguments, temporary=temporary)
    line = await asyncio.wait_for(running.read_line(), 90)
    if not line:
        pytest.fail((await running.end()).stderr)
    told = json.loads(line)
    return Up(
        running=running,
        router=told["router"],
        processes={each["name"]: each for each in told["processes"]},
        keys=told.get("keys", ""),
        public=told.get("public", ""),
        console=told["console"],
    )


async def stopped(cluster: Up, number: signal.Signals) -> int:
    cluster.running.process.send_signal(number)
    return (await asyncio.wait_for(cluster.running.end(), 60)).code


@pytest.fixture
async def nothing_left(tmp_path: Path) -> AsyncIterator[None]:
    """Whatever the test does: no process that names its folder lives afterwards."""
    yield
    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("nothing_left")
async def test_a_second_start_finds_everything_as_it_was(tmp_path: Path) -> None:
    """Users keep their homes and every cent over a stop and a start on the same folder."""
    first = await up("--data", tmp_path / "kept", temporary=tmp_path)
    async with Market(first.router, first.access) as market:
        person = await market.register("somebody", "eu-west")
        await market.deposit(person, "EUR", 12_50)
    assert await stopped(first, signal.SIGTERM) == 0

    second = await up("--data", tmp_path / "kept", temporary=tmp_path)
    async with Market(second.router, second.access) as market:
        assert (await market.balances(person.cell, person.user_id))["EUR"].available_minor == 12_50
        assert await market.home(person.user_id) == person.cell == "eu-west"
        events = (await market.logs())["eu-west"]
        assert [event.event_type for event in events] == ["ACCOUNT_OPENED", "DEPOSITED"]
    assert await stopped(second, signal.SIGINT) == 130


@pytest.mark.usefixtures("nothing_left")
async def test_a_secure_cluster_wants_proof(tmp_path: Path) -> None:
    """The command gets in with the keys; a token alone at the public door; what says who it is, nowhere."""
    cluster = await up("--secure", "--data", tmp_path / "kept", temporary=tmp_path)
    keys = ("--keys", cluster.keys)
    listed = await run(*keys, "router", "cells", "--router", cluster.router, "--json", temporary=tmp_path)
    assert [cell["name"] for cell in json.loads(listed.stdout)["cells"]] == ["ap-tokyo", "eu-west", "us-east"]
    plain = await run("router", "cells", "--router", cluster.router, "--json", temporary=tmp_path)
    assert (plain.code, plain.stdout) == (1, "")

    config = Path(cluster.keys).parent / "us-east" / "settings.toml"
    doctor = ("doctor", "--router", cluster.router, "--config", config, "--json")
    found = json.loads((await run(*keys, *doctor, temporary=tmp_path)).stdout)
    wrong = [each for each in found["findings"] if each["state"] == "FAIL"]
    assert (found["healthy"], wrong) == (True, [])
    checks = {(each["where"].split()[0], each["check"]) for each in found["findings"]}
    assert {
        ("us-east", "answers"),
        ("us-east", "clock"),
        (cluster.router, "certificate"),
        ("database", "fsync"),
        ("directory", "homes"),
    } <= checks
    denied = await run(*doctor, temporary=tmp_path)
    assert denied.code == 1

    token = (await run("keys", "token", cluster.keys, "service/shop", temporary=tmp_path)).stdout.strip()
    credentials = grpc.ssl_channel_credentials(Path(cluster.keys, "ca.pem").read_bytes())
    async with grpc.aio.secure_channel(cluster.public, credentials) as channel:
        router, request = RouterServiceStub(channel), router_pb2.RegisterUserRequest(user_id=str(uuid4()))
        await router.RegisterUser(request, metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await router.RegisterUser(request, metadata=(("cellbook-principal", "service/shop"),), timeout=10)
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await pasted_into_the_console(cluster, token)
    assert {path.stat().st_mode & 0o777 for path in Path(cluster.keys).iterdir()} == {0o600}
    logs = [Path(process["log"]).read_text() for process in cluster.processes.values()]
    logs.append((Path(cluster.keys).parent / "console" / "console.log").read_text())
    assert all(logs)
    assert not any(token in log or token.rpartition(".")[2] in log for log in logs)
    assert await stopped(cluster, signal.SIGTERM) == 0


async def pasted_into_the_console(cluster: Up, token: str) -> None:
    """The router checks the token before there is a session, and a changed one opens none."""
    async with httpx2.AsyncClient(base_url=cluster.console, follow_redirects=True) as browser:
        form = (await browser.get("/sign-in")).text
        found = re.search('name="form_token" value="([0-9a-f]{64})"', form)
        assert found is not None
        filled = {"form_token": found[1], "token": token[:-8] + "AAAAAAAA"}
        refused = await browser.post("/sign-in/token", data=filled)
        assert (refused.status_code, "TOKEN_INVALID" in refused.text) == (400, True)
        assert "cellbook_session" not in browser.cookies
        page = await browser.post("/sign-in/token", data={**filled, "token": token})
        assert (page.status_code, "service/shop" in page.text, token in page.text) == (200, True, False)


@pytest.mark.usefixtures("nothing_left")
async def test_a_process_that_dies_is_told_and_ends_the_rest(tmp_path: Path) -> None:
    """Killed hard, a cell leaves its PostgreSQL behind: the error names the cell, and both are gone."""
    cluster = await up(temporary=tmp_path)
    os.kill(int(cluster.processes["ap-tokyo"]["pid"]), signal.SIGKILL)
    ended = await asyncio.wait_for(cluster.running.end(), 60)
    assert ended.code == 1
    assert "ap-tokyo has ended unasked, with signal SIGKILL" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_left")
async def test_the_databases_can_be_looked_into_and_its_ports_are_taken(tmp_path: Path) -> None:
    """The addresses of its databases are real; a second cluster on its ports is refused, and the first runs on."""
    first = await up(temporary=tmp_path)
    for cell in ("us-east", "eu-west", "ap-tokyo"):
        connection = await asyncpg.connect(first.processes[cell]["dsn"])
        assert await connection.fetchval("SELECT count(*) FROM event_store") == 0
        await connection.close()

    port = first.router.rpartition(":")[2]
    second = await begin("up", "--port-base", port, temporary=tmp_path)
    ended = await asyncio.wait_for(second.end(), 30)
    assert ended.code == 1
    assert f"port {port} of 127.0.0.1 is taken" in ended.stderr
    async with Market(first.router, first.access) as market:
        assert set(market.cell_names) == {"us-east", "eu-west", "ap-tokyo"}
    assert await stopped(first, signal.SIGTERM) == 0


@pytest.mark.usefixtures("nothing_left")
async def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    """One cell cannot start: the error names it and ends with its log, and the others are stopped."""
    cluster = tmp_path / "kept" / "eu-west" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("12\n")
    running = await begin("up", "--data", tmp_path / "kept", "--port-base", str(port_base()), temporary=tmp_path)
    ended = await asyncio.wait_for(running.end(), 90)
    assert ended.code == 1
    assert "eu-west ended with exit code" in ended.stderr
    assert "was made by PostgreSQL 12" in ended.stderr
