"""Calls to the other cells and the router: typed stubs, explicit deadlines, one channel each."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from uuid import UUID

import grpc
import structlog

from cellbook.v1 import move_pb2_grpc, router_pb2, router_pb2_grpc, settlement_pb2, settlement_pb2_grpc
from cells.background import note_failure
from cells.domain.moves.commands import TellHome
from cells.domain.moves.home import Home
from cells.domain.refusals import ClockAtBound, NotLeading, Refused, Unavailable, UserNotFound, WrongCell
from cells.domain.sagas.leg import LegResult
from cells.domain.values import Direction
from cells.moves.user_bundle import UserBundle
from cells.store.ports import LegAnswer, LegCall, PeerUnknown
from server.collector import Collector
from server.shell.calls.statuses import of_status, refusal_from, refusal_in
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import Caller
from server.shell.fields.bounds import LEGS
from server.wire.legs import leg_item_to_proto, leg_to_proto, parse_applied, parse_compensated, parse_result
from server.wire.moves import baggage_to_proto

log = structlog.get_logger()

ROUTER_TIMEOUT_S = 3.0

# Statuses from grpc itself when nobody answered, or not in time; any other comes from the peer's own process.
SILENCE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


@dataclass(slots=True, kw_only=True)
class RouterDirectory:
    """Homes of users and addresses of cells, as the router reports them."""

    # "host:port"; empty: no router.
    router: str
    places: ChannelPool
    caller: Caller
    # Cells in the settings.
    static: Mapping[str, str]
    _cells: dict[str, Sequence[str]] = field(default_factory=dict)

    async def find(self, user_id: UUID) -> Home | None:
        stub = router_pb2_grpc.RouterServiceStub(self._router())
        request = router_pb2.ResolveUserRequest(user_id=str(user_id))
        try:
            reply = await self.caller.call(stub.ResolveUser, request, to="router", timeout_s=ROUTER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refused = refusal_from(error)
            if isinstance(refused, UserNotFound):
                return None
            raise Unavailable(problem=f"the router does not answer: {error.details()}") from error
        return Home(reply.home.cell, reply.home.epoch)

    async def tell(self, action: TellHome, *, timeout_s: float) -> None:
        """Reports a home to the router. Raises PeerUnknown, or the router's definite refusal."""
        request = router_pb2.RecordHomeRequest(
            user_id=str(action.user_id), cell=action.cell, epoch=action.epoch, region=action.region
        )
        try:
            stub = router_pb2_grpc.RouterServiceStub(self._router())
            await self.caller.call(stub.RecordHome, request, to="router", timeout_s=timeout_s)
        except (grpc.aio.AioRpcError, Refused) as error:
            raise _failure("router", error) from error

    async def knows_cell(self, cell: str) -> bool:
        if cell in self.static or cell in self._cells:
            return True
        self._cells |= await self.addresses()
        return cell in self._cells

    async def addresses(self) -> dict[str, Sequence[str]]:
        """The endpoints of each cell. Raises Unavailable."""
        stub = router_pb2_grpc.RouterServiceStub(self._router())
        request = router_pb2.ListCellsRequest()
        try:
            reply = await self.caller.call(stub.ListCells, request, to="router", timeout_s=ROUTER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(problem=f"the router does not answer: {error.details()}") from error
        return {cell.name: list(cell.endpoints) for cell in reply.cells}

    def _router(self) -> grpc.aio.Channel:
        if not self.router:
            raise Unavailable(problem="no router is configured (setting `router`), and the user is not known here")
        return self.places.channel("router", (self.router,))


class AskedLeg(NamedTuple):
    call: LegCall
    direction: Direction
    timeout_s: float


@dataclass(slots=True, kw_only=True)
class GrpcPeers:
    """Legs requested of a peer at the same moment travel in one call.

    Only a definite refusal is raised as such: after any other failure the leg may have happened.
    """

    static: Mapping[str, str]
    directory: RouterDirectory
    # To the cells and to the router.
    places: ChannelPool
    caller: Caller
    # Cell -> its endpoints as last found.
    _known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Lookups of cells that do not answer: they may have moved.
    _looks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _collectors: dict[str, Collector[AskedLeg, LegAnswer]] = field(default_factory=dict)

    async def apply_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        if isinstance(call.action, TellHome):
            await self.directory.tell(call.action, timeout_s=timeout_s)
            # It has no log; the answer itself is the whole effect.
            return LegAnswer(LegResult.APPLIED, call.causation_id)
        return await self._ask(cell, AskedLeg(call, Direction.ACTION, timeout_s))

    async def compensate_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        return await self._ask(cell, AskedLeg(call, Direction.COMPENSATION, timeout_s))

    async def bring(self, cell: str, bundle: UserBundle, *, timeout_s: float) -> dict[str, int]:
        try:
            stub = move_pb2_grpc.MoveServiceStub(await self.channel(cell))
            reply = await self.caller.call(stub.BringBaggage, baggage_to_proto(bundle), to=cell, timeout_s=timeout_s)
        except (grpc.aio.AioRpcError, Refused) as error:
            raise _failure(cell, error) from error
        return {held.cell: held.events for held in reply.held}

    async def _ask(self, cell: str, leg: AskedLeg) -> LegAnswer:
        if cell not in self._collectors:
            self._collectors[cell] = Collector(send=partial(self._send, cell), items_max=LEGS.most)
        return await self._collectors[cell].ask(leg)

    async def _send(self, cell: str, legs: Sequence[AskedLeg]) -> Sequence[LegAnswer | Exception]:
        answers = await self._send_batch(cell, legs) if len(legs) > 1 else [await self._sent_one(cell, legs[0])]
        if any(isinstance(answer, PeerUnknown) and not answer.answered for answer in answers):
            self.look_again(cell)
        return answers

    async def _sent_one(self, cell: str, leg: AskedLeg) -> LegAnswer | Exception:
        try:
            return await self._send_one(cell, leg)
        except (Refused, PeerUnknown) as error:
            return error

    async def _send_one(self, cell: str, leg: AskedLeg) -> LegAnswer:
        stub = settlement_pb2_grpc.SettlementServiceStub(await self.channel(cell))
        message, call = leg_to_proto(leg.call), partial(self.caller.call, to=cell, timeout_s=leg.timeout_s)
        try:
            if leg.direction is Direction.ACTION:
                return parse_applied(await call(stub.ApplyLeg, settlement_pb2.ApplyLegRequest(leg=message)))
            return parse_compensated(await call(stub.CompensateLeg, settlement_pb2.CompensateLegRequest(leg=message)))
        except (grpc.aio.AioRpcError, Refused, ValueError) as error:
            raise _failure(cell, error) from error

    async def _send_batch(self, cell: str, legs: Sequence[AskedLeg]) -> Sequence[LegAnswer | Exception]:
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

    async def channel(self, cell: str) -> grpc.aio.Channel:
        endpoints = self._known.get(cell)
        if endpoints is None:
            endpoints = self._known[cell] = tuple(await self.endpoints(cell))
        return self.places.channel(f"cell/{cell}", endpoints)

    def look_again(self, cell: str) -> None:
        """Runs beside the calls, which are retried anyway."""
        if cell in self._known and cell not in self.static and cell not in self._looks:
            self._looks[cell] = asyncio.create_task(self._look(cell))

    async def _look(self, cell: str) -> None:
        try:
            self._known[cell] = tuple(await self.endpoints(cell))
        except PeerUnknown as problem:
            log.info("peer_not_looked_up", peer=cell, problem=str(problem))
        except Exception:  # noqa: BLE001 - the next call that fails has it looked up again
            note_failure("peer_addresses", peer=cell)
        finally:
            del self._looks[cell]

    async def endpoints(self, cell: str) -> Sequence[str]:
        """The endpoints of all processes of the cell, from static settings or the router. Raises PeerUnknown."""
        static = self.static.get(cell)
        if static is not None:
            return static.split("+")
        try:
            endpoints = (await self.directory.addresses()).get(cell, ())
        except Unavailable as error:
            raise PeerUnknown(f"the address of {cell} is not known: {error.message}") from error
        if not endpoints:
            raise PeerUnknown(f"the address of {cell} is not known to the router")
        return endpoints

    async def close(self) -> None:
        for collector in self._collectors.values():
            collector.close()
        for look in self._looks.values():
            look.cancel()
        await asyncio.gather(*self._looks.values(), return_exceptions=True)
        await self.places.close()


def _failure(cell: str, error: Exception) -> Exception:
    """The peer's definite refusal, or the user's new home.

    Any other failure, including a peer's clock that is refused here, leaves the outcome unknown.
    """
    refused = refusal_in(error) if isinstance(error, grpc.aio.AioRpcError) else None
    return refused if refused is not None and _is_answer(refused) else _unknown(cell, error)


def _is_answer(refused: Refused) -> bool:
    return refused.final or isinstance(refused, WrongCell)


def _unknown(cell: str, error: Exception) -> PeerUnknown:
    if isinstance(error, PeerUnknown):
        return PeerUnknown(str(error), answered=error.answered)
    if not isinstance(error, grpc.aio.AioRpcError):
        return PeerUnknown(f"{cell}: {error}", answered=True)
    problem = f"{cell}: {error.code().name}: {error.details()}"
    return PeerUnknown(problem, answered=not (error.code() in SILENCE or isinstance(refusal_in(error), ClockAtBound)))


def _result(cell: str, result: settlement_pb2.LegResult) -> LegAnswer | Exception:
    try:
        answer = parse_result(result)
    except ValueError as error:
        return PeerUnknown(f"{cell}: {error}", answered=True)
    if isinstance(answer, LegAnswer):
        return answer
    refused = of_status(answer)
    if refused is not None and _is_answer(refused):
        return refused
    # As for the whole call: a cell that cannot write is probed once, not by every leg.
    away = isinstance(refused, Unavailable | NotLeading | ClockAtBound)
    return PeerUnknown(f"{cell}: {answer.message}", answered=not away)
