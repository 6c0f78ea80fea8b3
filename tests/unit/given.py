"""Given events, when a command, then events or a refusal: the domain alone, without a clock or a database."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid5

import pytest

from cells.domain.account.account import Account
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.commands import ApplyLeg, Command, LegAction
from cells.domain.decide import decide, needs
from cells.domain.decision import Context, Decision, LedgerPolicy, State
from cells.domain.events import AccountOpened, AnyEvent, Deposited, FundsReserved, Withdrawn
from cells.domain.evolve import evolve, marked
from cells.domain.refusals import Refused
from cells.domain.sagas.leg import LegBarrier, UsedReference
from cells.domain.sagas.saga import Saga
from cells.domain.sagas.saga_events import begun_by
from cells.domain.values import Kind, LegId, LegTag, Money, Ref, reference_ref

S = TypeVar("S")
KINDS: dict[Any, Kind] = {Account: Kind.ACCOUNT, Asset: Kind.ASSET, Auction: Kind.AUCTION, Saga: Kind.SAGA}
SPACE = UUID("00000000-0000-5000-8000-000000000000")
NOON_MS = 1_700_000_000_000
OPENED = AccountOpened(home_epoch=1)


def uid(name: str) -> UUID:
    """A UUID from a readable name."""
    return uuid5(SPACE, name)


def usd(amount_minor: int) -> Money:
    return Money("USD", amount_minor)


def deposited(amount_minor: int, reference: str = "giro") -> Deposited:
    return Deposited(currency="USD", amount_minor=amount_minor, external_reference=reference)


def reserved(amount_minor: int, hold: str = "hold", **more: Any) -> FundsReserved:  # noqa: ANN401 - other fields
    return FundsReserved(hold_id=uid(hold), currency="USD", amount_minor=amount_minor, **more)


def apply_leg(saga_id: UUID, leg: str, action: LegAction, orchestrator: str, **more: int) -> ApplyLeg:
    return ApplyLeg(leg_id=LegId(saga_id, leg, 1), action=action, orchestrator=orchestrator, **more)


def kinds(events: Iterable[object]) -> list[type]:
    return [type(event) for event in events]


def only(kind: type[S], events: Iterable[object]) -> S:
    """The one event of this kind."""
    (found,) = (event for event in events if type(event) is kind)
    return found


@dataclass(slots=True)
class World:
    """The state of one cell, folded from events; a `Loaded` view that holds everything."""

    cell: str = "us-east"
    now_ms: int = NOON_MS
    policy: LedgerPolicy = field(default_factory=LedgerPolicy)
    states: dict[Ref, State | None] = field(default_factory=dict)
    log: list[tuple[Ref, AnyEvent]] = field(default_factory=list)
    # Only state that `needs` has named may be read, as in the writer.
    named: set[Ref] = field(default_factory=set)
    _ids: int = 0

    def has(self, ref: Ref) -> bool:
        return ref in self.named

    def _get(self, ref: Ref) -> State | None:
        if ref not in self.named:
            raise KeyError(ref)
        return self.states.get(ref)

    def _found(self, ref: Ref, kind: type[S]) -> S | None:
        state = self._get(ref)
        assert state is None or isinstance(state, kind)
        return state

    def account(self, user_id: UUID) -> Account | None:
        return self._found(Ref(Kind.ACCOUNT, user_id), Account)

    def asset(self, asset_id: UUID) -> Asset | None:
        return self._found(Ref(Kind.ASSET, asset_id), Asset)

    def auction(self, auction_id: UUID) -> Auction | None:
        return self._found(Ref(Kind.AUCTION, auction_id), Auction)

    def saga(self, saga_id: UUID) -> Saga | None:
        return self._found(Ref(Kind.SAGA, saga_id), Saga)

    def leg(self, leg_id: UUID) -> LegBarrier:
        return self._found(Ref(Kind.LEG, leg_id), LegBarrier) or LegBarrier()

    def reference(self, ref: Ref) -> UsedReference | None:
        return self._found(ref, UsedReference)

    def open_flows(self, of: UUID | str) -> int:
        sagas = [state for state in self.states.values() if isinstance(state, Saga) and not state.ended]
        return sum(begun_by(saga.facts) == of for saga in sagas)

    def given(self, kind: Kind, name: str | UUID, *events: AnyEvent) -> "World":
        """Events that have happened in the stream `name`."""
        aggregate = Ref(kind, name if isinstance(name, UUID) else uid(name))
        for event in events:
            self._apply(aggregate, event, self._next_id(), None)
        return self

    def when(self, command: Command, command_id: UUID | None = None) -> list[AnyEvent]:
        """Decides and applies the command; returns its events in order. Raises what `decide` raises."""
        return [uncommitted.event for uncommitted in self.decided(command, command_id).uncommitted]

    def refuses(self, command: Command, refusal: type[Refused], match: str = ".") -> dict[str, Any]:
        """The command is refused, and nothing happens; returns the facts of the refusal."""
        before = len(self.log)
        with pytest.raises(refusal, match=match) as refused:
            self.decided(command)
        assert len(self.log) == before
        return dict(refused.value.facts)

    def decided(self, command: Command, command_id: UUID | None = None) -> Decision:
        self.named = set()
        while missing := set(needs(command, self, self.cell)) - self.named:
            self.named |= missing
        context = Context(
            principal="service/shop",
            cell=self.cell,
            now_ms=self.now_ms,
            command_id=command_id or self._next_id(),
            new_event_id=self._next_id,
            policy=self.policy,
        )
        decision = decide(command, self, context)
        for each in decision.uncommitted:
            self._apply(each.aggregate, each.event, each.event_id, each.leg)
        return decision

    def _apply(self, aggregate: Ref, event: AnyEvent, event_id: UUID, leg: LegTag | None) -> None:
        self.states[aggregate] = evolve(self.states.get(aggregate), event, event_id)
        self.log.append((aggregate, event))
        if leg is not None:
            ref = Ref(Kind.LEG, leg.barrier_id)
            before = self.states.get(ref)
            assert before is None or isinstance(before, LegBarrier)
            self.states[ref] = marked(before or LegBarrier(), leg, event, event_id)
        if isinstance(event, Deposited | Withdrawn):
            kind = "deposit" if isinstance(event, Deposited) else "withdrawal"
            self.states[reference_ref(kind, event.external_reference)] = UsedReference(position=len(self.log))

    def money(self, name: str, currency: str = "USD") -> tuple[int, int, int]:
        """Of the user: available, reserved, pending."""
        balance = self.the(Account, name).balance(currency)
        return balance.available_minor, balance.reserved_minor, balance.pending_minor

    def state(self, kind: Kind, name: str | UUID) -> State | None:
        return self.states.get(Ref(kind, name if isinstance(name, UUID) else uid(name)))

    def the(self, kind: type[S], name: str | UUID) -> S:
        """The account, asset, auction or saga of that name."""
        state = self.state(KINDS[kind], name)
        assert isinstance(state, kind)
        return state

    def _next_id(self) -> UUID:
        self._ids += 1
        return uid(f"id-{self._ids}")
