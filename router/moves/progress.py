"""How the router describes a move."""

from cellbook.v1 import router_pb2 as pb
from cellbook.v1 import saga_pb2
from router.directory.users import UserEntry
from router.moves.moves import Began
from router.moves.store import Move

# By the state of its saga.
MOVES = {
    saga_pb2.SAGA_STATE_RUNNING: pb.MOVE_STATE_RUNNING,
    saga_pb2.SAGA_STATE_COMMITTED: pb.MOVE_STATE_ARRIVED,
    saga_pb2.SAGA_STATE_COMPENSATING: pb.MOVE_STATE_TURNING_BACK,
    saga_pb2.SAGA_STATE_COMPLETED: pb.MOVE_STATE_DONE,
    saga_pb2.SAGA_STATE_COMPENSATED: pb.MOVE_STATE_CALLED_OFF,
}


# By the current leg.
PHASES = {
    "announce": pb.MOVE_PHASE_COPYING,
    "close": pb.MOVE_PHASE_COPYING,
    "depart": pb.MOVE_PHASE_CLOSING,
    "arrive": pb.MOVE_PHASE_MOVING,
    "leave": pb.MOVE_PHASE_TELLING,
    "tell": pb.MOVE_PHASE_TELLING,
}


def began_to_proto(began: Began) -> pb.Move:
    """Describes the move alone, so the answer is the same whenever it is asked for."""
    move = began.move
    return pb.Move(
        user_id=str(move.request.user_id),
        from_cell=move.from_cell,
        to_cell=move.request.to_cell,
        state=pb.MOVE_STATE_DONE if began.done else pb.MOVE_STATE_RUNNING,
        saga_id=str(move.saga_id),
        epoch=move.from_epoch + began.done,
    )


def move_to_proto(move: Move, saga: saga_pb2.Saga | None, home: UserEntry | None) -> pb.Move:
    """Without a saga it was refused, or it is unknown whether the home was ever asked."""
    answer = pb.Move(
        user_id=str(move.request.user_id),
        from_cell=move.from_cell,
        to_cell=move.request.to_cell,
        epoch=home.epoch if home is not None else 0,
        problem="" if saga is not None else "the user's home has not begun it: ask for it again",
    )
    if saga is not None:
        answer.state = MOVES.get(saga.state, pb.MOVE_STATE_UNSPECIFIED)
        answer.saga_id = saga.saga_id
        answer.leg = _leg_of(saga)
        answer.problem = saga.last_error or saga.failure_message or saga.failure_reason
        if answer.state in {pb.MOVE_STATE_RUNNING, pb.MOVE_STATE_ARRIVED}:
            answer.phase = PHASES.get(answer.leg, pb.MOVE_PHASE_UNSPECIFIED)
        answer.copied_events, answer.total_events = saga.copied.events, saga.copied.events_total
        answer.copied_bytes = saga.copied.bytes
    return answer


def _leg_of(saga: saga_pb2.Saga) -> str:
    """The current leg."""
    if saga.state in {saga_pb2.SAGA_STATE_COMPLETED, saga_pb2.SAGA_STATE_COMPENSATED}:
        return ""
    if saga.state == saga_pb2.SAGA_STATE_COMPENSATING:
        return next((leg.leg for leg in reversed(saga.legs) if leg.state == saga_pb2.LEG_STATE_DONE), "")
    return next((leg.leg for leg in saga.legs if leg.state == saga_pb2.LEG_STATE_PENDING), "")
