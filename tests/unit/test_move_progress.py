"""The progress of a move, as the router says it and the command line shows it; and a drain that awaits a long move."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import router_pb2 as pb
from cellbook.v1 import saga_pb2
from router.directory.topology import CellState
from router.moves.evacuation import Evacuation
from router.moves.moves import Began
from router.moves.progress import move_to_proto
from router.moves.store import Move, MoveRequest
from server.cli.router import move_line

USER = UUID(int=7)
MOVE = Move(MoveRequest(USER, "eu-west", None, "operator/test", UUID(int=8)), "us-east", 1, "")


def saga(leg: str, copied: int = 0) -> saga_pb2.Saga:
    pending = saga_pb2.SagaLeg(leg=leg, state=saga_pb2.LEG_STATE_PENDING)
    progress = saga_pb2.CopyProgress(events=copied, events_total=1_000, bytes=copied * 1_000) if copied else None
    return saga_pb2.Saga(saga_id="s", state=saga_pb2.SAGA_STATE_RUNNING, legs=[pending], copied=progress)


@pytest.mark.parametrize(
    ("leg", "phase"),
    [("close", pb.MOVE_PHASE_COPYING), ("depart", pb.MOVE_PHASE_CLOSING), ("arrive", pb.MOVE_PHASE_MOVING)],
)
def test_a_move_says_its_phase_and_what_is_copied(leg: str, phase: int) -> None:
    told = move_to_proto(MOVE, saga(leg, copied=300), None)
    assert (told.phase, told.copied_events, told.total_events, told.copied_bytes) == (phase, 300, 1_000, 300_000)
    assert f"at {leg}, 300 of 1,000 events copied, 0.3 MB" in move_line(told)


def test_a_move_that_copies_nothing_says_nothing_of_it() -> None:
    assert "copied" not in move_line(move_to_proto(MOVE, saga("arrive"), None))


class LongMoves:
    """One user, whose move is asked for `asked` times until it is done, and copies `step` events meanwhile."""

    def __init__(self, asked: int, step: int) -> None:
        self.asked, self.step, self.copied, self.here = asked, step, 100, True

    async def users_of(self, _cell: str, after: UUID, _limit: int) -> list[UUID]:
        return [USER] if self.here and after < USER else []

    async def count_of(self, _cell: str) -> int:
        return int(self.here)

    async def move(self, _request: MoveRequest, *, timeout_s: float | None) -> Began:
        assert timeout_s is None
        self.asked -= 1
        self.copied += self.step
        self.here = self.asked > 0
        return Began(MOVE, done=not self.here)

    async def saga_of(self, user_id: UUID) -> tuple[Move, saga_pb2.Saga]:
        assert user_id == USER
        return MOVE, saga("close", self.copied)


async def drained(moves: LongMoves, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[pb.EvacuateCellResponse]:
    async def goal(*_: object) -> str:
        return "eu-west"

    monkeypatch.setattr(Evacuation, "_goal", goal)
    cell = SimpleNamespace(name="us-east", region="us", state=CellState.DRAINING)
    topology = SimpleNamespace(now=SimpleNamespace(cell=lambda _: cell))
    run = Evacuation(
        moves=cast("Any", moves),
        directory=cast("Any", moves),
        topology=cast("Any", topology),
        cell="us-east",
        rate_per_s=1_000,
        principal=f"operator/{uuid4()}",
    )
    async for progress in run.run():
        yield progress


async def test_a_drain_waits_for_a_long_move_while_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = [(each.moved, each.failed, each.left) async for each in drained(LongMoves(5, 100), monkeypatch)]
    assert last == (1, 0, 0)


async def test_a_drain_gives_a_move_up_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = [(each.moved, each.failed, each.left) async for each in drained(LongMoves(5, 0), monkeypatch)]
    assert last[:2] == (0, 1)
    assert last[2] == 1
