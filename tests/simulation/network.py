"""Calls between processes: they are lost, duplicated, delayed, reordered, or answered with anything."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from cells.domain.moves.commands import TellHome
from cells.domain.moves.home import Home
from cells.domain.refusals import Refused, Unavailable, WrongCell, refusal
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.values import Direction, LegId
from cells.moves.user_bundle import UserBundle
from cells.store.ports import LegCall, PeerUnknown
from server.shell.calls.statuses import code_of
from server.shell.channels.location_cache import SILENCE
from server.shell.identity.principal import Principal, Role
from server.shell.rpc import Metadata
from tests.local_cells import request_of_leg
from tests.simulation.loop import Process
from tests.simulation.weather import TROUBLES

if TYPE_CHECKING:
    from cells.requests import Outcome
    from tests.simulation.nodes import CellNode
    from tests.simulation.world import World

NO_CLOCK: Metadata = ()
# Delays of messages: within the sender's patience, and long after it.
LATE_S = (3.0, 12.0)


class Node(Protocol):
    """A process that makes and receives calls."""

    name: str
    place: str
    process: Process

    def admit(self, metadata: Metadata, caller: Principal) -> None:
        """Takes in the caller's clock. Raises Refused."""

    def outgoing(self) -> Metadata:
        """The metadata sent with calls and answers."""


class Unanswered(Exception):
    """There is no answer, or a meaningless one: the call may have been executed."""

    def __init__(self, what: str, *, answered: bool) -> None:
        super().__init__(what)
        self.answered = answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    what: str
    caller: Principal
    place: str
    metadata: Metadata
    timeout_s: float
    handler: Callable[[Any], Awaitable[object]]
    # The leg that it takes or undoes.
    takes: LegId | None
    undoes: LegId | None
    reached: "asyncio.Future[Answer]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    metadata: Metadata = NO_CLOCK
    value: object = None
    refused: tuple[str, dict[str, Any]] | None = None
    trouble: str = ""


class Network:
    def __init__(self, world: "World") -> None:
        self._world = world
        # (from, to): messages there vanish.
        self.cut: set[tuple[str, str]] = set()
        # The number of calls that have not arrived.
        self._under_way = 0
        # Leg -> calls to take it that wait for the call to undo it to overtake them.
        self._overtaken: dict[LegId, list[tuple[Call, str]]] = {}

    async def call(
        self,
        sender: Node,
        to: str,
        what: str,
        handler: Callable[[Any], Awaitable[object]],
        *,
        timeout_s: float,
        takes: LegId | None = None,
        undoes: LegId | None = None,
        metadata: Metadata | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the handler gives
        """Makes a process at `to` run `handler`.

        Raises:
            Refused: the refusal that was answered, final or not.
            Unanswered: the outcome is unknown.
        """
        role = Role.SERVICE if sender.place == "clients" else Role.PEER
        call = Call(
            what=what,
            caller=Principal(role=role, name=sender.place),
            place=sender.place,
            metadata=sender.outgoing() if metadata is None else metadata,
            timeout_s=timeout_s,
            handler=handler,
            takes=takes,
            undoes=undoes,
            reached=self._world.loop.create_future(),
        )
        self._send(call, to)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await call.reached
        except TimeoutError:
            raise Unanswered("DEADLINE_EXCEEDED", answered=False) from None
        try:
            sender.admit(answer.metadata, Principal(role=Role.PEER, name=to))
        except Refused as error:
            raise Unanswered(error.reason, answered=True) from None
        if answer.trouble:
            raise Unanswered(answer.trouble, answered=answer.trouble not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"})
        if answer.refused is not None:
            raise _rebuilt(*answer.refused)
        return answer.value

    @property
    def quiet(self) -> bool:
        return not (self._under_way or self._overtaken)

    def _send(self, call: Call, to: str) -> None:
        weather = self._world.weather
        takes = call.takes if call.takes and call.takes.leg in weather.overtaken_legs else None
        if takes and self._world.chance.random() < weather.overtaken:
            self._overtaken.setdefault(takes, []).append((call, to))
            return
        for delay_s in self._fates():
            self._arrive_in(delay_s, call, to)

    def let_go(self, leg_id: LegId | None = None) -> None:
        """Delivers calls that were held back: those for this leg, or all."""
        for each in [leg_id] if leg_id else list(self._overtaken):
            for call, to in self._overtaken.pop(each, []):
                self._arrive_in(self._world.chance.uniform(0, 1), call, to)

    def _arrive_in(self, delay_s: float, call: Call, to: str) -> None:
        self._under_way += 1
        self._world.after(delay_s, self._arrive, call, to)

    def _fates(self) -> list[float]:
        """The delays of a message's deliveries: none, one or two."""
        chance, weather = self._world.chance, self._world.weather
        if chance.random() < weather.lost:
            return []
        copies = 2 if chance.random() < weather.doubled else 1
        return [
            chance.choice(LATE_S) * chance.random()
            if chance.random() < weather.late
            else chance.expovariate(1 / weather.message_s)
            for _ in range(copies)
        ]

    def _arrive(self, call: Call, to: str) -> None:
        world = self._world
        self._under_way -= 1
        if call.undoes is not None:
            self.let_go(call.undoes)
        if (call.place, to) in self.cut:
            return
        node = world.process_at(to)
        if node is None:
            self._send_back(to, call, Answer(trouble="UNAVAILABLE"))
        elif world.chance.random() < world.weather.trouble:
            self._send_back(to, call, Answer(trouble=world.chance.choice(TROUBLES)))
        else:
            world.tell("{} -> {}: {}", call.place, node.name, call.what)
            node.process.launch(self._serve(node, call))

    async def _serve(self, node: Node, call: Call) -> None:
        world = self._world
        try:
            if call.caller.role is Role.PEER:
                node.admit(call.metadata, call.caller)
            async with asyncio.timeout(call.timeout_s):
                value = await call.handler(node)
        except TimeoutError:
            return
        except Refused as error:
            world.tell("{} says no to {}: {}", node.name, call.what, error.reason)
            self._send_back(node.place, call, Answer(metadata=node.outgoing(), refused=(error.reason, error.facts)))
            return
        if world.chance.random() < world.weather.trouble:
            self._send_back(node.place, call, Answer(trouble=world.chance.choice(TROUBLES)))
            return
        self._send_back(node.place, call, Answer(metadata=node.outgoing(), value=value))

    def _send_back(self, place: str, call: Call, answer: Answer) -> None:
        for delay_s in self._fates()[:1]:
            self._world.after(delay_s, self._deliver, place, call, answer)

    def _deliver(self, place: str, call: Call, answer: Answer) -> None:
        if (place, call.place) not in self.cut and not call.reached.done():
            call.reached.set_result(answer)


def _rebuilt(reason: str, facts: dict[str, Any]) -> Exception:
    """As the wire does: an unknown refusal carries no information."""
    try:
        return refusal(reason, facts)
    except KeyError:
        return Unanswered(reason, answered=True)


@contextmanager
def unknown_outcomes(*, but_final: bool = False, by_router: bool = False) -> Iterator[None]:
    """Errors of a call as PeerUnknown, as server/peers.py raises them; `but_final`: a final refusal stays one."""
    try:
        yield
    except Unanswered as error:
        raise PeerUnknown(str(error), answered=error.answered) from error
    except Refused as error:
        if but_final and (error.final or isinstance(error, WrongCell)):
            raise
        raise PeerUnknown(error.message, answered=by_router or code_of(type(error)) not in SILENCE) from error


class SimulatedPeers:
    """Implements cells/ports.Peers for one process, as server/peers.py does over gRPC."""

    def __init__(self, world: "World", node: Node) -> None:
        self._world = world
        self._node = node

    async def bring(self, cell: str, bundle: UserBundle, *, timeout_s: float) -> dict[str, int]:
        async def stage(node: "CellNode") -> dict[str, int]:
            return await node.cell.user_import.receive(bundle, peer=self._node.place)

        with unknown_outcomes():
            held: dict[str, int] = await self._world.network.call(
                self._node, cell, "bundle", stage, timeout_s=timeout_s
            )
        return held

    async def _tell(self, action: TellHome, call: LegCall, timeout_s: float) -> LegMark:
        home = Home(action.cell, action.epoch)
        with unknown_outcomes(by_router=True):
            await self._world.network.call(
                self._node,
                "router",
                "a new home",
                lambda node: node.told(action.user_id, home, action.region, by=self._node.place),
                timeout_s=timeout_s,
            )
        return LegMark(LegResult.APPLIED, call.causation_id)

    async def request_leg(self, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        if isinstance(call.action, TellHome):
            return await self._tell(call.action, call, timeout_s)
        metadata = self._node.outgoing()
        leg_request = request_of_leg(call, cell, direction, metadata)
        what = f"{call.leg_id.leg} {direction} of {str(call.leg_id.saga_id)[:8]}"
        with unknown_outcomes(but_final=True):
            outcome: Outcome = await self._world.network.call(
                self._node,
                cell,
                what,
                lambda node: node.cell.execute(leg_request),
                timeout_s=timeout_s,
                takes=call.leg_id if direction is Direction.ACTION else None,
                undoes=call.leg_id if direction is Direction.COMPENSATION else None,
                metadata=metadata,
            )
        mark: LegMark = outcome.result
        return mark


class SimulatedDirectory:
    """Implements cells/ports.Directory: asks the router."""

    def __init__(self, world: "World", node: Node) -> None:
        self._world = world
        self._node = node

    async def find(self, user_id: UUID) -> Home | None:
        try:
            home: Home | None = await self._world.network.call(
                self._node, "router", "who is at home where", lambda router: router.home_of(user_id), timeout_s=3.0
            )
        except Unanswered as error:
            raise Unavailable(problem=f"the router does not answer: {error}") from error
        return home

    async def knows_cell(self, cell: str) -> bool:
        return cell in self._world.databases
