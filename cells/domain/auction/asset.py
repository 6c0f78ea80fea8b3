"""A thing that can be owned and auctioned. It has exactly one holder at any moment."""

from typing import assert_never
from uuid import UUID

from cells.domain.events import (
    AssetEvents,
    AssetLockReleased,
    AssetLockTaken,
    AssetRegistered,
    OwnershipTransferred,
)
from cells.domain.record import Struct, replace


class Asset(Struct, frozen=True, kw_only=True):
    owner_id: UUID
    owner_cell: str
    description: str
    # The auction that sells it.
    locked_by: UUID | None = None


def evolve_asset(state: Asset | None, event: AssetEvents) -> Asset:
    if isinstance(event, AssetRegistered):
        return Asset(owner_id=event.owner_id, owner_cell=event.owner_cell, description=event.description)
    if state is None:
        message = f"{event.event_type} of an asset that was never registered"
        raise TypeError(message)
    match event:
        case AssetLockTaken():
            return replace(state, locked_by=event.auction_id)
        case AssetLockReleased():
            return replace(state, locked_by=None)
        case OwnershipTransferred():
            return replace(state, owner_id=event.to_user_id, owner_cell=event.to_cell, locked_by=None)
        case _:
            assert_never(event)
