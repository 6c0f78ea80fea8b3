"""Each safeguard, switched off, leads to a violation within a thousand seeds, so the simulation can detect it."""

import re
from collections.abc import Callable, Container, Hashable, Sequence
from typing import TypeVar
from uuid import UUID

import pytest

from cells.buckets import Buckets
from cells.domain.account.account import Account
from cells.domain.account.barrier import barrier_of
from cells.domain.commands import ApplyLeg, CompensateLeg
from cells.domain.decision import Context, Decision, View
from cells.domain.moves.commands import ArriveUser
from cells.domain.record import replace
from cells.domain.sagas import leg_rules, remote_bid, transfer
from cells.domain.sagas.leg import LegBarrier
from cells.domain.sagas.saga_events import MoveFacts
from cells.moves.history_exporter import HistoryExporter
from cells.store.ports import Batch
from cells.writer.queue import CommandQueue
from router.moves.store import Move
from server.process.clock import CellClock
from tests.doubles import store
from tests.doubles.store import MemoryStore
from tests.simulation.abuse import BATCH_MAX
from tests.simulation.nodes import KeptMoves
from tests.simulation.world import World, played

SEEDS_MAX = 1_000
LegCommand = TypeVar("LegCommand", ApplyLeg, CompensateLeg)
Rule = Callable[[LegCommand, View, Context], Decision]


class Blind:
    """A view with another barrier than the real one."""

    def __init__(self, view: View, barrier: LegBarrier) -> None:
        self._view = view
        self._barrier = barrier

    def leg(self, _leg_id: object) -> LegBarrier:
        return self._barrier

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)


def seeing(rule: Rule[LegCommand], blinded: Callable[[LegCommand, LegBarrier], LegBarrier]) -> Rule[LegCommand]:
    def blind(command: LegCommand, view: View, context: Context) -> Decision:
        barrier = blinded(command, barrier_of(command, view, context.cell))
        return rule(command, Blind(view, barrier), context)  # type: ignore[arg-type]

    return blind


def no_dedupe(patch: pytest.MonkeyPatch) -> None:
    """A repeated command is not recognized."""

    async def none(*_: object) -> dict[object, object]:
        return {}

    patch.setattr(MemoryStore, "outcomes", none)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """The epoch is not compared."""
    append = MemoryStore.append

    async def unfenced(self: MemoryStore, batch: Batch) -> None:
        await append(self, replace(batch, epoch=self._epoch))

    patch.setattr(MemoryStore, "append", unfenced)


def no_head(patch: pytest.MonkeyPatch) -> None:
    """The position is not compared either."""
    append = MemoryStore.append

    async def unfenced(self: MemoryStore, batch: Batch) -> None:
        await append(self, replace(batch, epoch=self._epoch, position_before=self._position))

    patch.setattr(MemoryStore, "append", unfenced)


def no_barrier(patch: pytest.MonkeyPatch) -> None:
    """A leg that was taken is taken again; the database's key, which also forbids it, is switched off."""
    all_new = store._all_new

    def lenient(keys: Sequence[Hashable], known: Container[Hashable], constraint: str) -> None:
        if constraint != "saga_legs_pkey":
            all_new(keys, known, constraint)

    patch.setattr(store, "_all_new", lenient)
    untaken = seeing(leg_rules.apply_leg, lambda _, barrier: LegBarrier(compensation=barrier.compensation))
    patch.setattr(leg_rules, "apply_leg", untaken)


def no_tombstone(patch: pytest.MonkeyPatch) -> None:
    """A leg that was undone before it was taken is taken when it finally arrives."""
    alive = seeing(leg_rules.apply_leg, lambda _, barrier: LegBarrier(action=barrier.action))
    patch.setattr(leg_rules, "apply_leg", alive)


def no_pivot(patch: pytest.MonkeyPatch) -> None:
    """A pivot that is done does not report it when it should be undone."""

    def undone(command: CompensateLeg, barrier: LegBarrier) -> LegBarrier:
        return LegBarrier() if isinstance(command.action, leg_rules.PIVOTS) else barrier

    patch.setattr(leg_rules, "compensate_leg", seeing(leg_rules.compensate_leg, undone))


def no_clock(patch: pytest.MonkeyPatch) -> None:
    """Cells do not exchange their time."""
    patch.setattr(CellClock, "outgoing", lambda _: ())


def no_wait_for_flows(patch: pytest.MonkeyPatch) -> None:
    """The account departs while a bid or a transfer of its own is under way."""

    async def no_wait(*_: object) -> None:
        pass

    patch.setattr(HistoryExporter, "_require_no_flows", no_wait)


def no_departure(patch: pytest.MonkeyPatch) -> None:
    """A user in transit is served as usual."""
    patch.setattr(Account, "is_here", True)


def forgetful_router(patch: pytest.MonkeyPatch) -> None:
    """The router forgets earlier requests for moves."""

    async def add(self: KeptMoves, move: Move) -> Move:
        self._world.moves[move.request.principal, move.request.command_id] = move
        return move

    async def find(*_: object) -> None:
        pass

    patch.setattr(KeptMoves, "add", add)
    patch.setattr(KeptMoves, "find", find)


def no_move_goes_along(patch: pytest.MonkeyPatch) -> None:
    """A new home does not know the command that brought its user."""

    async def forgetful(_self: HistoryExporter, _saga_id: UUID, _facts: MoveFacts, action: ArriveUser) -> ArriveUser:
        return action

    patch.setattr(HistoryExporter, "with_beginning", forgetful)


def no_turns(patch: pytest.MonkeyPatch) -> None:
    """A principal with a backlog gets a whole batch at once."""
    taken = CommandQueue._from
    patch.setattr(CommandQueue, "_from", lambda self, backlog, count: taken(self, backlog, max(count, BATCH_MAX)))


def no_bound_on_flows(patch: pytest.MonkeyPatch) -> None:
    """A user may have any number of bids and transfers to other cells under way."""
    for rules in (remote_bid, transfer):
        patch.setattr(rules, "require_room_for_flow", lambda *_: None)


def no_bound_on_refusals(patch: pytest.MonkeyPatch) -> None:
    """Every refusal is stored."""
    patch.setattr(Buckets, "take", lambda *_: 0.0)


# A seed that is known to find it, which is tried first, and the violation that must be found, possibly among others: a
# pattern.
ABLATIONS: dict[Callable[[pytest.MonkeyPatch], None], tuple[int, str]] = {
    no_dedupe: (21, "a command was done twice"),
    no_fence: (8, "a deposed leader wrote"),
    no_head: (8, "a deposed leader wrote"),
    no_barrier: (17, "a leg was taken twice"),
    no_tombstone: (58, "a leg was taken after it was undone"),
    no_pivot: (3, "compensation after the pivot"),
    no_clock: (0, "an effect knows nothing of its cause"),
    # The flow is undone nowhere, and its saga never ends: its user is at home elsewhere, and no cell undoes this leg of
    # another cell's saga.
    no_wait_for_flows: (127, r"it does not come to rest: \[.[-0-9a-f]+: SagaBooks\(required=\('(reserve|send)'"),
    # A former home begins no second move, whatever else it does (MOVE_UNDER_WAY): money paid there stays there.
    no_departure: (16, "a balance is not what the clients were told"),
    forgetful_router: (2, "a command sent again is answered otherwise"),
    no_move_goes_along: (4, "a command sent again is answered otherwise"),
    no_turns: (6, "others wait for one that asks for all"),
    no_bound_on_flows: (8, "one user has too much under way"),
    no_bound_on_refusals: (6, "more refusals are stored than one user may cause"),
}


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.__name__)
def test_a_safeguard_is_missed(ablation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some seed fails without it."""
    ablation(monkeypatch)
    known, violation = ABLATIONS[ablation]
    assert any(re.search(violation, played(World(seed))) for seed in (known, *range(SEEDS_MAX)))
