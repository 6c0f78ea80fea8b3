"""Every process of a cluster is replaced, one after the other, under load: no client sees a call fail."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from cellbook.v1 import auction_pb2, ledger_pb2, router_pb2, saga_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from router.client import Client
from server.cli.access import PLAIN
from server.cli.reach import reached
from server.shell.channels.client import open_cell_channel
from tests.faults.rig import BANK, SERVICE, START_S, Node, database, deposit, node, open_auction, running, stubs, usd
from tests.invariants import check_all
from tests.local_cells import until

if TYPE_CHECKING:
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

pytestmark = [pytest.mark.faults, pytest.mark.slow]

US, EU = "us-east", "eu-west"
REGIONS = {US: "us", EU: "eu"}
TIMEOUT_S = 30.0
# So often each client goes on between two restarts.
ROUNDS = 3

Step = Callable[[], Awaitable[object]]


@dataclass(slots=True, kw_only=True)
class Town:
    """Two cells of two processes each, and a router, all on one PostgreSQL."""

    router: Node
    cells: dict[str, list[Node]]
    dsns: dict[str, str]

    @property
    def all(self) -> list[Node]:
        return [*(node for nodes in self.cells.values() for node in nodes), self.router]

    def endpoints(self, cell: str) -> list[str]:
        return [node.address for node in self.cells[cell]]


@dataclass(slots=True)
class Clients:
    """Each does its step again and again; the first call that fails is its last."""

    done: dict[str, int] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, name: str, step: Step) -> None:
        self.done[name], self.slowest_s[name] = 0, 0.0
        self._tasks.append(asyncio.create_task(self._run(name, step), name=name))

    async def _run(self, name: str, step: Step) -> None:
        while not self._stopping:
            began_s = time.monotonic()
            await step()
            self.slowest_s[name] = max(self.slowest_s[name], time.monotonic() - began_s)
            self.done[name] += 1

    async def more(self) -> None:
        """Returns once each has done some more. Raises what a call has failed with."""
        wanted = {name: done + ROUNDS for name, done in self.done.items()}

        def enough() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return all(self.done[name] >= least for name, least in wanted.items())

        await until(enough, timeout_s=60)

    async def end(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    async with database(folder) as (postgres, _):
        for name in ("us", "eu", "router"):
            await postgres.ensure_database(name)
        router = node(folder, "router", postgres.dsn("router"), module="router")
        dsns = {cell: postgres.dsn(region) for cell, region in REGIONS.items()}
        cells = {
            cell: [
                node(folder, f"{cell}-{n}", dsns[cell], cell=cell, region=region, router=router.address) for n in (1, 2)
            ]
            for cell, region in REGIONS.items()
        }
        here = Town(router=router, cells=cells, dsns=dsns)
        router.settings["cells"] = [f"{cell}={REGIONS[cell]}={'+'.join(here.endpoints(cell))}" for cell in cells]
        async with running(*here.all):
            yield here


async def replaced(node: Node) -> float:
    """Ended in order, as a supervisor does it, and started anew; returns how long it took to end."""
    began_s = time.monotonic()
    node.signal(signal.SIGTERM)
    assert await asyncio.wait_for(node.wait(), 30) == 0, node.failure("did not end in order")
    took_s = time.monotonic() - began_s
    node.start()
    await node.wait_until_ready(START_S)
    return took_s


async def register(to_router: RouterServiceStub, region: str) -> str:
    user_id = str(uuid4())
    request = router_pb2.RegisterUserRequest(user_id=user_id, region=region)
    await to_router.RegisterUser(request, timeout=TIMEOUT_S, metadata=SERVICE)  # type: ignore[misc]
    return user_id


async def pay_in(ledger: "LedgerServiceAsyncStub", user_id: str, amount_minor: int = 1) -> None:
    await ledger.Deposit(deposit(user_id, amount_minor), timeout=TIMEOUT_S, metadata=BANK)


async def pay_over(client: Client, payer: str, payee: str) -> None:
    """From one cell to the other: the answer comes once the money is there, or later by the same id."""
    request = ledger_pb2.TransferRequest(command_id=str(uuid4()), from_user_id=payer, to_user_id=payee, amount=usd(1))
    answer = await client.ledger.Transfer(request, timeout=TIMEOUT_S)
    assert answer.receipt.command_id == request.command_id


async def operators_reach(router: str) -> None:
    """The command finds the process that leads, whichever that is."""
    async with reached(router, PLAIN) as reach:
        answers = await reach.ask_all(lambda cell: cell.sagas.ListSagas, saga_pb2.ListSagasRequest())
        assert (set(answers.given), answers.silent) == (set(REGIONS), {})


@dataclass(slots=True)
class Bidder:
    """Bids from one cell in an auction of the other."""

    client: Client
    user_id: str
    auction: str
    price: int = 0

    async def bid(self) -> None:
        self.price += 1
        request = auction_pb2.PlaceBidRequest(
            command_id=str(uuid4()), auction=self.auction, bidder_user_id=self.user_id, amount=usd(self.price)
        )
        await self.client.auctions.PlaceBid(request, timeout=TIMEOUT_S)


async def test_no_call_fails_while_all_processes_are_replaced(tmp_path: Path) -> None:
    """Plain channels with the published service config, to a cell and through the router, and the smart client.

    Deposits, registrations, transfers and bids between the cells; and the books hold.
    """
    async with (
        town(tmp_path) as here,
        open_cell_channel(here.endpoints(US)) as direct,
        open_cell_channel([here.router.address]) as through,
        Client(here.router.address, principal="service/test") as smart,
        stubs(*here.endpoints(US)) as us,
    ):
        clients, registrar = Clients(), RouterServiceStub(through)
        users = [await register(registrar, region) for region in ("us", "us", "us", "us", "eu", "eu")]
        for user_id in users:
            await smart.ledger.Deposit(deposit(user_id, 100_000), timeout=TIMEOUT_S, metadata=BANK)
        auction = await open_auction(us, users[3])
        clients.start("direct", partial(pay_in, LedgerServiceStub(direct), users[0]))
        clients.start("through the router", partial(pay_in, LedgerServiceStub(through), users[1]))
        clients.start("registration", partial(register, registrar, "eu"))
        clients.start("registration by the smart client", partial(register, smart.router, "us"))
        clients.start("transfer", partial(pay_over, smart, users[2], users[4]))
        clients.start("bid", Bidder(smart, users[5], auction).bid)
        try:
            await clients.more()
            for node in here.all:
                took_s = await replaced(node)
                print(f"{node.name} ended in {took_s:.2f} s")
                await clients.more()
                await operators_reach(here.router.address)
            await clients.end()
        finally:
            await clients.abandon()
            print(clients.done, {name: round(value, 2) for name, value in clients.slowest_s.items()})
        await check_all(here.dsns, settled=False)
