"""Limits of one user's open flows and stored refusals, checked at every commit."""

from collections import defaultdict
from uuid import UUID

from cells.domain.sagas.saga import Saga
from cells.domain.sagas.saga_events import begun_by
from cells.store.ports import OutcomeRow
from tests.simulation.ground import must

# The most bids and transfers to other cells that one user may have under way.
FLOWS_MAX = 4
# Refusals of one user that a leader stores: at once, and per second.
REFUSALS_AT_ONCE, REFUSALS_PER_S = 3, 1.0


class UserBounds:
    def __init__(self, flows_max: int = FLOWS_MAX) -> None:
        self.flows_max = flows_max
        # By cell and user: sagas that they have begun, and that have not ended.
        self._flows: dict[tuple[str, UUID], set[UUID]] = defaultdict(set)
        # By cell, epoch and principal: the times of refusals.
        self._refusals: dict[tuple[str, int, str], list[int]] = defaultdict(list)

    def flow(self, cell: str, epoch: int, saga_id: UUID, saga: Saga) -> None:
        """The limit applies per leader: a new one counts open sagas while it loads them."""
        user_id = begun_by(saga.facts)
        if not isinstance(user_id, UUID):
            return
        flows = self._flows[cell, user_id]
        (flows.discard if saga.ended else flows.add)(saga_id)
        must(len(flows) <= self.flows_max * epoch, "one user has too much under way", cell, user_id, len(flows))

    def refusal(self, cell: str, epoch: int, row: OutcomeRow) -> None:
        """For a user who sends commands in the user's own name."""
        if not row.principal.startswith("user/") or not row.outcome.startswith('{"refused"'):
            return
        kept_ms = self._refusals[cell, epoch, row.principal]
        kept_ms.append(row.hlc_physical)
        for first, since_ms in enumerate(kept_ms):
            most = REFUSALS_AT_ONCE + 1 + REFUSALS_PER_S * (row.hlc_physical - since_ms) / 1_000
            must(len(kept_ms) - first <= most, "more refusals are stored than one user may cause", cell, kept_ms)
