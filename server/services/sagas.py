"""SagaService: flows that cross cells, from their orchestrator's view."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from cellbook.v1 import saga_pb2 as pb
from cellbook.v1.saga_pb2_grpc import SagaServiceServicer
from cells.audit.history.moments import Point
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain import commands
from cells.domain.record import fields_of, replace
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.saga import SagaState, user_in
from cells.domain.sagas.saga_events import MoveFacts, SagaFacts
from cells.domain.sagas.saga_rules import action_of, leg_id_of
from cells.domain.time.hlc import PHYSICAL_MAX_MS
from cells.domain.values import Money
from cells.requests import Lane, Read
from cells.sagas.admin import HISTORY_MAX, SagaAdmin, SagaNews, SagaView
from cells.sagas.engine import SagaEngine
from cells.sagas.executions import SagaExecution
from cells.store.failures import map_store_errors
from cells.store.ports import EventRow, SagaFilter, SagaPlace
from cells.uuids import uuid_from
from server.services.audit_parts import Context
from server.services.commands import Executor, command
from server.shell.fields.bounds import STATES_ASKED, items_in
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.wire.convert import members, parse, parse_enum, to_proto
from server.wire.events import event_to_proto
from server.wire.fields import asset_name, auction_name
from server.wire.history import parse_moment, read_at
from server.wire.pages import Tokens, cut

KINDS = members(pb.SagaKind.DESCRIPTOR, SagaKind)
STATES = members(pb.SagaState.DESCRIPTOR, SagaState)
_TIME_BYTES = 8
# An operator's command does not wait behind bids.
URGENT = Lane.URGENT


class SagaServicer(SagaServiceServicer):
    def __init__(self, cell: Cell, engine: SagaEngine, history: History) -> None:
        self._name = cell.name
        self._history = history
        self._admin = SagaAdmin(cell, engine)
        self.executor = Executor(cell, cell.time.clock)

    async def GetSaga(self, request: pb.GetSagaRequest, _context: Context) -> pb.GetSagaResponse:
        saga_id = parse_uuid(request.saga_id, "saga_id")
        if not request.HasField("as_of"):
            return got_to_proto(*await self._admin.get(saga_id), None, self._name)
        past = await map_store_errors(self._history.saga(saga_id, parse_moment(request.as_of)))
        events = await map_store_errors(self._history.events_of(saga_id, past.point, HISTORY_MAX))
        view = SagaView(saga_id, past.state, past.stream_version, None, stuck=False)
        return got_to_proto(view, past.point.position, events, past.point, self._name)

    async def ListSagas(self, request: pb.ListSagasRequest, _context: Context) -> pb.ListSagasResponse:
        wanted, after = parse_filter(request), PLACES.parse(request.page_token)
        size = parse_page_size(request.page_size)
        # One more than the page tells whether there is a next page.
        return listed_to_proto(await self._admin.listed(wanted, stuck=request.stuck, after=after, limit=size + 1), size)

    async def WatchSaga(
        self, request: pb.WatchSagaRequest, _context: Context
    ) -> AsyncGenerator[pb.WatchSagaResponse, None]:
        async with aclosing(self._admin.watch(parse_uuid(request.saga_id, "saga_id"))) as all_news:
            async for news in all_news:
                yield news_to_proto(news, self._name)

    async def RetrySaga(self, request: pb.RetrySagaRequest, _context: Context) -> pb.RetrySagaResponse:
        view = await self._admin.retry(parse_uuid(request.saga_id, "saga_id"))
        return pb.RetrySagaResponse(saga=saga_to_proto(view, in_full=True))

    PauseSaga = command(commands.PauseSaga, pb.PauseSagaRequest, pb.PauseSagaResponse, user=None, lane=URGENT)
    ResumeSaga = command(commands.ResumeSaga, pb.ResumeSagaRequest, pb.ResumeSagaResponse, user=None, lane=URGENT)
    CompensateSaga = command(
        commands.CompensateSaga, pb.CompensateSagaRequest, pb.CompensateSagaResponse, user=None, lane=URGENT
    )

    async def AdvanceSaga(self, request: pb.AdvanceSagaRequest, _context: Context) -> pb.AdvanceSagaResponse:
        step = await self._admin.advance(parse_uuid(request.saga_id, "saga_id"))
        return pb.AdvanceSagaResponse(ended=step.ended, pause_ms=round(step.pause_s * 1_000))


# --- on the wire -----------------------------------------------------------------------------------------------------


def parse_filter(request: pb.ListSagasRequest) -> SagaFilter:
    items_in(request.states, "states", STATES_ASKED)
    wanted = parse(
        SagaFilter,
        request,
        states=tuple(dict.fromkeys(parse_enum(STATES, state, "states") for state in request.states)),
        kind=parse_enum(KINDS, request.kind, "kind") if request.kind else None,
    )
    return replace(wanted, started_before_ms=wanted.started_before_ms or PHYSICAL_MAX_MS + 1)


def _read_place(content: bytes) -> SagaPlace:
    place = SagaPlace(int.from_bytes(content[:_TIME_BYTES]), uuid_from(content[_TIME_BYTES:]))
    if place.started_ms > PHYSICAL_MAX_MS:
        raise ValueError(place)
    return place


PLACES = Tokens(read=_read_place, write=lambda place: place.started_ms.to_bytes(_TIME_BYTES) + place.saga_id.bytes)


def got_to_proto(
    view: SagaView, position: int, history: Sequence[EventRow], point: Point | None, cell: str
) -> pb.GetSagaResponse:
    read = Read(state=view.saga, stream_version=view.stream_version, position=position)
    return to_proto(
        pb.GetSagaResponse,
        saga=saga_to_proto(view, in_full=True),
        history=[event_to_proto(row, cell) for row in history],
        **read_at(read, point, cell),
    )


def listed_to_proto(views: Sequence[SagaView], size: int) -> pb.ListSagasResponse:
    page, last = cut(views, size)
    place = SagaPlace(last.saga.started_ms, last.saga_id) if last is not None else None
    return pb.ListSagasResponse(sagas=map(saga_to_proto, page), next_page_token=PLACES.token(place))


def news_to_proto(news: SagaNews, cell: str) -> pb.WatchSagaResponse:
    return pb.WatchSagaResponse(
        event=None if news.event is None else event_to_proto(news.event, cell),
        saga=saga_to_proto(news.view, in_full=True),
    )


def saga_to_proto(view: SagaView, *, in_full: bool = False) -> pb.Saga:
    saga, run = view.saga, view.run or SagaExecution(saga_id=view.saga_id, saga=view.saga)
    # Each kind has some of the facts below.
    facts: Any = saga.facts
    return to_proto(
        pb.Saga,
        saga,
        saga_id=view.saga_id,
        legs=_legs_to_proto(view, in_full=in_full),
        auction=auction_name(facts.auction_cell, facts.auction_id) if hasattr(facts, "auction_id") else "",
        asset=asset_name(facts.auction_cell, facts.asset_id) if hasattr(facts, "asset_id") else "",
        bid_id=getattr(facts, "bid_id", None),
        # Only the cell of the hold knows how much a release frees.
        amount=Money(facts.currency, facts.amount_minor) if hasattr(facts, "amount_minor") else None,
        parties=[pb.SagaParty(role=role, user_id=user_id, cell=cell) for role, user_id, cell in _parties(facts)],
        start_time_ms=saga.started_ms,
        stream_version=view.stream_version,
        attempts=run.attempts,
        last_error=run.last_error,
        next_attempt_time_ms=run.next_attempt_ms,
        waits_for_cell=run.waits_for,
        stuck=view.stuck,
        copied=to_proto(pb.CopyProgress, run.copied, bytes=run.copied.size_bytes) if run.copied is not None else None,
    )


def _legs_to_proto(view: SagaView, *, in_full: bool) -> Iterator[pb.SagaLeg]:
    saga = view.saga
    for cursor, (spec, leg) in enumerate(zip(saga.specs, saga.legs, strict=True)):
        ids: tuple[object, object] = (None, None)
        if in_full:
            at_leg = replace(saga, cursor=cursor)
            action = action_of(at_leg, view.saga_id)
            ids = leg_id_of(at_leg, view.saga_id).aggregate_id(), getattr(action, "clearing_id", None)
        yield to_proto(
            pb.SagaLeg,
            spec,
            cell=saga.cell_of(spec),
            state=leg.state,
            event_id=leg.effect_id,
            leg_id=ids[0],
            clearing_id=ids[1],
        )


def _parties(facts: SagaFacts) -> Iterator[tuple[str, str, str]]:
    """Facts name a person by {role}_id or {role}_user_id, and the cell by {role}_cell."""
    if isinstance(facts, MoveFacts):
        yield "mover", str(facts.user_id), facts.from_cell
        return
    for name in fields_of(type(facts)):
        role = name.removesuffix("_cell")
        user_id = user_in(facts, role) if role != name else None
        if user_id is not None:
            yield role, str(user_id), getattr(facts, name)
