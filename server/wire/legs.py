"""SettlementService: the legs of sagas, as cells ask them of each other. Both sides are ours."""

from cellbook.v1 import settlement_pb2
from cells.domain.commands import ApplyLeg, CompensateLeg
from cells.domain.leg import LegResult
from cells.domain.values import Direction, LegId
from cells.ports import LegCall
from cells.requests import CommandRequest, Lane, Outcome
from server.shell.call import Call
from server.wire.actions import action_in, put_action
from server.wire.common import (
    cell_in,
    deadline_in,
    number_in,
    text_in,
    token_out,
    uuid_in,
)

LEG_NAME_MAX = 40
GENERATION_MAX = 2**31 - 1

_COMPENSATIONS = {
    LegResult.UNDONE: settlement_pb2.COMPENSATION_RESULT_UNDONE,
    LegResult.TOMBSTONED: settlement_pb2.COMPENSATION_RESULT_TOMBSTONED,
    # The pivot's action stands: there is no way back.
    LegResult.APPLIED: settlement_pb2.COMPENSATION_RESULT_PIVOT_DONE,
}


# --- the call ---


def leg_to_proto(call: LegCall) -> settlement_pb2.Leg:
    leg = settlement_pb2.Leg(
        saga_id=str(call.leg_id.saga_id),
        leg=call.leg_id.leg,
        generation=call.leg_id.generation,
        orchestrator=call.orchestrator,
        causation_id=str(call.causation_id),
        user_id=str(call.user_id),
    )
    put_action(leg, call.action)
    return leg


def leg_from_proto(leg: settlement_pb2.Leg) -> LegCall:
    """Raises Invalid."""
    return LegCall(
        leg_id=LegId(
            uuid_in(leg.saga_id, "leg.saga_id"),
            text_in(leg.leg, "leg.leg", least=1, most=LEG_NAME_MAX),
            number_in(leg.generation, "leg.generation", least=1, most=GENERATION_MAX),
        ),
        action=action_in(leg),
        orchestrator=cell_in(leg.orchestrator, "leg.orchestrator"),
        causation_id=uuid_in(leg.causation_id, "leg.causation_id"),
        user_id=uuid_in(leg.user_id, "leg.user_id"),
    )


def leg_request_in(leg: LegCall, direction: Direction, *, call: Call, now_s: float, size_bytes: int) -> CommandRequest:
    """A leg's command in its envelope. The barrier keeps its outcome: it needs no fingerprint."""
    command = ApplyLeg if direction is Direction.ACTION else CompensateLeg
    return CommandRequest(
        command_id=leg.leg_id.command_id(direction),
        fingerprint=b"",
        principal=str(call.principal),
        command=command(leg_id=leg.leg_id, action=leg.action, orchestrator=leg.orchestrator),
        correlation_id=leg.leg_id.saga_id,
        causation_id=leg.causation_id,
        user_id=leg.user_id,
        deadline_s=deadline_in(call, now_s),
        lane=Lane.URGENT,
        size_bytes=size_bytes,
    )


# --- the answers ---


def applied_out(outcome: Outcome, cell: str) -> settlement_pb2.ApplyLegResponse:
    return settlement_pb2.ApplyLegResponse(
        event_id=outcome.result["event_id"],
        replayed=outcome.replayed,
        token=token_out(cell, outcome.position),
    )


def compensated_out(outcome: Outcome, cell: str) -> settlement_pb2.CompensateLegResponse:
    return settlement_pb2.CompensateLegResponse(
        result=_COMPENSATIONS[LegResult(outcome.result["result"])],
        event_id=outcome.result["event_id"],
        replayed=outcome.replayed,
        token=token_out(cell, outcome.position),
    )
