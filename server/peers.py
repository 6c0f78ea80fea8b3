"""Calls to the other cells and the router: typed stubs, explicit deadlines, one channel each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from uuid import UUID

import grpc

from cellbook.v1 import move_pb2_grpc, router_pb2, router_pb2_grpc, settlement_pb2, settlement_pb2_grpc
from cells.domain.moves.commands import TellHome
from cells.domain.moves.home import Home
from cells.domain.refusals import ClockAtBound, NotLeading, Refused, Unavailable, UserNotFound, WrongCell, refusal
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.time.vector import CELL_NAME
from cells.domain.values import Direction
from cells.encoding.schema import EXACT_INTEGER_MAX
from cells.moves.user_bundle import UserBundle
from cells.store.ports import LegCall, PeerUnknown
from server.shell.calls.statuses import FACT_BYTES_MAX, clipped, of_status, refusal_from, refusal_in
from server.shell.channels.client import Caller
from server.shell.channels.location_cache import SILENCE, LocationCache
from server.shell.coalescer import Coalescer
from server.shell.fields.bounds import LEGS
from server.shell.fields.texts import shown
from server.wire.legs import leg_item_to_proto, leg_to_proto, parse_applied, parse_compensated, parse_result
from server.wire.moves import baggage_to_proto

# Of a refusal.
FACTS_MAX = 16


class AskedLeg(NamedTuple):
    call: LegCall
    direction: Direction
    timeout_s: float


@dataclass(slots=True, kw_only=True)
class GrpcPeers:
    """Legs requested of a peer at the same moment travel in one call.

    Only a definite refusal is raised as such: after any other failure the leg may have happened.
    """

    locations: LocationCache
    caller: Caller
    _coalescers: dict[str, Coalescer[AskedLeg, LegMark]] = field(default_factory=dict)

    async def find(self, user_id: UUID) -> Home | None:
        """The user's home now, as the router reports it; None: no such user. Raises Unavailable."""
        try:
            return await self.locations.find(str(user_id))
        except grpc.aio.AioRpcError as error:
            if isinstance(refusal_from(error), UserNotFound):
                return None
            raise Unavailable(problem=error.details() or "the router does not answer") from error

    async def knows_cell(self, cell: str) -> bool:
        """Raises Unavailable."""
        try:
            return await self.locations.knows(cell)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(problem=error.details() or "the router does not answer") from error

    async def channel(self, cell: str) -> grpc.aio.Channel:
        """Raises PeerUnknown: its addresses are not known."""
        try:
            return await self.locations.channel(cell)
        except (grpc.aio.AioRpcError, Refused) as error:
            raise _unknown(cell, error) from error

    async def request_leg(self, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        if isinstance(call.action, TellHome):
            await self._tell(call.action, timeout_s)
            # The router has no log; the answer itself is the whole effect.
            return LegMark(LegResult.APPLIED, call.causation_id)
        if cell not in self._coalescers:
            self._coalescers[cell] = Coalescer(send=partial(self._send, cell), busy=_busy, items_max=LEGS.most)
        return await self._coalescers[cell].ask(AskedLeg(call, direction, timeout_s))

    async def _tell(self, action: TellHome, timeout_s: float) -> None:
        """Reports a home to the router. Raises PeerUnknown, or the router's definite refusal."""
        request = router_pb2.RecordHomeRequest(
            user_id=str(action.user_id), cell=action.cell, epoch=action.epoch, region=action.region
        )
        try:
            stub = router_pb2_grpc.RouterServiceStub(self.locations.router())
            await self.caller.call(stub.RecordHome, request, to="router", timeout_s=timeout_s)
        except (grpc.aio.AioRpcError, Refused) as error:
            raise _failure("router", error) from error

    async def bring(self, cell: str, bundle: UserBundle, *, timeout_s: float) -> dict[str, int]:
        try:
            stub = move_pb2_grpc.MoveServiceStub(await self.channel(cell))
            reply = await self.caller.call(stub.BringBaggage, baggage_to_proto(bundle), to=cell, timeout_s=timeout_s)
        except (grpc.aio.AioRpcError, Refused) as error:
            raise _failure(cell, error) from error
        return {held.cell: held.events for held in reply.held}

    async def _send(self, cell: str, legs: Sequence[AskedLeg]) -> Sequence[LegMark | Exception]:
        answers = await self._send_batch(cell, legs) if len(legs) > 1 else [await self._send_one(cell, legs[0])]
        if any(isinstance(answer, PeerUnknown) and not answer.answered for answer in answers):
            self.locations.look_again(cell)
        return answers

    async def _send_one(self, cell: str, leg: AskedLeg) -> LegMark | Exception:
        message, call = leg_to_proto(leg.call), partial(self.caller.call, to=cell, timeout_s=leg.timeout_s)
        try:
            stub = settlement_pb2_grpc.SettlementServiceStub(await self.channel(cell))
            if leg.direction is Direction.ACTION:
                return parse_applied(await call(stub.ApplyLeg, settlement_pb2.ApplyLegRequest(leg=message)))
            return parse_compensated(await call(stub.CompensateLeg, settlement_pb2.CompensateLegRequest(leg=message)))
        except (grpc.aio.AioRpcError, Refused, PeerUnknown, ValueError) as error:
            return _failure(cell, error)

    async def _send_batch(self, cell: str, legs: Sequence[AskedLeg]) -> Sequence[LegMark | Exception]:
        request = settlement_pb2.BatchLegsRequest(items=[leg_item_to_proto(leg.call, leg.direction) for leg in legs])
        timeout_s = min(leg.timeout_s for leg in legs)
        try:
            stub = settlement_pb2_grpc.SettlementServiceStub(await self.channel(cell))
            reply = await self.caller.call(stub.BatchLegs, request, to=cell, timeout_s=timeout_s)
        except (grpc.aio.AioRpcError, Refused, PeerUnknown) as error:
            # A refusal of the call as a whole says nothing about any leg in it.
            return [_unknown(cell, error) for _ in legs]
        if len(reply.results) != len(legs):
            problem = f"{cell}: {len(reply.results)} results for {len(legs)} legs"
            return [PeerUnknown(problem, answered=True) for _ in legs]
        return [_result(cell, result) for result in reply.results]

    async def close(self) -> None:
        for coalescer in self._coalescers.values():
            coalescer.close()
        await self.locations.close()


def _busy(waiting: int) -> PeerUnknown:
    return PeerUnknown(f"{waiting} legs wait for that cell", answered=True)


def _failure(cell: str, error: Exception) -> Exception:
    """The peer's definite refusal, or the user's new home.

    Any other failure, including a peer's clock that is refused here, leaves the outcome unknown.
    """
    refused = refusal_in(error) if isinstance(error, grpc.aio.AioRpcError) else None
    return _answer(refused) or _unknown(cell, error)


def _answer(refused: Refused | None) -> Refused | None:
    """A refusal that answers for the leg, with facts that may go into this cell's log, whatever the peer writes."""
    if refused is None or len(refused.facts) > FACTS_MAX:
        return None
    facts = {name: clipped(shown(str(fact)), FACT_BYTES_MAX) for name, fact in refused.facts.items()}
    answers = _names_home(facts) if isinstance(refused, WrongCell) else refused.final
    return refusal(refused.reason, facts) if answers else None


def _names_home(facts: Mapping[str, str]) -> bool:
    epoch = facts.get("epoch", "0")
    named = CELL_NAME.fullmatch(facts["cell"]) is not None
    return named and epoch.isascii() and epoch.isdigit() and int(epoch) <= EXACT_INTEGER_MAX


def _unknown(cell: str, error: Exception) -> PeerUnknown:
    if isinstance(error, PeerUnknown):
        return PeerUnknown(str(error), answered=error.answered)
    if not isinstance(error, grpc.aio.AioRpcError):
        return PeerUnknown(f"{cell}: {error}", answered=True)
    problem = f"{cell}: {error.code().name}: {error.details()}"
    return PeerUnknown(problem, answered=not (error.code() in SILENCE or isinstance(refusal_in(error), ClockAtBound)))


def _result(cell: str, result: settlement_pb2.LegResult) -> LegMark | Exception:
    try:
        answer = parse_result(result)
    except ValueError as error:
        return PeerUnknown(f"{cell}: {error}", answered=True)
    if isinstance(answer, LegMark):
        return answer
    refused = of_status(answer)
    if (definite := _answer(refused)) is not None:
        return definite
    # As for the whole call: a cell that cannot write is probed once, not by every leg.
    away = isinstance(refused, Unavailable | NotLeading | ClockAtBound)
    return PeerUnknown(f"{cell}: {answer.message}", answered=not away)
