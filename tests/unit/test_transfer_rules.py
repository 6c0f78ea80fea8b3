"""Transfers to users of other cells, as rules alone: the money arrives or comes back, whatever is late or lost."""

from collections.abc import Sequence

import pytest

from cells.domain import refusals
from cells.domain.account.barrier import LegCommand
from cells.domain.commands import ApplyLeg, Deposit, Transfer
from cells.domain.events import (
    AccountOpened,
    AnyEvent,
    Deposited,
    RemoteTransferReceived,
    RemoteTransferReturned,
    RemoteTransferSent,
)
from cells.domain.moves.events import AccountArrived
from cells.domain.moves.refusals import LegSentBeforeArrival
from cells.domain.record import replace
from cells.domain.results import BalanceAfter, Result
from cells.domain.sagas import saga_events
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_rules import DEADLINE_EXCEEDED, on_behalf_of
from cells.domain.values import BALANCE_MAX_MINOR, Kind, Money
from tests.unit.given import NOON_MS, uid, usd
from tests.unit.saga_market import Cells

HOME, AWAY = "us-east", "eu-west"
COMMAND = uid("the client's command")


def opened(amount_minor: int) -> tuple[AccountOpened, Deposited]:
    money = Deposited(currency="USD", amount_minor=amount_minor, external_reference="giro")
    return AccountOpened(home_epoch=1), money


class Pair(Cells):
    """Ann is at home here with 10.00 USD, Bob there with 1.00."""

    def __init__(self) -> None:
        super().__init__(HOME, AWAY)
        self.here, self.there = self.worlds.values()
        self.here.given(Kind.ACCOUNT, "ann", *opened(1_000))
        self.there.given(Kind.ACCOUNT, "bob", *opened(100))
        self.saga_id = uid("none yet")

    def send(self, amount_minor: int = 400, *, to: str = "bob") -> list[AnyEvent]:
        command = Transfer(from_user_id=uid("ann"), to_user_id=uid(to), amount=usd(amount_minor), to_cell=AWAY)
        decision = self.here.decided(command, COMMAND)
        assert decision.awaits_saga is not None
        self.saga_id = decision.awaits_saga
        return [uncommitted.event for uncommitted in decision.uncommitted]

    @property
    def state(self) -> Saga:
        return self.saga(self.saga_id)[1]

    def call(self) -> LegCommand:
        """The next call of the engine."""
        return self.command(self.saga_id)[1]

    def record(self, result: Result) -> list[AnyEvent]:
        """Records there's answer here."""
        return self.heard(self.saga_id, self.call(), result)

    def take_back(self) -> list[AnyEvent]:
        return self.at_home(self.saga_id, self.call())

    def refused(self, error: refusals.Refused) -> list[AnyEvent]:
        """Records there's refusal here."""
        return self.fail(self.saga_id, error.reason, covers_leg=not error.stable, facts=error.facts)

    def run_out(self) -> list[AnyEvent]:
        """The deadline passes in both cells, and the engine reports it."""
        self.expire(self.here.policy.transfer_valid_ms + 1)
        return self.fail(self.saga_id, DEADLINE_EXCEEDED)

    def money(self) -> tuple[int, int, int]:
        """Ann's, Bob's, and the amount in transit between the cells."""
        return self.here.money("ann")[0], self.there.money("bob")[0], sum(self.in_transit().values())


def refusal_there(pair: Pair) -> refusals.Refused:
    with pytest.raises(refusals.Refused) as refused:
        pair.there.decided(pair.call())
    return refused.value


def kinds(events: Sequence[object]) -> list[type]:
    return [type(event) for event in events]


def test_the_money_leaves_in_the_commit_that_starts_the_saga() -> None:
    """One decision: the start, the debit that is its first leg, and the completion of that leg."""
    pair = Pair()
    started, sent, done = pair.send()
    assert isinstance(started, saga_events.SagaStarted)
    assert isinstance(sent, RemoteTransferSent)
    assert isinstance(done, saga_events.SagaLegCompleted)
    assert started.deadline_ms == NOON_MS + pair.here.policy.transfer_valid_ms
    assert isinstance(started.facts, saga_events.TransferFacts)
    assert (started.facts.to_cell, started.facts.command_id) == (AWAY, COMMAND)
    assert pair.money() == (600, 100, 400)
    assert pair.here.log[-1][0].id == pair.saga_id == sent.transfer_id


def test_the_money_arrives_and_the_command_ends_with_the_payers_balance() -> None:
    """The result has the keys of a transfer within the cell."""
    pair = Pair()
    pair.send()
    assert on_behalf_of(pair.state) == uid("bob")
    answer = pair.there.decided(pair.call())
    (received,) = [uncommitted.event for uncommitted in answer.uncommitted]
    assert isinstance(received, RemoteTransferReceived)
    assert kinds(pair.record(answer.result)) == [saga_events.SagaLegCompleted, saga_events.SagaCompleted]
    assert pair.money() == (600, 500, 0)
    (ending,) = pair.endings
    assert (ending.command_id, ending.refusal) == (COMMAND, None)
    assert ending.result == BalanceAfter(currency="USD", available_minor=600, reserved_minor=0, pending_minor=0)


def test_a_duplicate_credits_once() -> None:
    """The barrier gives the second call the first answer."""
    pair = Pair()
    pair.send()
    call = pair.call()
    first, second = (pair.there.decided(call).result for _ in range(2))
    assert first == second
    assert pair.money() == (600, 500, 0)


@pytest.mark.parametrize("to", ["bob", "nobody"])
def test_a_definite_no_brings_the_money_back(to: str) -> None:
    """An unknown payee or one without room: the command ends with the payee's cell's refusal."""
    pair = Pair()
    pair.there.given(Kind.ACCOUNT, "bob", opened(BALANCE_MAX_MINOR - 100)[1])
    before = pair.money()
    pair.send(to=to)
    refused = refusal_there(pair)
    assert isinstance(refused, refusals.BalanceOverflow if to == "bob" else refusals.PayeeNotFound)
    assert kinds(pair.refused(refused)) == [saga_events.SagaCompensationStarted]
    # The leg may have been sent twice, with the second call in transit: it is blocked first.
    answer = pair.there.decided(pair.call())
    assert kinds([uncommitted.event for uncommitted in answer.uncommitted]) == [saga_events.LegTombstoned]
    pair.record(answer.result)
    assert on_behalf_of(pair.state) == uid("ann")
    assert kinds(pair.take_back()) == [
        RemoteTransferReturned,
        saga_events.SagaLegCompensated,
        saga_events.SagaCompensated,
    ]
    assert pair.money() == before
    (ending,) = pair.endings
    assert ending.refusal is not None
    assert (ending.command_id, ending.refusal.reason) == (COMMAND, refused.reason)
    assert ending.refusal.stored


def test_a_transfer_that_comes_too_late_is_refused_there() -> None:
    """A late transfer stays late: no tombstone is needed, and the money comes back at once."""
    pair = Pair()
    pair.send()
    pair.there.now_ms += pair.there.policy.transfer_valid_ms + 1
    refused = refusal_there(pair)
    assert isinstance(refused, refusals.TransferExpired)
    pair.refused(refused)
    pair.take_back()
    assert pair.state.state is SagaState.COMPENSATED
    assert pair.money() == (1_000, 100, 0)
    assert isinstance(pair.endings[0].refusal, refusals.TransferExpired)


def test_a_credit_that_comes_after_its_compensation_is_refused() -> None:
    """The deadline passes without an answer; the tombstone stops the call that was in transit all the time."""
    pair = Pair()
    pair.send()
    late = pair.call()
    pair.run_out()
    pair.record(pair.there.decided(pair.call()).result)
    pair.take_back()
    # Even in time by its own clock.
    pair.there.now_ms = NOON_MS
    with pytest.raises(refusals.LegCancelled):
        pair.there.decided(late)
    assert pair.money() == (1_000, 100, 0)
    assert isinstance(pair.endings[0].refusal, refusals.TransferExpired)


def test_a_credit_that_was_sent_before_its_payee_arrived_has_to_be_sent_again() -> None:
    """Another home may have undone it meanwhile. One that was taken here keeps its answer."""
    pair = Pair()
    arrived = AccountArrived(
        saga_id=uid("move"), from_cell=HOME, epoch=2, holds={}, earlier_homes=(), home_since_ms=NOON_MS
    )
    pair.there.given(Kind.ACCOUNT, "bob", arrived)
    pair.send()
    call = pair.call()
    assert isinstance(call, ApplyLeg)
    for sent_ms in (0, NOON_MS):
        with pytest.raises(LegSentBeforeArrival):
            pair.there.decided(replace(call, sent_ms=sent_ms))
    taken = pair.there.decided(replace(call, sent_ms=NOON_MS + 1)).result
    assert pair.there.decided(replace(call, sent_ms=0)).result == taken


def test_without_the_tombstone_the_late_credit_would_make_money() -> None:
    """Ablation: if the barrier's record is removed, the money is in both places."""
    pair = Pair()
    pair.send()
    late = pair.call()
    pair.run_out()
    pair.record(pair.there.decided(pair.call()).result)
    pair.take_back()
    pair.there.now_ms = NOON_MS
    pair.there.states = {ref: state for ref, state in pair.there.states.items() if ref.kind is not Kind.LEG}
    pair.there.decided(late)
    assert pair.money() == (1_000, 500, -400)


def test_a_credit_whose_answer_was_lost_stands() -> None:
    """Asked to cancel, the payee's cell answers that it is done: the transfer is complete."""
    pair = Pair()
    pair.send()
    pair.there.decided(pair.call())
    pair.run_out()
    answer = pair.there.decided(pair.call()).result
    assert kinds(pair.record(answer)) == [saga_events.SagaPivotFoundDone, saga_events.SagaCompleted]
    assert pair.money() == (600, 500, 0)
    assert pair.endings[0].refusal is None


def test_before_its_time_a_deadline_has_not_passed() -> None:
    """The deciding batch's clock counts."""
    pair = Pair()
    pair.send()
    assert pair.fail(pair.saga_id, DEADLINE_EXCEEDED) == []
    assert pair.state.state is SagaState.RUNNING


def test_money_on_its_way_back_has_room_that_nothing_else_fills() -> None:
    """The account is filled meanwhile as far as possible: the money comes back, and no compensation gets stuck."""
    pair = Pair()
    pair.send()
    pair.there.now_ms += pair.there.policy.transfer_valid_ms + 1
    pair.refused(refusal_there(pair))
    fill = Deposit(user_id=uid("ann"), amount=usd(BALANCE_MAX_MINOR - 600), external_reference="much")
    pair.here.when(fill)
    with pytest.raises(refusals.BalanceOverflow):
        pair.here.when(Deposit(user_id=uid("ann"), amount=usd(1), external_reference="more"))
    pair.take_back()
    assert pair.money() == (BALANCE_MAX_MINOR + 400, 100, 0)


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        (Transfer(from_user_id=uid("ann"), to_user_id=uid("ann"), amount=usd(1), to_cell=AWAY), refusals.SameAccount),
        (
            Transfer(from_user_id=uid("ann"), to_user_id=uid("bob"), amount=usd(1_001), to_cell=AWAY),
            refusals.InsufficientFunds,
        ),
        (
            Transfer(from_user_id=uid("ann"), to_user_id=uid("bob"), amount=Money("EUR", 1), to_cell=AWAY),
            refusals.InsufficientFunds,
        ),
        (Transfer(from_user_id=uid("eve"), to_user_id=uid("bob"), amount=usd(1), to_cell=AWAY), refusals.UserNotFound),
        # Not known to be at home elsewhere.
        (Transfer(from_user_id=uid("ann"), to_user_id=uid("bob"), amount=usd(1)), refusals.UserNotFound),
    ],
)
def test_what_cannot_be_paid_starts_nothing(command: Transfer, refused: type[refusals.Refused]) -> None:
    """To oneself, more than available, in a missing currency, by or to an unknown user."""
    pair = Pair()
    with pytest.raises(refused):
        pair.here.decided(command)
    assert pair.money() == (1_000, 100, 0)


def test_two_payers_may_use_the_same_command_id() -> None:
    """Their sagas, and so their legs and clearing movements, are distinct."""
    one, other = Pair(), Pair()
    other.here.given(Kind.ACCOUNT, "sue", *opened(500))
    one.send()
    command = Transfer(from_user_id=uid("sue"), to_user_id=uid("bob"), amount=usd(1), to_cell=AWAY)
    assert other.here.decided(command, COMMAND).awaits_saga != one.saga_id
