"""Converts between proto and the router's values, without logic."""

import re
from collections.abc import Sequence
from hashlib import sha256
from uuid import UUID

from google.protobuf.message import Message

from cellbook.v1 import router_pb2 as pb
from cellbook.v1 import saga_pb2
from router.directory import Home
from router.evacuation import RATE_PER_S, Progress
from router.move_store import Move
from router.moves import Began
from router.operations import CellEntry, OperatorCommand
from router.snapshot import CopiedHome
from router.topology import Cell, CellHealth, CellState
from server.shell.fields.bounds import (
    CELL,
    ENDPOINTS,
    EPOCH,
    MOVES_A_SECOND,
    NEW_USER,
    PAGE_SIZE,
    WEIGHT,
    invalid,
    is_derived,
    items_in,
    number_in,
    region_in,
)
from server.shell.fields.spelling import spelled
from server.shell.settings.addresses import parse_address

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_NAME = re.compile(r"[a-z0-9-]{1,32}")
_NIL = UUID(int=0)

STATES = {
    CellState.ACTIVE: pb.CELL_STATE_ACTIVE,
    CellState.DRAINING: pb.CELL_STATE_DRAINING,
    CellState.DOWN: pb.CELL_STATE_DOWN,
}
HEALTH = {
    CellHealth.UNKNOWN: pb.CELL_HEALTH_UNSPECIFIED,
    CellHealth.SERVING: pb.CELL_HEALTH_SERVING,
    CellHealth.NOT_SERVING: pb.CELL_HEALTH_NOT_SERVING,
}


def parse_user_id(text: str, field: str = "user_id") -> UUID:
    """UUID() alone would also accept blanks and other alphabets' digits."""
    right = spelled(text)
    if _UUID.fullmatch(right) is None:
        raise invalid(field, "is not a UUID" if text else "is missing", text)
    user_id = UUID(right)
    if user_id == _NIL:
        raise invalid(field, "must not be the nil UUID", text)
    return user_id


def parse_new_user_id(text: str) -> UUID:
    user_id = parse_user_id(text)
    if is_derived(user_id):
        raise invalid("user_id", f"must be {NEW_USER}", text)
    return user_id


def parse_command(request: Message, command_id: str, principal: str) -> OperatorCommand | None:
    """None: the request names no command."""
    if not command_id:
        return None
    content = request.DESCRIPTOR.full_name.encode() + b"/" + request.SerializeToString(deterministic=True)
    return OperatorCommand(principal, parse_user_id(command_id, "command_id"), sha256(content).digest())


def parse_name(text: str, field: str = "name") -> str:
    if _NAME.fullmatch(text) is None:
        raise invalid(field, f"must be {CELL}" if text else "is missing", text)
    return text


def parse_weight(weight: int) -> int:
    return number_in(weight, "weight", WEIGHT)


def parse_rate(rate_per_s: float) -> float:
    return number_in(rate_per_s, "rate_per_s", MOVES_A_SECOND) or RATE_PER_S


def parse_epoch(epoch: int) -> int:
    return number_in(epoch, "epoch", EPOCH)


def parse_entry(request: pb.RegisterCellRequest) -> CellEntry:
    if not request.region:
        raise invalid("region", "is missing", "")
    return CellEntry(
        name=parse_name(request.name),
        region=region_in(request.region),
        endpoints=_parse_endpoints(request.endpoints),
        weight=parse_weight(request.weight) if request.HasField("weight") else None,
    )


def _parse_endpoints(endpoints: Sequence[str]) -> tuple[str, ...]:
    items_in(endpoints, "endpoints", ENDPOINTS)
    checked = []
    for text in endpoints:
        try:
            checked.append(str(parse_address(text)))
        except ValueError as problem:
            raise invalid("endpoints", str(problem), text) from None
    return tuple(dict.fromkeys(checked))


def home_to_proto(home: Home) -> pb.Home:
    return pb.Home(user_id=str(home.user_id), cell=home.cell.name, epoch=home.epoch, region=home.residency)


def listed_to_proto(home: CopiedHome, is_open: bool) -> pb.ListedHome:  # noqa: FBT001 - as the row has it
    listed = pb.Home(user_id=str(home.user_id), cell=home.cell, epoch=home.epoch, region=home.residency)
    return pb.ListedHome(home=listed, open=is_open)


PAGE_DEFAULT, PAGE_MAX = 100, 1_000


def parse_page_size(size: int) -> int:
    """A page size above the maximum is reduced, as in AIP-158."""
    return min(number_in(size, "page_size", PAGE_SIZE), PAGE_MAX) or PAGE_DEFAULT


def cell_to_proto(cell: Cell, users: int | None = None) -> pb.Cell:
    return pb.Cell(
        name=cell.name,
        region=cell.region,
        endpoints=cell.endpoints,
        weight=cell.weight,
        state=STATES[cell.state],
        health=HEALTH[cell.health],
        users=users,
    )


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


def move_to_proto(move: Move, saga: saga_pb2.Saga | None, home: Home | None) -> pb.Move:
    """Without a saga it was refused, or it is unknown whether the home was ever asked."""
    told = pb.Move(
        user_id=str(move.request.user_id),
        from_cell=move.from_cell,
        to_cell=move.request.to_cell,
        epoch=home.epoch if home is not None else 0,
        problem="" if saga is not None else "the user's home has not begun it: ask for it again",
    )
    if saga is not None:
        told.state = MOVES.get(saga.state, pb.MOVE_STATE_UNSPECIFIED)
        told.saga_id = saga.saga_id
        told.leg = _leg_of(saga)
        told.problem = saga.last_error or saga.failure_message or saga.failure_reason
        if told.state in {pb.MOVE_STATE_RUNNING, pb.MOVE_STATE_ARRIVED}:
            told.phase = PHASES.get(told.leg, pb.MOVE_PHASE_UNSPECIFIED)
        told.copied_events, told.total_events = saga.copied.events, saga.copied.events_total
        told.copied_bytes = saga.copied.bytes
    return told


def _leg_of(saga: saga_pb2.Saga) -> str:
    """The current leg."""
    if saga.state in {saga_pb2.SAGA_STATE_COMPLETED, saga_pb2.SAGA_STATE_COMPENSATED}:
        return ""
    if saga.state == saga_pb2.SAGA_STATE_COMPENSATING:
        return next((leg.leg for leg in reversed(saga.legs) if leg.state == saga_pb2.LEG_STATE_DONE), "")
    return next((leg.leg for leg in saga.legs if leg.state == saga_pb2.LEG_STATE_PENDING), "")


def progress_to_proto(progress: Progress) -> pb.EvacuateCellResponse:
    return pb.EvacuateCellResponse(
        moved=progress.moved,
        failed=progress.failed,
        left=progress.left,
        problem=progress.problem,
        done=progress.done,
        slowest=move_to_proto(*progress.slowest, None) if progress.slowest is not None else None,
    )
