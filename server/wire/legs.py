"""SettlementService: the legs of sagas, as cells request them from each other. Both sides are here."""

from collections.abc import Callable, Sequence
from typing import get_args

from google.rpc import status_pb2
from grpc import StatusCode

from cellbook.v1 import settlement_pb2 as pb
from cells.domain.account.barrier import command_id
from cells.domain.commands import ApplyLeg, CompensateLeg, LegAction, SettlePending, SubmitBid
from cells.domain.moves.commands import ArriveUser
from cells.domain.refusals import Refused
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.values import Direction, LegId
from cells.requests import CommandRequest, Lane, Outcome
from cells.store.ports import LegCall
from cells.uuids import uuid_from
from server.shell.calls.call import Call
from server.shell.calls.statuses import to_status
from server.shell.fields.bounds import LEGS, invalid, items_in
from server.wire.convert import members, parser, to_proto
from server.wire.moves import arrive_user_to_proto, parse_arrive_user
from server.wire.requests import of_item, parse_deadline

# The field of each action in a leg, whose message has the name of the action.
_FIELDS = {
    field.message_type.name: field.name
    for field in pb.Leg.DESCRIPTOR.oneofs_by_name["action"].fields
    if field.message_type is not None
}
_PARSERS: dict[str, Callable[..., LegAction]] = {
    _FIELDS[kind.__name__]: parser(kind, getattr(pb, kind.__name__))
    for kind in get_args(LegAction)
    if kind.__name__ in _FIELDS and kind is not ArriveUser
} | {"arrive_user": parse_arrive_user}
_parse_leg_id = parser(LegId, pb.Leg, "leg")
_parse_leg = parser(LegCall, pb.Leg, "leg", "leg_id", "action")
# Of a pivot: its action stands and cannot be undone.
_RESULTS = {"UNDONE": LegResult.UNDONE, "TOMBSTONED": LegResult.TOMBSTONED, "PIVOT_DONE": LegResult.APPLIED}
_NAMES = {result: name for name, result in _RESULTS.items()}


# --- the call ---


def leg_to_proto(call: LegCall) -> pb.Leg:
    field = _FIELDS.get(type(call.action).__name__)
    if field is None:
        raise TypeError(f"{type(call.action).__name__} is asked of no other cell")
    action: object = arrive_user_to_proto(call.action) if isinstance(call.action, ArriveUser) else call.action
    return to_proto(pb.Leg, call, **call.leg_id._asdict(), **{field: action})


def leg_from_proto(leg: pb.Leg) -> LegCall:
    """Raises Invalid."""
    return _parse_leg(leg, leg_id=_parse_leg_id(leg), action=parse_action(leg))


def parse_action(leg: pb.Leg) -> LegAction:
    which = leg.WhichOneof("action")
    if which is None:
        raise invalid("leg.action", "is missing, or is not one known here")
    action = _PARSERS[which](getattr(leg, which))
    if isinstance(action, SettlePending) and action.fee_minor > action.amount.amount_minor:
        raise invalid("fee_minor", "is more than the amount", action.fee_minor)
    return action


def leg_item_to_proto(call: LegCall, direction: Direction) -> pb.LegRequest:
    leg = leg_to_proto(call)
    if direction is Direction.ACTION:
        return pb.LegRequest(apply=pb.ApplyLegRequest(leg=leg))
    return pb.LegRequest(compensate=pb.CompensateLegRequest(leg=leg))


def parse_leg_items(items: Sequence[pb.LegRequest]) -> Sequence[pb.LegRequest]:
    """Raises FieldInvalid if there are none or too many; a problem of one item is that item's own answer."""
    items_in(items, "items", LEGS)
    return items


def parse_leg_item(item: pb.LegRequest) -> tuple[pb.Leg, Direction]:
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


def applied_to_proto(outcome: Outcome) -> pb.ApplyLegResponse:
    return to_proto(pb.ApplyLegResponse, outcome, event_id=outcome.result.event_id)


def compensated_to_proto(outcome: Outcome) -> pb.CompensateLegResponse:
    mark: LegMark = outcome.result
    return to_proto(pb.CompensateLegResponse, outcome, event_id=mark.event_id, result=_NAMES[mark.result])


def results_to_proto(
    items: Sequence[pb.LegRequest], answers: Sequence[Outcome | BaseException]
) -> pb.BatchLegsResponse:
    pairs = zip(items, answers, strict=True)
    return pb.BatchLegsResponse(results=[_result_to_proto(*pair, index) for index, pair in enumerate(pairs)])


def _result_to_proto(item: pb.LegRequest, answer: Outcome | BaseException, index: int) -> pb.LegResult:
    if isinstance(answer, Refused):
        return pb.LegResult(refused=to_status(of_item(answer, index)))
    if isinstance(answer, BaseException):
        # A bug, which the writer has logged. It does not affect other legs.
        status = status_pb2.Status(code=StatusCode.INTERNAL.value[0], message="internal error")
        return pb.LegResult(refused=status)
    if item.HasField("apply"):
        return pb.LegResult(applied=applied_to_proto(answer))
    return pb.LegResult(compensated=compensated_to_proto(answer))


# --- the answers, as the caller parses them ---


def parse_applied(reply: pb.ApplyLegResponse) -> LegMark:
    """Raises ValueError."""
    return LegMark(LegResult.APPLIED, uuid_from(reply.event_id))


def parse_compensated(reply: pb.CompensateLegResponse) -> LegMark:
    """Raises ValueError."""
    names = members(pb.CompensationResult.DESCRIPTOR, str)
    if reply.result not in names:
        raise ValueError(f"{reply.result} is no result known here")
    return LegMark(_RESULTS[names[reply.result]], uuid_from(reply.event_id))


def parse_result(result: pb.LegResult) -> LegMark | status_pb2.Status:
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
