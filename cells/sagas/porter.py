"""Carries what a user who moves takes along: ahead of the departure all that there is by then, after it the rest.

So the time between departure and arrival, in which nobody serves the user, does not grow with the user's history.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cells import codec
from cells.baggage import Baggage, MovedEvent, MovedPlace
from cells.domain.account import Account
from cells.domain.events import MoveFacts, RemoteBidFacts, TransferFacts
from cells.domain.move_commands import ArriveUser
from cells.domain.move_refusals import UserHasFlows
from cells.domain.purse import EarlierHome, MoveCommand
from cells.domain.record import replace
from cells.domain.saga import TERMINAL, Saga, SagaKind, SagaState
from cells.domain.values import Kind, Ref
from cells.outcomes import OutcomePlace, by_key, in_progress, outcome_place, row_for
from cells.ports import EventFilter, EventRow, OutcomeRow, Peers, SagaFilter, SagaPlace, Store

# What one call brings: a few hundred kilobytes.
ITEMS_MAX = 200
BRING_TIMEOUT_S = 5.0
PAGE = 1_000
RUNNING = tuple(state for state in SagaState if state not in TERMINAL)
# Flows that a user has begun here, and whose end is told to the user here.
OWN_FLOWS = (SagaKind.REMOTE_BID, SagaKind.TRANSFER)


@dataclass(slots=True, kw_only=True)
class Porter:
    cell: str
    store: Store
    peers: Peers
    # Move -> the position up to which the account's stream has been brought. A new process begins anew.
    _brought: dict[UUID, int] = field(default_factory=dict)

    async def before_departure(self, saga_id: UUID, facts: MoveFacts) -> None:
        """Raises UserHasFlows, and as `bring` does: the user stays a little longer."""
        await self._require_no_flows(facts.user_id)
        await self._bring_all(saga_id, facts)

    async def with_contents(self, saga_id: UUID, facts: MoveFacts, action: ArriveUser) -> ArriveUser:
        """The arrival with all that has departed. Raises as `bring` does."""
        await self._bring_all(saga_id, facts)
        self._brought.pop(saga_id, None)
        ref = Ref(Kind.ACCOUNT, facts.user_id)
        account, version = (await self.store.load([ref]))[ref]
        if not isinstance(account, Account) or account.move is None:
            raise LookupError(f"user {facts.user_id} is not moving")
        rows = await self.store.outcomes([facts.command_id])
        begun_by = next((MoveCommand(row.principal, *row[:2]) for row in rows if row.saga_id == saga_id), None)
        here = EarlierHome(self.cell, account.home_epoch, version)
        return replace(
            action,
            balances=account.move.balances,
            holds=account.move.holds,
            earlier_homes=(*account.earlier_homes, here),
            begun_by=begun_by,
        )

    async def _require_no_flows(self, user_id: UUID) -> None:
        """Since the move was announced the user begins none: once there is none, there will be none."""
        for kind in OWN_FLOWS:
            async for facts in self._unfinished(kind):
                if user_id in _beginners(facts):
                    raise UserHasFlows(user_id=str(user_id))

    async def _unfinished(self, kind: SagaKind) -> "AsyncIterator[object]":
        wanted, after = SagaFilter(states=RUNNING, kind=kind), None
        while True:
            page = await self.store.list_sagas(wanted, after=after, limit=PAGE)
            for saga_id, (saga, _) in page:
                if isinstance(saga, Saga):
                    yield saga.facts
                    after = SagaPlace(saga.started_ms, saga_id)
            if len(page) < PAGE:
                return

    async def _bring_all(self, saga_id: UUID, facts: MoveFacts) -> None:
        if saga_id not in self._brought:
            await self._bring_earlier(saga_id, facts)
        while await self._bring_some(saga_id, facts):
            pass
        await self._bring_outcomes(saga_id, facts)

    async def _bring_earlier(self, saga_id: UUID, facts: MoveFacts) -> None:
        """What the user had brought here."""
        after: MovedPlace | None = None
        while True:
            page = await self.store.moved_events(facts.user_id, after=after, limit=ITEMS_MAX)
            await self._bring(saga_id, facts, events=[event for event in page if event.cell != facts.to_cell])
            if len(page) < ITEMS_MAX:
                return
            after = MovedPlace(page[-1].cell, page[-1].row.position)

    async def _bring_some(self, saga_id: UUID, facts: MoveFacts) -> bool:
        """A page of the account's stream here, with what its commands were answered. False: there is no more."""
        of_account = EventFilter(aggregate_id=facts.user_id)
        begin = self._brought.get(saga_id, 0) + 1
        rows = await self.store.events(from_position=begin, limit=ITEMS_MAX, event_filter=of_account)
        events = [MovedEvent(self.cell, row) for row in rows]
        await self._bring(saga_id, facts, events=events, outcomes=await self._outcomes_of(facts.user_id, rows))
        self._brought[saga_id] = rows[-1].position if rows else begin - 1
        return len(rows) == ITEMS_MAX

    async def _outcomes_of(self, user_id: UUID, rows: Sequence[EventRow]) -> list[OutcomeRow]:
        """What the user's own commands came to. Those of whoever paid the user are another's, and stay."""
        own = {codec.command_of(row) for row in rows if row.user_id == user_id}
        known = by_key(await self.store.outcomes(sorted({command_id for _, command_id in own}))) if own else {}
        found = {key: row_for(key, user_id, known) for key in own}
        # One that was stored without its sender has it in its events.
        return [row._replace(principal=key[0]) for key, row in sorted(found.items()) if row is not None]

    async def _bring_outcomes(self, saga_id: UUID, facts: MoveFacts) -> None:
        """Those that no event of the account tells of: refusals above all."""
        after: OutcomePlace | None = None
        while True:
            page = await self.store.outcomes_of(facts.user_id, after=after, limit=ITEMS_MAX)
            await self._bring(saga_id, facts, outcomes=page)
            if len(page) < ITEMS_MAX:
                return
            after = outcome_place(page[-1])

    async def _bring(
        self,
        saga_id: UUID,
        facts: MoveFacts,
        *,
        events: Sequence[MovedEvent] = (),
        outcomes: Sequence[OutcomeRow] = (),
    ) -> None:
        # What is in progress yet is the move itself, whose end is told here.
        ended = [row._replace(cell=row.cell or self.cell) for row in outcomes if not in_progress(row)]
        if events or ended:
            baggage = Baggage(saga_id=saga_id, user_id=facts.user_id, events=events, outcomes=ended)
            await self.peers.bring(facts.to_cell, baggage, timeout_s=BRING_TIMEOUT_S)


def _beginners(facts: object) -> tuple[UUID, ...]:
    match facts:
        case RemoteBidFacts():
            return (facts.bidder_id,)
        case TransferFacts():
            return (facts.from_user_id,)
        case _:
            return ()
