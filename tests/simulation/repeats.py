"""Clients that repeat an earlier command at any later time.

A client may have lost the answer, or a queue may be replayed. They get the first answer, wherever the user has moved
since, and nothing happens.
"""

from typing import TYPE_CHECKING
from uuid import UUID

from cells.domain.moves.commands import BeginMove
from cells.domain.refusals import Refused, WrongCell
from cells.requests import Outcome
from router.moves.moves import Began
from router.moves.store import MoveRequest
from tests.simulation.ground import must
from tests.simulation.network import Unanswered

if TYPE_CHECKING:
    from tests.simulation.clients import Clients, Sent
    from tests.simulation.nodes import CellNode

# How often a repeat is attempted.
ATTEMPTS_MAX = 6


class Repeats:
    def __init__(self, clients: "Clients") -> None:
        self._clients = clients
        self._world = clients._world

    async def repeat(self) -> None:
        """Repeats some commands, and a registration."""
        world, chance = self._world, self._world.chance
        for _ in range(chance.randint(10, 30)):
            await world.nap(chance.expovariate(2))
            if self._clients.sent and chance.random() < 0.8:
                await self._again(self._chosen())
            elif self._clients.homes:
                await self._register(chance.choice(list(self._clients.homes)))

    def _chosen(self) -> "Sent":
        """Prefers moves, which are the most delicate."""
        sent, chance = self._clients.sent, self._world.chance
        moves = [each for each in sent if isinstance(each.command, MoveRequest | BeginMove)]
        return chance.choice(moves if moves and chance.random() < 0.4 else sent)

    async def _again(self, sent: "Sent") -> None:
        answer: Outcome | Began | Refused | None = None
        cell = sent.cell or self._clients.homes[sent.user_id]
        for _ in range(ATTEMPTS_MAX):
            try:
                answer = await self._asked(sent, cell)
            except Unanswered as error:
                self._world.tell("again {} is not answered: {}", str(sent.command_id)[-6:], error)
            if isinstance(answer, WrongCell):
                cell = str(answer.facts["cell"])
            elif answer is not None and not (isinstance(answer, Refused) and not answer.final):
                self._compare(sent, answer)
                return
            await self._world.nap(self._world.chance.uniform(0.05, 0.5))

    async def _asked(self, sent: "Sent", cell: str) -> Outcome | Began | Refused | None:
        """Raises Unanswered. None: a move that is under way."""
        command, network = sent.command, self._world.network
        if isinstance(command, MoveRequest):
            call = network.call(
                self._clients, "router", "move again", lambda router: router.move(command, 3.0), timeout_s=3.0
            )
        else:
            again = self._clients.request(sent.command_id, command, sent.user_id, self._world.loop.time() + 3.0)

            async def execute(node: "CellNode") -> Outcome:
                return await node.cell.execute(again)

            call = network.call(self._clients, cell, "again", execute, timeout_s=3.0)
        try:
            answer: Outcome | Began = await call
        except Refused as refused:
            return refused
        return answer if not isinstance(answer, Began) or answer.done else None

    def _compare(self, sent: "Sent", answer: Outcome | Began | Refused) -> None:
        first = sent.answer
        if isinstance(first, Refused) and (first.stable or not first.stored):
            must(
                not first.stable or isinstance(answer, Refused),
                "what was refused for good is done",
                sent.command,
                first,
            )
            return
        same = type(answer) is type(first) and _content(answer) == _content(first)
        must(same, "a command sent again is answered otherwise", sent.command, first, answer)

    async def _register(self, user_id: UUID) -> None:
        """A repeated registration returns the user's present home."""
        before, residency = self._world.homes[user_id].epoch, self._clients.residencies[user_id]
        try:
            await self._world.network.call(
                self._clients,
                "router",
                "register again",
                lambda router: router.register(user_id, residency),
                timeout_s=5.0,
            )
        except (Refused, Unanswered) as error:
            must(not (isinstance(error, Refused) and error.final), "a registration sent again is refused", error)
        must(self._world.homes[user_id].epoch >= before, "a home became older", user_id)


def _content(answer: Outcome | Began | Refused) -> object:
    match answer:
        case Outcome():
            return answer.result
        case Began():
            return answer.move
        case _:
            return answer.reason
