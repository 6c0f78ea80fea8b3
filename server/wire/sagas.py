"""SagaService: flows that cross cells, from their orchestrator's view."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, assert_never
from uuid import UUID

from cellbook.v1 import saga_pb2, types_pb2
from cells.domain.commands import CompensateSaga, PauseSaga, ResumeSaga
from cells.domain.record import fields_of, replace
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.saga import LegState, SagaState, user_in
from cells.domain.sagas.saga_events import (
    MoveFacts,
    NoticeFacts,
    ReleaseFacts,
    RemoteBidFacts,
    SagaFacts,
    SettlementFacts,
    TransferFacts,
)
from cells.domain.sagas.saga_rules import action_of, leg_id_of
from cells.domain.time.hlc import PHYSICAL_MAX_MS
from cells.moves.history_exporter import CopyProgress
from cells.sagas.admin import SagaNews, SagaView
from cells.store.ports import EventRow, SagaFilter, SagaPlace
from cells.uuids import uuid_from
from server.shell.fields.bounds import (
    NOTE,
    STATES_ASKED,
    TIME_OR_NONE,
    invalid,
    items_in,
    number_in,
    text_in,
)
from server.wire.common import (
    asset_name,
    auction_name,
    enum_table,
    id_to_proto,
    money_to_proto,
    parse_cell,
    parse_enum,
    parse_uuid,
    token_to_proto,
)
from server.wire.events import event_to_proto

KINDS = enum_table(SagaKind, "SAGA_KIND_", saga_pb2.SagaKind.items())
STATES = enum_table(SagaState, "SAGA_STATE_", saga_pb2.SagaState.items())
_KINDS_OUT = {kind: saga_pb2.SagaKind.Value(f"SAGA_KIND_{kind.name}") for kind in SagaKind}
_STATES_OUT = {state: saga_pb2.SagaState.Value(f"SAGA_STATE_{state.name}") for state in SagaState}
_LEG_STATES_OUT = {state: saga_pb2.LegState.Value(f"LEG_STATE_{state.name}") for state in LegState}
# A position in a list: 8 bytes of milliseconds, 16 of the saga's id.
_TIME_BYTES, _PLACE_BYTES = 8, 24


# --- from proto -------------------------------------------------------------------------------------------------------


def parse_filter(request: saga_pb2.ListSagasRequest) -> SagaFilter:
    items_in(request.states, "states", STATES_ASKED)
    before_ms = number_in(request.started_before_ms, "started_before_ms", TIME_OR_NONE)
    return SagaFilter(
        states=tuple({parse_enum(state, STATES, "states"): None for state in request.states}),
        kind=parse_enum(request.kind, KINDS, "kind") if request.kind else None,
        cell=parse_cell(request.cell, "cell") if request.cell else "",
        started_from_ms=number_in(request.started_from_ms, "started_from_ms", TIME_OR_NONE),
        started_before_ms=before_ms or PHYSICAL_MAX_MS + 1,
        paused=request.paused,
    )


def parse_place(token: str) -> SagaPlace | None:
    """Where a page begins: after this saga."""
    if not token:
        return None
    try:
        content = urlsafe_b64decode(token.encode())
        place = SagaPlace(int.from_bytes(content[:_TIME_BYTES]), uuid_from(content[_TIME_BYTES:]))
    except ValueError:
        raise invalid("page_token", "is not a token of this list", token) from None
    # The decoder ignores characters that are not base64.
    if len(content) != _PLACE_BYTES or place.started_ms > PHYSICAL_MAX_MS or _place_to_proto(place) != token:
        raise invalid("page_token", "is not a token of this list", token)
    return place


def _place_to_proto(place: SagaPlace) -> str:
    return urlsafe_b64encode(place.started_ms.to_bytes(_TIME_BYTES) + place.saga_id.bytes).decode()


def parse_pause(request: saga_pb2.PauseSagaRequest) -> PauseSaga:
    return PauseSaga(saga_id=parse_uuid(request.saga_id, "saga_id"), note=_parse_note(request.note))


def parse_resume(request: saga_pb2.ResumeSagaRequest) -> ResumeSaga:
    return ResumeSaga(saga_id=parse_uuid(request.saga_id, "saga_id"), note=_parse_note(request.note))


def parse_compensate(request: saga_pb2.CompensateSagaRequest) -> CompensateSaga:
    return CompensateSaga(saga_id=parse_uuid(request.saga_id, "saga_id"), note=_parse_note(request.note))


def _parse_note(note: str) -> str:
    return text_in(note, "note", NOTE)


# --- to proto ---------------------------------------------------------------------------------------------------------


def got_to_proto(view: SagaView, position: int, history: Sequence[EventRow], cell: str) -> saga_pb2.GetSagaResponse:
    return saga_pb2.GetSagaResponse(
        saga=saga_to_proto(view, in_full=True),
        token=token_to_proto(cell, position),
        history=[event_to_proto(row, cell) for row in history],
    )


def listed_to_proto(views: Sequence[SagaView], size: int) -> saga_pb2.ListSagasResponse:
    """One page of at most `size`; a further saga means that there is a next page."""
    last = views[size - 1] if len(views) > size else None
    return saga_pb2.ListSagasResponse(
        sagas=[saga_to_proto(view) for view in views[:size]],
        next_page_token=_place_to_proto(SagaPlace(last.saga.started_ms, last.saga_id)) if last is not None else "",
    )


def news_to_proto(news: SagaNews, cell: str) -> saga_pb2.WatchSagaResponse:
    return saga_pb2.WatchSagaResponse(
        event=None if news.event is None else event_to_proto(news.event, cell),
        saga=saga_to_proto(news.view, in_full=True),
    )


def saga_to_proto(view: SagaView, *, in_full: bool = False) -> saga_pb2.Saga:
    saga, run = view.saga, view.run
    return saga_pb2.Saga(
        saga_id=str(view.saga_id),
        kind=_KINDS_OUT[saga.kind],
        state=_STATES_OUT[saga.state],
        deadline_ms=saga.deadline_ms or 0,
        legs=_legs_to_proto(view, in_full=in_full),
        failure_reason=saga.failure_reason,
        failure_message=saga.failure_message,
        auction=_auction_to_proto(saga.facts),
        asset=_asset_to_proto(saga.facts),
        bid_id=id_to_proto(getattr(saga.facts, "bid_id", None)),
        amount=_amount_to_proto(saga.facts),
        parties=_parties_to_proto(saga.facts),
        start_time_ms=saga.started_ms,
        stream_version=view.stream_version,
        paused=saga.paused,
        attempts=run.attempts if run is not None else 0,
        last_error=run.last_error if run is not None else "",
        next_attempt_time_ms=run.next_attempt_ms if run is not None else 0,
        waits_for_cell=run.waits_for if run is not None else "",
        stuck=view.stuck,
        copied=_copied_to_proto(run.copied) if run is not None and run.copied is not None else None,
    )


def _copied_to_proto(copied: CopyProgress) -> saga_pb2.CopyProgress:
    return saga_pb2.CopyProgress(events=copied.events, events_total=copied.events_total, bytes=copied.size_bytes)


def _legs_to_proto(view: SagaView, *, in_full: bool) -> list[saga_pb2.SagaLeg]:
    saga = view.saga
    legs = [
        saga_pb2.SagaLeg(
            leg=spec.leg,
            cell=saga.cell_of(spec),
            state=_LEG_STATES_OUT[leg.state],
            event_id=id_to_proto(leg.effect_id),
            pivot=spec.pivot,
        )
        for spec, leg in zip(saga.specs, saga.legs, strict=True)
    ]
    for cursor, leg in enumerate(legs if in_full else ()):
        at_leg = replace(saga, cursor=cursor)
        leg.leg_id = str(leg_id_of(at_leg, view.saga_id).aggregate_id())
        leg.clearing_id = id_to_proto(getattr(action_of(at_leg, view.saga_id), "clearing_id", None))
    return legs


def _parties_to_proto(facts: SagaFacts) -> list[saga_pb2.SagaParty]:
    """Facts name a person by {role}_id or {role}_user_id, and the cell by {role}_cell."""
    if isinstance(facts, MoveFacts):
        return [saga_pb2.SagaParty(role="mover", user_id=str(facts.user_id), cell=facts.from_cell)]
    content: dict[str, Any] = {name: getattr(facts, name) for name in fields_of(type(facts))}
    users = {name: user for name in content if (user := _user_of(name, facts)) is not None}
    return [
        saga_pb2.SagaParty(role=name.removesuffix("_cell"), user_id=str(user), cell=content[name])
        for name, user in users.items()
    ]


def _user_of(name: str, facts: SagaFacts) -> UUID | None:
    role = name.removesuffix("_cell")
    return user_in(facts, role) if role != name else None


def _auction_to_proto(facts: SagaFacts) -> str:
    match facts:
        case SettlementFacts() | RemoteBidFacts() | ReleaseFacts() | NoticeFacts():
            return auction_name(facts.auction_cell, facts.auction_id)
        case TransferFacts() | MoveFacts():
            return ""
        case _:
            assert_never(facts)


def _asset_to_proto(facts: SagaFacts) -> str:
    return asset_name(facts.auction_cell, facts.asset_id) if isinstance(facts, SettlementFacts) else ""


def _amount_to_proto(facts: SagaFacts) -> types_pb2.Money | None:
    match facts:
        case SettlementFacts() | RemoteBidFacts() | TransferFacts() | NoticeFacts():
            return money_to_proto(facts.currency, facts.amount_minor)
        case ReleaseFacts() | MoveFacts():
            return None
        case _:
            assert_never(facts)
