"""The writer's states: decided but perhaps not yet durable; the least recently used ones are evicted."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import structlog

from cells.domain.account.account import Account
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.audit.refusals import StateUnderRepair
from cells.domain.sagas.leg import LegBarrier, Unreadable, UsedReference
from cells.domain.sagas.saga import Saga
from cells.domain.values import ACCOUNT, AUCTION, Kind, Ref
from cells.store.ports import Versioned
from cells.writer.lineage import CachedState

log = structlog.get_logger()

STATES_MAX = 50_000
# Also searched in users' history copies.
CARRIED = frozenset({Kind.LEG, Kind.REFERENCE})


class NotLoaded(KeyError):
    """A decision reads state that is not loaded: `needs` names the state to load."""


class StateCache:
    """Implements the domain's `Loaded` view. A state that is known not to exist is cached too, as None.

    An entry that a batch has touched is pinned until the batch is durable: if it were evicted, a load would return the
    state before the batch.
    """

    def __init__(self, open_flows: Callable[[UUID | str], int], *, states_max: int = STATES_MAX) -> None:
        """`open_flows` counts the open sagas of a user or cell, as the leader knows them."""
        self.open_flows = open_flows
        self._entries: OrderedDict[Ref, CachedState | None] = OrderedDict()
        self._states_max = states_max
        # Legs and references that were not found. An arrival may bring them.
        self._absent: set[Ref] = set()
        # The number of lookups, and of states that had to be loaded.
        self.lookups = 0
        self.misses = 0
        # Aggregates whose rows are known to be wrong, with the reason: nothing may be decided from them.
        self.held: dict[Ref, str] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, ref: Ref) -> bool:
        return ref in self._entries

    def account(self, user_id: UUID) -> Account | None:
        found: Account | None = self._state(Ref(ACCOUNT, user_id))
        return found

    def asset(self, asset_id: UUID) -> Asset | None:
        found: Asset | None = self._state(Ref(Kind.ASSET, asset_id))
        return found

    def auction(self, auction_id: UUID) -> Auction | None:
        found: Auction | None = self._state(Ref(AUCTION, auction_id))
        return found

    def saga(self, saga_id: UUID) -> Saga | None:
        found: Saga | None = self._state(Ref(Kind.SAGA, saga_id))
        return found

    def leg(self, leg_id: UUID) -> LegBarrier:
        found: LegBarrier | None = self._state(Ref(Kind.LEG, leg_id))
        return found or LegBarrier()

    def reference(self, ref: Ref) -> UsedReference | None:
        found: UsedReference | None = self._state(ref)
        return found

    def _state(self, key: Ref) -> Any:  # noqa: ANN401 - a state of the key's kind, or None
        self.lookups += 1
        try:
            entry = self._entries[key]
        except KeyError:
            raise NotLoaded(key) from None
        self._entries.move_to_end(key)
        return None if entry is None else entry.state

    def get(self, ref: Ref) -> CachedState | None:
        """The entry of `ref`; None also if nothing was loaded, as for an aggregate that is being created."""
        return self._entries.get(ref)

    def put(self, ref: Ref, entry: CachedState | None) -> None:
        # A new entry comes last; a known one stays where its lookup put it, among the last.
        self._entries[ref] = entry

    def add_loaded(self, refs: Iterable[Ref], found: dict[Ref, Versioned]) -> None:
        for ref in refs:
            self.misses += 1
            entry = found.get(ref)
            if entry is not None and isinstance(entry.state, Unreadable):
                log.error("state_unreadable", kind=ref.kind, aggregate_id=str(ref.id), problem=entry.state.problem)
                self.held.setdefault(ref, entry.state.problem)
                entry = None
            # A load that was under way must not undo later decisions.
            loaded = None if entry is None else CachedState.loaded(*entry)
            if self._entries.setdefault(ref, loaded) is None and ref.kind in CARRIED:
                self._absent.add(ref)

    def forget_absent(self) -> None:
        """A user has arrived, with legs and references of earlier homes: missing ones are looked up again."""
        self.forget([key for key in self._absent if self._entries.get(key) is None])
        self._absent.clear()

    def hold(self, refs: Mapping[Ref, str]) -> None:
        """From now on no decision uses these."""
        self.held |= refs

    def let_go(self, refs: Iterable[Ref]) -> None:
        """Their rows are right again, and are loaded anew."""
        for ref in refs:
            if self.held.pop(ref, None) is not None:
                self._entries.pop(ref, None)

    def require_sound(self, refs: Iterable[Ref]) -> None:
        """Raises StateUnderRepair if one of these is held."""
        for ref in refs:
            if ref in self.held:
                raise StateUnderRepair(kind=ref.kind.value, id=str(ref.id))

    def forget(self, refs: Iterable[Ref]) -> None:
        """Drops states that turned out not to be durable."""
        for ref in refs:
            self._entries.pop(ref, None)
            self._absent.discard(ref)

    def clear(self) -> None:
        self._entries.clear()
        self._absent.clear()

    def evict(self, pinned_now: Callable[[], set[Ref]]) -> None:
        """Evicts the least recently used entries beyond the limit, except those that are not durable yet."""
        surplus = len(self._entries) - self._states_max
        if surplus <= 0:
            return
        pinned = pinned_now()
        oldest = (ref for ref in self._entries if ref not in pinned)
        self.forget([ref for ref, _ in zip(oldest, range(surplus), strict=False)])
