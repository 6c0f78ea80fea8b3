"""One user who demands as much as possible, in a cell that others use too, and the limits that apply.

It sends bursts: one-cent bids into other cells, transfers of money that it does not have, everything twice at once. The
others are still served: in the queue nobody waits for more of another's commands than of their own.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from cells.domain.commands import Command, PlaceBid, Transfer
from cells.domain.refusals import Refused
from cells.requests import Lane, Outcome
from cells.writer.queue import CommandQueue, Pending
from tests.simulation.clients import usd
from tests.simulation.ground import Broken, must

if TYPE_CHECKING:
    from tests.simulation.world import World

# Small, so that a burst fills several batches.
BATCH_MAX = 4
VOLLEY_MAX = 12
# More than anybody in the simulation has.
TOO_MUCH = 1_000_000


class Abuser:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._clients = world.clients

    async def abuse(self, residency: str) -> None:
        world, chance = self._world, self._world.chance
        user_id = await self._clients.join(residency)
        for _ in range(chance.randint(2, 4)):
            await world.nap(chance.uniform(0.1, 1.5))
            volley = [self._command(user_id) for _ in range(chance.randint(VOLLEY_MAX // 2, VOLLEY_MAX))]
            await asyncio.gather(*(self._twice(command, user_id) for command in volley))

    def _command(self, user_id: UUID) -> Command:
        chance = self._world.chance
        auctions = [each for each in self._clients.auctions if each.cell != self._clients.homes[user_id]]
        if auctions and chance.random() < 0.7:
            auction = chance.choice(auctions)
            return PlaceBid(auction_id=auction.auction_id, auction_cell=auction.cell, bidder_id=user_id, amount=usd(1))
        payee = chance.choice(list(self._clients.homes))
        return Transfer(from_user_id=user_id, to_user_id=payee, amount=usd(TOO_MUCH))

    async def _twice(self, command: Command, user_id: UUID) -> None:
        """Both copies get the same answer, or each a final refusal on the facts of its time."""
        command_id, principal = self._world.new_id(), f"user/{user_id}"
        cell = self._clients.homes[user_id]
        one, other = await asyncio.gather(
            *(self._clients.answer(cell, command, user_id, command_id, principal) for _ in range(2))
        )
        both_refused = isinstance(one, Refused) and isinstance(other, Refused) and one.stable and other.stable
        must(
            type(one) is type(other) or both_refused,
            "two copies of a command are answered otherwise",
            command,
            one,
            other,
        )
        if isinstance(one, Outcome) and isinstance(command, PlaceBid):
            self._clients.paper.bids.add(one.result.bid_id)
        must(isinstance(command, PlaceBid) or isinstance(one, Refused), "money was paid that was not there", command)


class WatchedQueue(CommandQueue):
    """Checks that a waiting principal is overtaken by no more of another's commands than it has queued before."""

    __slots__ = ("_broken", "_given", "_since")

    def __init__(self, broken: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._broken = broken
        # Commands of each principal that were handed out so far.
        self._given: dict[str, int] = {}
        # For each waiting command: that state when it arrived, and the number of its principal's commands before it.
        self._since: dict[int, tuple[dict[str, int], int]] = {}

    def put(self, pending: Pending) -> None:
        backlog = self._backlogs.get(pending.request.principal)
        before = len(backlog.pendings) if backlog is not None else 0
        super().put(pending)
        if pending.request.lane is Lane.CLIENT:
            self._since[id(pending)] = (dict(self._given), before)

    def put_back(self, pendings: list[Pending]) -> None:
        # Returned commands go before all, so every wait is counted anew.
        self._since.clear()
        super().put_back(pendings)

    def take(self, limit: int, now_s: float) -> list[Pending]:
        taken = super().take(limit, now_s)
        for pending in taken:
            if pending.request.lane is not Lane.CLIENT:
                continue
            mine = pending.request.principal
            given, before = self._since.pop(id(pending), (self._given, 0))
            for other, count in self._given.items():
                overtaken = count - given.get(other, 0)
                if other != mine and overtaken > before + 1:
                    self._broken(Broken(f"others wait for one that asks for all: {mine} for {other}"))
            self._given[mine] = self._given.get(mine, 0) + 1
        return taken
