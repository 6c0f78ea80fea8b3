"""SagaService: flows that cross cells, from their orchestrator's view."""

from collections.abc import Iterator, Sequence
from typing import Any

from cellbook.v1 import saga_pb2 as pb
from cells.audit.history.moments import Point
from cells.domain.record import fields_of, replace
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.saga import SagaState, user_in
from cells.domain.sagas.saga_events import MoveFacts, SagaFacts
from cells.domain.sagas.saga_rules import action_of, leg_id_of
from cells.domain.time.hlc import PHYSICAL_MAX_MS
from cells.domain.values import Money
from cells.requests import Read
from cells.sagas.admin import SagaNews, SagaView
from cells.sagas.executions import SagaExecution
from cells.store.ports import EventRow, SagaFilter, SagaPlace
from cells.uuids import uuid_from
from server.shell.fields.bounds import STATES_ASKED, items_in
from server.wire.convert import members, parse, parse_enum, to_proto
from server.wire.events import event_to_proto
from server.wire.fields import asset_name, auction_name
from server.wire.history import read_at
from server.wire.pages import Tokens, cut

KINDS = members(pb.SagaKind.DESCRIPTOR, SagaKind)
STATES = members(pb.SagaState.DESCRIPTOR, SagaState)
_TIME_BYTES = 8


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
