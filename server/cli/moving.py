"""`cellbook router move`, `moved` and `drain`: move one user to another cell, or all users of a cell."""

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from cellbook.v1 import router_pb2 as pb
from server.cli import report
from server.cli.client import ClientError, new_command_id
from server.cli.screen import literal

if TYPE_CHECKING:
    from server.cli.router import Asked

MOVE_S = 20.0


async def move(asked: "Asked", user: str, cell: str, region: str | None, *, as_json: bool) -> None:
    """Reports the result; a move still under way counts as success: `moved` shows its end."""
    request = pb.MoveUserRequest(command_id=new_command_id(), user_id=user, cell=cell, region=region)
    tell((await asked.once(asked.stub.MoveUser, request, timeout_s=MOVE_S)).move, as_json=as_json)


async def moved(asked: "Asked", user: str, *, as_json: bool) -> None:
    tell((await asked.once(asked.stub.GetMove, pb.GetMoveRequest(user_id=user))).move, as_json=as_json)


async def evacuate(asked: "Asked", cell: str, rate_per_s: float, *, as_json: bool) -> None:
    """Raises ClientError if users are left there."""
    last = pb.EvacuateCellResponse()
    request = pb.EvacuateCellRequest(name=cell, rate_per_s=rate_per_s)
    async with aclosing(asked.stream(asked.stub.EvacuateCell, request)) as progresses:
        async for progress in progresses:
            if as_json:
                print(json.dumps(_progress_json(progress)), flush=True)
            elif progress != last:
                slowest = f"; {move_line(progress.slowest)}" if progress.HasField("slowest") else ""
                report.line(
                    f"{progress.moved:,} moved, {progress.failed:,} failed, {progress.left:,} left in {literal(cell)}"
                    f"{slowest}"
                )
            last = progress
    if last.left:
        problem = f": {last.problem}" if last.problem else ""
        advice = f"mend that and drain it again to go on, or take it back by cellbook router undrain {cell}"
        raise ClientError(f"{last.left:,} users are still at home in {cell}{problem}; {advice}")
    if not as_json:
        report.line(f"nobody is at home in {literal(cell)} any more")


def tell(told: pb.Move, *, as_json: bool) -> None:
    if as_json:
        content = {
            "user_id": told.user_id,
            "from_cell": told.from_cell,
            "to_cell": told.to_cell,
            "state": state_text(told),
            "saga_id": told.saga_id,
            "leg": told.leg,
            "epoch": told.epoch,
            "problem": told.problem,
            **_copied_json(told),
        }
        print(json.dumps(content, indent=2))
        return
    report.line(move_line(told))


def move_line(told: pb.Move) -> str:
    at = (f", at {told.leg}" if told.leg else "") + _copied_text(told)
    problem = f": {told.problem}" if told.problem else ""
    return literal(
        f"{told.user_id}: {told.from_cell} to {told.to_cell}, {state_text(told)}{at}, epoch {told.epoch}"
        f"{f', saga {told.saga_id} of {told.from_cell}' if told.saga_id else ''}{problem}"
    )


def state_text(told: pb.Move) -> str:
    return pb.MoveState.Name(told.state).removeprefix("MOVE_STATE_").lower().replace("_", " ")


def _copied_text(told: pb.Move) -> str:
    if not told.total_events:
        return ""
    return f", {told.copied_events:,} of {told.total_events:,} events copied, {told.copied_bytes / 1e6:,.1f} MB"


def _copied_json(told: pb.Move) -> dict[str, Any]:
    phase = pb.MovePhase.Name(told.phase).removeprefix("MOVE_PHASE_").lower() if told.phase else ""
    names = ("copied_events", "total_events", "copied_bytes")
    return {"phase": phase, **{name: getattr(told, name) for name in names}}


def _progress_json(progress: pb.EvacuateCellResponse) -> dict[str, Any]:
    return {
        "moved": progress.moved,
        "failed": progress.failed,
        "left": progress.left,
        "problem": progress.problem,
        "done": progress.done,
        "slowest": {"user_id": progress.slowest.user_id, **_copied_json(progress.slowest)}
        if progress.HasField("slowest")
        else None,
    }
