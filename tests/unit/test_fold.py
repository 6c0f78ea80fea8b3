"""A replay of the log: the same events give the same state, in any portions and order of streams."""

import json
from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cells.audit.reconcile.findings import Check
from cells.audit.reconcile.fold import Fold, StoredEvent
from cells.domain.event import postings
from cells.domain.events import AccountOpened, AnyEvent, Deposited, FundsReserved, TransferSent
from cells.domain.record import replace
from cells.domain.sagas.saga_events import (
    RemoteBidFacts,
    SagaCompensated,
    SagaCompleted,
    SagaEvents,
    SagaLegCompleted,
    SagaStarted,
)
from cells.domain.values import LegId
from cells.encoding import codec
from tests.replays import portions_of, shuffled
from tests.strategies import PATIENT

USERS = [UUID(int=number) for number in range(1, 5)]
CELL = "us-east"


def stored(position: int, event: AnyEvent, aggregate_id: UUID, stream_version: int) -> StoredEvent:
    payload = json.loads(codec.encode_event(event, postings(event, aggregate_id)))
    return StoredEvent(position, UUID(int=1_000 + position), event.event_type, aggregate_id, stream_version, 1, payload)


def opened(*further: tuple[UUID, AnyEvent]) -> list[StoredEvent]:
    """All users' accounts, and further events."""
    events: list[tuple[UUID, AnyEvent]] = [(user, AccountOpened(home_epoch=1)) for user in USERS]
    versions: dict[UUID, int] = {}
    log = []
    for position, (user, event) in enumerate([*events, *further], start=1):
        versions[user] = versions.get(user, 0) + 1
        log.append(stored(position, event, user, versions[user]))
    return log


@st.composite
def happenings(draw: st.DrawFn) -> tuple[UUID, AnyEvent]:
    user, currency = draw(st.sampled_from(USERS)), draw(st.sampled_from(("EUR", "JPY")))
    amount = draw(st.integers(1, 1_000))
    of: tuple[AnyEvent, ...] = (
        Deposited(currency=currency, amount_minor=amount, external_reference=str(amount)),
        TransferSent(transfer_id=USERS[0], to_user_id=USERS[1], currency=currency, amount_minor=amount),
        FundsReserved(hold_id=UUID(int=amount % 7), currency=currency, amount_minor=amount),
    )
    return user, draw(st.sampled_from(of))


Folded: TypeAlias = tuple[dict[UUID, str], dict[tuple[str, str], int], set[object]]


def folded(portions: Sequence[Sequence[StoredEvent]]) -> Folded:
    """The states as stored, the house's balances, and all rows that follow from single events."""
    fold, rows = Fold(cell=CELL), set[object]()
    for portion in portions:
        page = fold.apply(portion)
        assert page.findings == []
        rows |= {*page.account_entries, *page.clearing_entries, *page.saga_legs, *page.external_references}
    return {key: codec.encode_state(entry.state) for key, entry in fold.states.items()}, fold.house, rows


@given(st.lists(happenings(), max_size=60), st.lists(st.integers(0, 20), max_size=8), st.integers(0, 1_000))
@settings(PATIENT, max_examples=100)
def test_a_replay_is_the_same_however_it_is_cut_and_mixed(
    further: list[tuple[UUID, AnyEvent]], sizes: list[int], seed: int
) -> None:
    """Portions of any size, streams in any order: the same states, byte for byte, and the same rows."""
    log = opened(*further)
    whole = folded([log])
    assert folded(portions_of(log, sizes)) == whole
    assert folded(portions_of(shuffled(log, seed), sizes)) == whole


def deposit(amount_minor: int = 5) -> Deposited:
    return Deposited(currency="EUR", amount_minor=amount_minor, external_reference="r")


def changed(event: StoredEvent, **fields: object) -> StoredEvent:
    return replace(event, payload=event.payload | fields)


@pytest.mark.parametrize(
    ("poison", "problem"),
    [
        (lambda event: replace(event, event_type="MANNA_FELL"), "UnknownEvent"),
        (lambda event: replace(event, version=2), "UnknownEvent"),
        (lambda event: replace(event, version=None), "TypeError"),
        (lambda event: replace(event, payload=[]), "TypeError"),
        (lambda event: replace(event, problem="its bytes do not give its hash"), "its bytes"),
        (lambda event: changed(event, amount_minor=5), "ValueError"),
        (lambda event: changed(event, amount_minor="5.0"), "ValueError"),
        (lambda event: replace(event, stream_version=3), "OutOfOrder"),
        (lambda event: replace(event, stream_version=1), "OutOfOrder"),
        (lambda event: replace(event, leg={"leg": "pin"}), "KeyError"),
    ],
)
def test_a_poisoned_event_halts_its_own_stream(poison: "object", problem: str) -> None:
    """Nothing of it is kept, and nothing after it is read; all other streams continue."""
    log = opened((USERS[0], deposit()), (USERS[1], deposit(7)), (USERS[0], deposit(9)))
    log[4] = poison(log[4])  # type: ignore[operator]
    fold = Fold(cell=CELL)
    page = fold.apply(log)
    [finding] = page.findings
    assert finding.check is Check.EVENT
    assert finding.row.startswith("position 5: ")
    assert finding.found.startswith(problem)
    assert list(fold.halted) == [USERS[0]]
    assert page.unreadable == {5, 7}
    assert sorted(fold.states) == USERS[1:]
    assert [entry.account_id for entry in page.account_entries] == [USERS[1]]


def test_postings_that_are_not_the_events_own_are_named() -> None:
    """Changed, missing, or present although no money moves."""
    log = opened((USERS[0], deposit()), (USERS[1], deposit()), (USERS[2], AccountOpened(home_epoch=1)))
    log[4] = changed(log[4], postings=[])
    log[5] = changed(log[5], postings=[{"account": "external", "amount_minor": "-5", "currency": "EUR"}])
    log[6] = stored(7, AccountOpened(home_epoch=1), uuid4(), 1)
    log[6] = changed(log[6], postings=[{"account": "external", "amount_minor": "-5", "currency": "EUR"}])
    page = Fold(cell=CELL).apply(log)
    assert [(each.check, each.row.split(":")[0]) for each in page.findings] == [
        (Check.POSTINGS, f"position {position}") for position in (5, 6, 7)
    ]


SAGA, EFFECT = UUID(int=77), UUID(int=78)


def saga_log(*further: SagaEvents) -> list[StoredEvent]:
    """A bid into another cell, and its progress."""
    facts = RemoteBidFacts(
        auction_id=USERS[0],
        auction_cell="eu-west",
        bid_id=USERS[1],
        bidder_id=USERS[2],
        bidder_cell=CELL,
        currency="EUR",
        amount_minor=5,
        valid_until_ms=9,
        command_id=USERS[3],
    )
    events: list[SagaEvents] = [SagaStarted(facts=facts, deadline_ms=9, started_ms=1), *further]
    return [stored(number, event, SAGA, number) for number, event in enumerate(events, start=1)]


def leg_done(leg: str) -> SagaLegCompleted:
    return SagaLegCompleted(leg=leg, generation=1, effect_id=EFFECT)


def test_a_saga_claims_what_was_done_here() -> None:
    """Only for legs in its own cell: other cells' barriers record their legs."""
    page = Fold(cell=CELL).apply(saga_log(leg_done("reserve"), leg_done("submit"), SagaCompleted()))
    assert page.findings == []
    [claim] = page.claims
    assert (claim.direction, claim.result, claim.event_id, claim.position) == ("action", "APPLIED", EFFECT, 2)
    assert claim.leg_id == LegId(SAGA, "reserve", 1).aggregate_id()


@pytest.mark.parametrize(
    ("further", "position"),
    [
        ((leg_done("submit"),), 2),
        ((leg_done("reserve"), leg_done("submit"), SagaCompleted(), SagaCompleted()), 5),
        ((leg_done("reserve"), leg_done("submit"), SagaCompleted(), leg_done("submit")), 5),
        ((leg_done("reserve"), SagaCompleted()), 3),
        ((SagaCompensated(failure_reason="x"),), 2),
    ],
)
def test_a_saga_that_does_not_go_by_its_table_is_halted(further: tuple[SagaEvents, ...], position: int) -> None:
    """A leg out of turn, two ends, an early end, or anything after an end."""
    [finding] = Fold(cell=CELL).apply(saga_log(*further)).findings
    assert finding.check is Check.EVENT
    assert finding.row.startswith(f"position {position}: ")
