"""SagaService: the flows that cross cells, as their orchestrator sees them."""

from collections.abc import Callable, Sequence
from typing import assert_never
from uuid import UUID

from cellbook.v1 import saga_pb2, types_pb2
from cells.domain.events import ReleaseFacts, RemoteBidFacts, SagaFacts, SettlementFacts, TransferFacts
from cells.domain.saga import LegState, Saga, SagaKind, SagaState
from cells.requests import Read
from server.wire.common import (
    auction_name,
    enum_in,
    enum_table,
    id_out,
    money_out,
    token_out,
)

KINDS = enum_table(SagaKind, "SAGA_KIND_", saga_pb2.SagaKind.items())
STATES = enum_table(SagaState, "SAGA_STATE_", saga_pb2.SagaState.items())
_KINDS_OUT = {kind: saga_pb2.SagaKind.Value(f"SAGA_KIND_{kind.name}") for kind in SagaKind}
_STATES_OUT = {state: saga_pb2.SagaState.Value(f"SAGA_STATE_{state.name}") for state in SagaState}
_LEG_STATES_OUT = {state: saga_pb2.LegState.Value(f"LEG_STATE_{state.name}") for state in LegState}


def states_in(states: Sequence[int]) -> tuple[str, ...]:
    """The states to list; empty for all."""
    return tuple({enum_in(state, STATES, "states").value: None for state in states})


def kind_in(kind: int) -> SagaKind | None:
    return enum_in(kind, KINDS, "kind") if kind else None


def saga_read_out(saga_id: UUID, read: Read[Saga], attempts: tuple[int, str], cell: str) -> saga_pb2.GetSagaResponse:
    return saga_pb2.GetSagaResponse(
        saga=saga_out(saga_id, read.state, read.stream_version, attempts),
        token=token_out(cell, read.position),
    )


def listed_out(
    rows: Sequence[tuple[UUID, Saga, int]],
    next_page_token: str,
    attempts_of: Callable[[UUID], tuple[int, str]],
) -> saga_pb2.ListSagasResponse:
    return saga_pb2.ListSagasResponse(
        sagas=[saga_out(saga_id, saga, version, attempts_of(saga_id)) for saga_id, saga, version in rows],
        next_page_token=next_page_token,
    )


def saga_out(saga_id: UUID, saga: Saga, stream_version: int, attempts: tuple[int, str]) -> saga_pb2.Saga:
    """`attempts` at the leg that is being taken, and what the last one said."""
    return saga_pb2.Saga(
        saga_id=str(saga_id),
        kind=_KINDS_OUT[saga.kind],
        state=_STATES_OUT[saga.state],
        deadline_ms=saga.deadline_ms or 0,
        legs=_legs_out(saga),
        failure_reason=saga.failure_reason,
        auction=_auction_out(saga.facts),
        amount=_amount_out(saga.facts),
        start_time_ms=saga.started_ms,
        stream_version=stream_version,
        attempts=attempts[0],
        last_error=attempts[1],
    )


def _legs_out(saga: Saga) -> list[saga_pb2.SagaLeg]:
    return [
        saga_pb2.SagaLeg(
            leg=spec.leg,
            cell=saga.cell_of(spec),
            state=_LEG_STATES_OUT[leg.state],
            event_id=id_out(leg.effect_id),
            pivot=spec.pivot,
        )
        for spec, leg in zip(saga.specs, saga.legs, strict=True)
    ]


def _auction_out(facts: SagaFacts) -> str:
    match facts:
        case SettlementFacts() | RemoteBidFacts() | ReleaseFacts():
            return auction_name(facts.auction_cell, facts.auction_id)
        case TransferFacts():
            return ""
        case _:
            assert_never(facts)


def _amount_out(facts: SagaFacts) -> types_pb2.Money | None:
    match facts:
        case SettlementFacts() | RemoteBidFacts() | TransferFacts():
            return money_out(facts.currency, facts.amount_minor)
        case ReleaseFacts():
            return None
        case _:
            assert_never(facts)
