"""Two processes on one cell's database, a client that knows both, and a load that remembers what it was told."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellbook.v1 import auction_pb2, ledger_pb2, types_pb2
from lab.member import Member, free_ports
from server.cli.keys.authority import Settings
from server.shell.channels.options import OWN_CONNECTIONS, SERVICE_CONFIG
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import ask
from tests.integration.services_rig import Calls, Over
from tests.invariants import check_cell
from tests.local_cells import until_async

CELL = "us-east"
DATABASE = "database"
START_S = 30.0
ATTEMPT_S = 1.0
# What says nothing of the command, or not yet. CANCELLED: gRPC dropped a call that a stopped process did not get to.
UNKNOWN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# How long one command is sent again before the test gives up.
PATIENCE_S = 40.0
PAUSE_S = 0.02
FUNDS_MINOR = 1_000_000
# Ends all sessions of a database's clients.
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
# By itself no auction of a run ends.
END_TIME_MS = time.time_ns() // 1_000_000 + 300 * 86_400_000
OPERATOR = (("cellbook-principal", "operator/test"),)
Pairs = tuple[tuple[str, str], ...]
SERVICE = (("cellbook-principal", "service/test"),)
AUDITOR = (("cellbook-principal", "auditor/test"),)
BANK = (("cellbook-principal", "treasury/test"),)
# Their types know nothing of grpc.aio.
HEALTH: Any = health_pb2_grpc.HealthStub


class Node(Member):
    """One `python -m server` on a database that it does not own."""

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self) -> None:
        """Killed, whatever state it is in; a stopped process dies of it too."""
        self.kill()
        if self.process is not None:
            await self.wait()

    def said(self, event: str) -> bool:
        return event in self.log.read_text()

    async def health(self) -> str:
        async with grpc.aio.insecure_channel(self.address) as channel:
            try:
                answer = await HEALTH(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def becomes(self, status: str) -> None:
        await until_async(self.health, lambda found: found == status, timeout_s=START_S)


def node(folder: Path, name: str, dsn: str, *, module: str = "server", **settings: str | list[str]) -> Node:
    """A process that listens on a port of its own: of the cell CELL, unless `settings` say more."""
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    own = {"cell": CELL} if module == "server" else {}
    return Node(
        name=name,
        module=module,
        address=address,
        folder=folder / name,
        settings={**own, "listen": address, "dsn": dsn, **settings},
    )


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """All of them ready; in the end each is killed, whatever state it is in."""
    try:
        for each in nodes:
            each.start()
        for each in nodes:
            await each.wait_until_ready(START_S)
        yield
    finally:
        await asyncio.gather(*(each.end() for each in nodes))


@asynccontextmanager
async def stubs(*addresses: str) -> AsyncIterator[Calls]:
    """Over one address plainly, over several as docs/clients.md says."""
    options: list[tuple[str, str | int]] = [("grpc.max_reconnect_backoff_ms", 500)]
    if len(addresses) > 1:
        options += [OWN_CONNECTIONS, ("grpc.service_config", SERVICE_CONFIG)]
    target = addresses[0] if len(addresses) == 1 else "ipv4:" + ",".join(addresses)
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield Over(channel)


async def insist(
    send: Callable[..., Awaitable[Any]],
    request: Message,
    principal: Pairs = SERVICE,
    *,
    attempt_s: float = ATTEMPT_S,
    unknown: frozenset[grpc.StatusCode] = UNKNOWN,
) -> Any:  # noqa: ANN401 - any answer
    """Sends the request, the same each time, until it is accepted. A definite no is the test's failure."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await send(request, by=principal, timeout_s=attempt_s)
        except grpc.aio.AioRpcError as error:
            if error.code() not in unknown or time.monotonic() > give_up_s:
                raise
        await asyncio.sleep(PAUSE_S)


async def open_user(to: Calls) -> str:
    user_id = str(uuid4())
    opened = ledger_pb2.OpenAccountRequest(command_id=str(uuid4()), user_id=user_id, home_epoch=1)
    await insist(to.send, opened, OPERATOR)
    await insist(to.send, deposit(user_id, FUNDS_MINOR), BANK)
    return user_id


def deposit(user_id: str, amount_minor: int = 1) -> ledger_pb2.DepositRequest:
    command_id = str(uuid4())
    return ledger_pb2.DepositRequest(
        command_id=command_id, user_id=user_id, amount=usd(amount_minor), external_reference=f"bank/{command_id}"
    )


def usd(amount_minor: int) -> types_pb2.Money:
    return types_pb2.Money(currency="USD", amount_minor=amount_minor)


async def open_auction(to: Calls, seller: str) -> str:
    lamp = auction_pb2.RegisterAssetRequest(command_id=str(uuid4()), owner_user_id=seller, description="a lamp")
    terms = auction_pb2.CreateAuctionRequest(
        command_id=str(uuid4()),
        asset=(await insist(to.send, lamp)).asset,
        seller_user_id=seller,
        opening_price=usd(1),
        increment_minor=1,
        end_time_ms=END_TIME_MS,
    )
    return str((await insist(to.send, terms)).auction)


@dataclass(slots=True, kw_only=True)
class Load:
    """Clients that deposit and bid, each its next command once the last one is accepted."""

    to: Calls
    sent: set[UUID] = field(default_factory=set)
    accepted: set[UUID] = field(default_factory=set)
    replayed: int = 0
    _stopping: bool = False
    _clients: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, clients: int) -> None:
        self._clients = [asyncio.create_task(self.client()) for _ in range(clients)]

    async def client(self) -> None:
        users = [await open_user(self.to), await open_user(self.to)]
        auction = await open_auction(self.to, await open_user(self.to))
        for number in itertools.count(1):
            if self._stopping:
                return
            paid = deposit(users[number % 2])
            self._accepted(paid.command_id, (await self._tell(paid, BANK)).receipt)
            bid = auction_pb2.PlaceBidRequest(
                command_id=str(uuid4()), auction=auction, bidder_user_id=users[number % 2], amount=usd(number)
            )
            self._accepted(bid.command_id, (await self._tell(bid, SERVICE)).receipt)

    async def _tell(self, request: Any, principal: Pairs) -> Any:  # noqa: ANN401 - a command, and its answer
        self.sent.add(UUID(request.command_id))
        return await insist(self.to.send, request, principal)

    def _accepted(self, command_id: str, receipt: types_pb2.CommandReceipt) -> None:
        self.accepted.add(UUID(command_id))
        self.replayed += receipt.replayed

    async def more(self, commands: int = 200) -> None:
        """Returns once that many more have been accepted."""
        wanted = len(self.accepted) + commands

        async def enough() -> bool:
            for client in self._clients:
                if client.done():
                    client.result()
            return len(self.accepted) >= wanted

        await until_async(enough, timeout_s=PATIENCE_S)

    async def end(self) -> None:
        """Each client ends with its last command accepted. Raises what any of them has met."""
        self._stopping = True
        await asyncio.gather(*self._clients)

    async def abandon(self) -> None:
        """Whatever the clients are at."""
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def told(self) -> dict[str, int]:
        """What the cell says of every command ever sent, by its id: a state, or that nothing was done under it."""
        states: dict[str, int] = {}
        for command_id in self.sent:
            asked = ledger_pb2.GetCommandRequest(command_id=str(command_id))
            answer = await self.to.send(asked, by=AUDITOR, timeout_s=10)
            name = ledger_pb2.CommandState.Name(answer.state)
            states[name] = states.get(name, 0) + 1
        return states


@asynccontextmanager
async def loaded(to: Calls, *, clients: int = 8) -> AsyncIterator[Load]:
    """Runs the load within, and ends it at the exit where the test has not."""
    load = Load(to=to)
    load.start(clients)
    try:
        await load.more(50)
        yield load
    finally:
        await load.abandon()


async def check(dsn: str, load: Load) -> None:
    """No accepted command is lost, none that was ever sent happened twice, and all that must hold in a cell holds."""
    done = """SELECT correlation_id, count(*) FROM event_store
        WHERE event_type IN ('DEPOSITED', 'BID_PLACED') GROUP BY correlation_id"""
    times: dict[UUID, int] = dict(await ask(dsn, done))
    idle = "SELECT application_name, query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    left = await ask(dsn, idle)
    assert not left, f"left within a transaction: {left}"
    lost = load.accepted - times.keys()
    assert not lost, f"{len(lost)} accepted commands are lost: {list(lost)[:3]}"
    twice = [command_id for command_id in load.sent if times.get(command_id, 0) > 1]
    assert not twice, f"{len(twice)} commands happened twice: {twice[:3]}"
    await check_cell(dsn)


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    """A PostgreSQL of the test's own, and the DSN of an empty database in it."""
    postgres = EmbeddedPostgres(folder / DATABASE)
    try:
        await postgres.start()
        await postgres.ensure_database("cellbook")
        yield postgres, postgres.dsn("cellbook")
    finally:
        await postgres.stop("immediate")


def tell_processes(postmaster: int, number: signal.Signals) -> None:
    """Signals a PostgreSQL, all its processes."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


POWER_CUT = """
import asyncio, pathlib, sys
from server.shell.postgres.embedded import EmbeddedPostgres

async def cut() -> None:
    postgres = EmbeddedPostgres(pathlib.Path(sys.argv[1]))
    await postgres.stop("immediate")
    await postgres.start()

asyncio.run(cut())
"""


async def power_cut(data: Path) -> None:
    """Ends the PostgreSQL with these files as a power cut does, and starts it again.

    From a process of its own: a fork beside gRPC's threads may crash.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", POWER_CUT, str(data))
    assert await asyncio.wait_for(process.wait(), START_S) == 0


@asynccontextmanager
async def alone(folder: Path, dsn: str) -> AsyncIterator[Node]:
    """A cell of one process, serving."""
    cell = node(folder, "cell", dsn)
    async with running(cell):
        await cell.becomes("SERVING")
        yield cell


@asynccontextmanager
async def pair(
    folder: Path, dsn: str, *, known: bool = False, settings: Settings | None = None
) -> AsyncIterator[tuple[Node, Node]]:
    """A leader and its standby, ready; where they are `known`, each knows the addresses of both, and forwards."""
    leader, standby = node(folder, "leader", dsn), node(folder, "standby", dsn)
    for each in (leader, standby):
        each.settings.update(settings or {})
        if known:
            each.settings["peers"] = f"{CELL}={leader.address}+{standby.address}"
    async with running(leader), running(standby):
        if not known:
            assert (await leader.health(), await standby.health()) == ("SERVING", "NOT_SERVING")
        yield leader, standby
