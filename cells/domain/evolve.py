"""evolve(state, event) -> state: the only way to change state."""

from typing import TYPE_CHECKING, cast
from uuid import UUID

from cells.domain.account.account import Account, evolve_account
from cells.domain.auction.asset import Asset, evolve_asset
from cells.domain.auction.auction import Auction, evolve_auction
from cells.domain.decision import State
from cells.domain.events import AccountEvents, AnyEvent, AssetEvents, AuctionEvents
from cells.domain.sagas.leg import LegBarrier, LegMark, LegResult
from cells.domain.sagas.saga import Saga, evolve_saga
from cells.domain.values import ACCOUNT, AUCTION, Direction, Kind, LegTag

if TYPE_CHECKING:
    from cells.domain.sagas.saga_events import SagaEvents


def evolve(state: State | None, event: AnyEvent, event_id: UUID) -> State | None:
    """The state of the stream's aggregate after `event`. A tombstone's stream has no state but its barrier."""
    kind = event.kind
    if kind is ACCOUNT:
        return evolve_account(cast("Account | None", state), cast("AccountEvents", event))
    if kind is AUCTION:
        return evolve_auction(cast("Auction | None", state), cast("AuctionEvents", event))
    match kind:
        case Kind.ASSET:
            return evolve_asset(cast("Asset | None", state), cast("AssetEvents", event))
        case Kind.SAGA:
            return evolve_saga(cast("Saga | None", state), cast("SagaEvents", event), event_id)
        case Kind.LEG | Kind.REFERENCE | Kind.AUDIT:
            return state


def marked(barrier: LegBarrier, tag: LegTag, event: AnyEvent, event_id: UUID) -> LegBarrier:
    """The barrier after an event that carries the mark of a leg."""
    if tag.direction is Direction.ACTION:
        return LegBarrier(action=LegMark(LegResult.APPLIED, event_id), compensation=barrier.compensation)
    result = LegResult.TOMBSTONED if event.kind is Kind.LEG else LegResult.UNDONE
    return LegBarrier(action=barrier.action, compensation=LegMark(result, event_id))
