"""evolve(state, event) -> state: the only way to change state."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from cells.domain.account.account import evolve_account
from cells.domain.auction.asset import evolve_asset
from cells.domain.auction.auction import evolve_auction
from cells.domain.decision import State
from cells.domain.events import AnyEvent
from cells.domain.sagas.leg import LegBarrier, LegMark, LegResult
from cells.domain.sagas.saga import evolve_saga
from cells.domain.values import Direction, Kind, LegTag

# A stream of another kind has no state but its barrier.
_STEPS: dict[Kind, Callable[[Any, Any], State]] = {
    Kind.ACCOUNT: evolve_account,
    Kind.ASSET: evolve_asset,
    Kind.AUCTION: evolve_auction,
}


def evolve(state: State | None, event: AnyEvent, event_id: UUID) -> State | None:
    """The state of the stream's aggregate after `event`. A tombstone's stream has no state but its barrier."""
    step = _STEPS.get(event.kind)
    if step is not None:
        return step(state, event)
    if event.kind is Kind.SAGA:
        return evolve_saga(state, event, event_id)  # type: ignore[arg-type]
    return state


def marked(barrier: LegBarrier, tag: LegTag, event: AnyEvent, event_id: UUID) -> LegBarrier:
    """The barrier after an event that carries the mark of a leg."""
    if tag.direction is Direction.ACTION:
        return LegBarrier(action=LegMark(LegResult.APPLIED, event_id), compensation=barrier.compensation)
    result = LegResult.TOMBSTONED if event.kind is Kind.LEG else LegResult.UNDONE
    return LegBarrier(action=barrier.action, compensation=LegMark(result, event_id))
