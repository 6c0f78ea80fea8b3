"""SettlementService: the legs of sagas, as cells request them from each other. Both sides are here."""

from collections.abc import Sequence

from google.rpc import status_pb2
from grpc import StatusCode

from cellbook.v1 import settlement_pb2
from cells.domain.account.barrier import command_id
from cells.domain.commands import ApplyLeg, CompensateLeg, SubmitBid
from cells.domain.refusals import Refused
from cells.domain.sagas.leg import LegResult
from cells.domain.values import Direction, LegId
from cells.requests import CommandRequest, Lane, Outcome
from cells.store.ports import LegAnswer, LegCall
from cells.uuids import uuid_from
from server.shell.calls.call import Call
from server.shell.calls.statuses import to_status
from server.shell.fields.bounds import (
    GENERATION,
    LEG,
    LEGS,
    invalid,
    items_in,
    number_in,
    text_in,
)
from server.wire.actions import parse_action, put_action
from server.wire.batches import of_item
from server.wire.common import parse_cell, parse_deadline, parse_uuid, token_to_proto

_COMPENSATIONS = {
    LegResult.UNDONE: settlement_pb2.COMPENSATION_RESULT_UNDONE,
    LegResult.TOMBSTONED: settlement_pb2.COMPENSATION_RESULT_TOMBSTONED,
    # The pivot's action stands and cannot be undone.
    LegResult.APPLIED: settlement_pb2.COMPENSATION_RESULT_PIVOT_DONE,
}
_COMPENSATIONS_IN = {value: result for result, value in _COMPENSATIONS.items()}


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
            parse_uuid(leg.saga_id, "leg.saga_id"),
            text_in(leg.leg, "leg.leg", LEG),
            number_in(leg.generation, "leg.generation", GENERATION),
        ),
        action=parse_action(leg),
        orchestrator=parse_cell(leg.orchestrator, "leg.orchestrator"),
        causation_id=parse_uuid(leg.causation_id, "leg.causation_id"),
        user_id=parse_uuid(leg.user_id, "leg.user_id"),
    )


def leg_item_to_proto(call: LegCall, direction: Direction) -> settlement_pb2.LegRequest:
    leg = leg_to_proto(call)
    if direction is Direction.ACTION:
        return settlement_pb2.LegRequest(apply=settlement_pb2.ApplyLegRequest(leg=leg))
    return settlement_pb2.LegRequest(compensate=settlement_pb2.CompensateLegRequest(leg=leg))


def parse_leg_items(items: Sequence[settlement_pb2.LegRequest]) -> Sequence[settlement_pb2.LegRequest]:
    """Raises FieldInvalid if there are none or too many; a problem of one item is that item's own answer."""
    items_in(items, "items", LEGS)
    return items


def parse_leg_item(item: settlement_pb2.LegRequest) -> tuple[settlement_pb2.Leg, Direction]:
    """Raises Invalid."""
    match item.WhichOneof("request"):
        case "apply":
            return item.apply.leg, Direction.ACTION
        case "compensate":
            return item.compensate.leg, Direction.COMPENSATION
        case None:
            raise invalid("request", "is missing, or is not one known here")


def parse_leg_request(
    leg: LegCall, direction: Direction, *, cell: str, call: Call, now_s: float, size_bytes: int, sent_ms: int
) -> CommandRequest:
    """A leg's command in its envelope. The barrier stores its outcome, so it needs no fingerprint."""
    command, action = leg_command(leg, direction, sent_ms=sent_ms), leg.action
    return CommandRequest(
        command_id=command_id(command, cell),
        fingerprint=b"",
        principal=str(call.principal),
        command=command,
        correlation_id=leg.leg_id.saga_id,
        causation_id=leg.causation_id,
        # The user follows from the action itself; the leg's user_id is used only if the action names none.
        user_id=action.bidder_id if isinstance(action, SubmitBid) else getattr(action, "user_id", leg.user_id),
        deadline_s=parse_deadline(call, now_s),
        lane=Lane.URGENT,
        size_bytes=size_bytes,
        authority=call.principal.authority,
    )


def leg_command(leg: LegCall, direction: Direction, *, sent_ms: int) -> ApplyLeg | CompensateLeg:
    if direction is Direction.ACTION:
        return ApplyLeg(leg_id=leg.leg_id, action=leg.action, orchestrator=leg.orchestrator, sent_ms=sent_ms)
    return CompensateLeg(leg_id=leg.leg_id, action=leg.action, orchestrator=leg.orchestrator)


# --- the answers ---


def applied_to_proto(outcome: Outcome) -> settlement_pb2.ApplyLegResponse:
    return settlement_pb2.ApplyLegResponse(
        event_id=outcome.result["event_id"],
        replayed=outcome.replayed,
        token=token_to_proto(outcome.cell, outcome.position),
    )


def compensated_to_proto(outcome: Outcome) -> settlement_pb2.CompensateLegResponse:
    return settlement_pb2.CompensateLegResponse(
        result=_COMPENSATIONS[LegResult(outcome.result["result"])],
        event_id=outcome.result["event_id"],
        replayed=outcome.replayed,
        token=token_to_proto(outcome.cell, outcome.position),
    )


def results_to_proto(
    items: Sequence[settlement_pb2.LegRequest], answers: Sequence[Outcome | BaseException]
) -> settlement_pb2.BatchLegsResponse:
    pairs = zip(items, answers, strict=True)
    return settlement_pb2.BatchLegsResponse(
        results=[_result_to_proto(item, answer, index) for index, (item, answer) in enumerate(pairs)]
    )


def _result_to_proto(
    item: settlement_pb2.LegRequest, answer: Outcome | BaseException, index: int
) -> settlement_pb2.LegResult:
    if isinstance(answer, Refused):
        return settlement_pb2.LegResult(refused=to_status(of_item(answer, index)))
    if isinstance(answer, BaseException):
        # A bug, which the writer has logged. It does not affect other legs.
        status = status_pb2.Status(code=StatusCode.INTERNAL.value[0], message="internal error")
        return settlement_pb2.LegResult(refused=status)
    if item.HasField("apply"):
        return settlement_pb2.LegResult(applied=applied_to_proto(answer))
    return settlement_pb2.LegResult(compensated=compensated_to_proto(answer))


# --- the answers, as the caller parses them ---


def parse_applied(reply: settlement_pb2.ApplyLegResponse) -> LegAnswer:
    """Raises ValueError."""
    return LegAnswer(LegResult.APPLIED, uuid_from(reply.event_id))


def parse_compensated(reply: settlement_pb2.CompensateLegResponse) -> LegAnswer:
    """Raises ValueError."""
    result = _COMPENSATIONS_IN.get(reply.result)
    if result is None:
        raise ValueError(f"{reply.result} is no result known here")
    return LegAnswer(result, uuid_from(reply.event_id))


def parse_result(result: settlement_pb2.LegResult) -> LegAnswer | status_pb2.Status:
    """Raises ValueError."""
    match result.WhichOneof("result"):
        case "applied":
            return parse_applied(result.applied)
        case "compensated":
            return parse_compensated(result.compensated)
        case "refused":
            return result.refused
        case None:
            raise ValueError("there is no result, or none known here")
