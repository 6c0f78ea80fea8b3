"""Load that tells when a cluster serves again: money that goes round between all cells, and users who come."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from uuid import uuid4

import grpc
import grpc.aio

from cellbook.v1 import ledger_pb2, router_pb2
from cellbook.v1.types_pb2 import Money
from lab.market import Market, Person
from server.cli.client import BANK, MARKET, LedgerRefusal, new_command_id, unknown_in

ATTEMPT_S = 2.0
# Before a request is sent again, and between two that were done.
PAUSE_S, REST_S = 0.1, 0.3
FUNDS_MINOR = 10_000_000


@dataclass(slots=True, kw_only=True)
class Traveller:
    """Does the same thing again and again, each time until there is a definite answer, whoever dies meanwhile."""

    name: str
    once: Callable[[], Awaitable[object]]
    # When the last one that was done had begun.
    begun_s: float = 0.0
    done: int = 0

    async def run(self) -> None:
        while True:
            began_s = time.monotonic()
            await self.once()
            self.begun_s = began_s
            self.done += 1
            await asyncio.sleep(REST_S)


@dataclass(slots=True)
class Travellers:
    """A payment each way between any two cells, a deposit into each, and a registration."""

    market: Market
    all: list[Traveller] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        people: dict[str, Person] = {}
        for cell in self.market.cell_names:
            person = people[cell] = await self.market.person(f"somebody of {cell}", cell, FUNDS_MINOR)
            self._add(f"deposit into {cell}", partial(self._deposit, person))
        for one, other in permutations(people.values(), 2):
            self._add(f"payment {one.cell} -> {other.cell}", partial(self._pay, one, other))
        self._add("registration", self._register)
        self._tasks = [asyncio.create_task(traveller.run(), name=traveller.name) for traveller in self.all]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def missing(self, since_s: float) -> list[str]:
        """Those who have done nothing yet that was begun since then. Raises what any of them has met."""
        for task in self._tasks:
            if task.done():
                task.result()
        return [traveller.name for traveller in self.all if traveller.begun_s < since_s]

    def _add(self, name: str, once: Callable[[], Awaitable[object]]) -> None:
        self.all.append(Traveller(name=name, once=once))

    async def _deposit(self, person: Person) -> None:
        command_id = new_command_id()
        request = ledger_pb2.DepositRequest(
            command_id=command_id,
            user_id=person.user_id,
            amount=Money(currency="USD", amount_minor=1),
            external_reference=f"bank/{command_id}",
        )
        await self._insist(self.market.cells[person.cell].ledger.Deposit, request, BANK)

    async def _pay(self, payer: Person, payee: Person) -> None:
        request = ledger_pb2.TransferRequest(
            command_id=new_command_id(),
            from_user_id=payer.user_id,
            to_user_id=payee.user_id,
            amount=Money(currency="USD", amount_minor=1),
        )
        await self._insist(self.market.cells[payer.cell].ledger.Transfer, request, MARKET)

    async def _register(self) -> None:
        region = next(iter(self.market.cells.values())).region
        request = router_pb2.RegisterUserRequest(user_id=str(uuid4()), region=region)
        await self._insist(self.market.client.router.RegisterUser, request, MARKET)

    async def _insist(self, method: Callable[..., Awaitable[object]], request: object, principal: str) -> None:
        metadata = self.market.client.access.metadata(principal)
        while True:
            try:
                await method(request, timeout=ATTEMPT_S, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                try:
                    unknown_in(error, request)  # type: ignore[arg-type]
                except LedgerRefusal as refused:
                    # As of a payment whose time was up: definite, and undone.
                    self.refused[refused.reason] += 1
                    return
            else:
                return
            await asyncio.sleep(PAUSE_S)
