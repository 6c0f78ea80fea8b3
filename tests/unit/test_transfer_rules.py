"""Transfers to users of other cells, as rules alone: the money arrives or comes back, whatever is late or lost."""

import pytest

from cells.domain import refusals
from cells.domain.account.barrier import LegCommand
from cells.domain.commands import ApplyLeg, Deposit, Transfer
from cells.domain.decision import Decision, LedgerPolicy
from cells.domain.events import AnyEvent, RemoteTransferReceived, RemoteTransferReturned, RemoteTransferSent
from cells.domain.moves.events import AccountArrived
from cells.domain.moves.refusals import LegSentBeforeArrival
from cells.domain.record import replace
from cells.domain.results import BalanceAfter, Result
from cells.domain.sagas import saga_events
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_rules import DEADLINE_EXCEEDED, on_behalf_of
from cells.domain.values import BALANCE_MAX_MINOR, Kind, Money
from tests.unit.given import NOON_MS, OPENED, deposited, kinds, only, uid, usd
from tests.unit.saga_market import Cells

HOME, AWAY = "us-east", "eu-west"
COMMAND = uid("the client's command")
LATE_MS = LedgerPolicy().transfer_valid_ms + 1


def transfer(amount: Money, payer: str = "ann", payee: str = "bob", to_cell: str | None = AWAY) -> Transfer:
    return Transfer(from_user_id=uid(payer), to_user_id=uid(payee), amount=amount, to_cell=to_cell)


class Pair(Cells):
    """Ann is at home here with 10.00 USD, Bob there with 1.00."""

    def __init__(self) -> None:
        super().__init__(HOME, AWAY)
        self.here, self.there = self.worlds.values()
        self.here.given(Kind.ACCOUNT, "ann", OPENED, deposited(1_000))
        self.there.given(Kind.ACCOUNT, "bob", OPENED, deposited(100))
        self.saga_id = uid("none yet")

    def send(self, payee: str = "bob") -> list[AnyEvent]:
        decision = self.here.decided(transfer(usd(400), payee=payee), COMMAND)
        assert decision.awaits_saga is not None
        self.saga_id = decision.awaits_saga
        return [uncommitted.event for uncommitted in decision.uncommitted]

    @property
    def state(self) -> Saga:
        return self.saga(self.saga_id)[1]

    def call(self) -> LegCommand:
        """The next call of the engine."""
        return self.command(self.saga_id)[1]

    def ask(self) -> Decision:
        """The other cell decides the next call."""
        return self.there.decided(self.call())

    def record(self, result: Result) -> list[AnyEvent]:
        """Records the other cell's answer here."""
        return self.heard(self.saga_id, self.call(), result)

    def is_refused(self, refusal: type[refusals.Refused]) -> list[AnyEvent]:
        """The other cell refuses the next call, which is recorded here."""
        facts = self.there.refuses(self.call(), refusal)
        return self.fail(self.saga_id, refusal.reason, covers_leg=not refusal.stable, facts=facts)

    def take_back(self) -> list[AnyEvent]:
        return self.at_home(self.saga_id, self.call())

    def call_that_comes_late(self) -> LegCommand:
        """Time is over, the money is back, and the first call arrives, in time by the clock of its cell."""
        late = self.call()
        self.run_out(self.saga_id, LATE_MS)
        self.record(self.ask().result)
        self.take_back()
        self.there.now_ms = NOON_MS
        return late

    def money(self) -> tuple[int, int, int]:
        """Ann's, Bob's, and the amount in transit between the cells."""
        return self.here.money("ann")[0], self.there.money("bob")[0], sum(self.in_transit().values())


@pytest.fixture
def sent() -> Pair:
    """Ann has sent Bob 4.00, which are under way."""
    pair = Pair()
    pair.send()
    return pair


def test_the_money_leaves_in_the_commit_that_starts_the_saga() -> None:
    """One decision: the start, the debit that is its first leg, and the completion of that leg."""
    pair = Pair()
    events = pair.send()
    assert kinds(events) == [saga_events.SagaStarted, RemoteTransferSent, saga_events.SagaLegCompleted]
    started = only(saga_events.SagaStarted, events)
    assert started.deadline_ms == NOON_MS + pair.here.policy.transfer_valid_ms
    facts = only(saga_events.TransferFacts, [started.facts])
    assert (facts.to_cell, facts.command_id) == (AWAY, COMMAND)
    assert pair.money() == (600, 100, 400)
    assert pair.here.log[-1][0].id == pair.saga_id == only(RemoteTransferSent, events).transfer_id


def test_the_money_arrives_and_the_command_ends_with_the_payers_balance(sent: Pair) -> None:
    """The result has the keys of a transfer within the cell."""
    assert on_behalf_of(sent.state) == uid("bob")
    answer = sent.ask()
    assert kinds(uncommitted.event for uncommitted in answer.uncommitted) == [RemoteTransferReceived]
    assert kinds(sent.record(answer.result)) == [saga_events.SagaLegCompleted, saga_events.SagaCompleted]
    assert sent.money() == (600, 500, 0)
    (ending,) = sent.endings
    assert (ending.command_id, ending.refusal) == (COMMAND, None)
    assert ending.result == BalanceAfter(currency="USD", available_minor=600, reserved_minor=0, pending_minor=0)


def test_a_duplicate_credits_once(sent: Pair) -> None:
    """The barrier gives the second call the first answer."""
    call = sent.call()
    first, second = (sent.there.decided(call).result for _ in range(2))
    assert first == second
    assert sent.money() == (600, 500, 0)


@pytest.mark.parametrize(("payee", "refusal"), [("bob", refusals.BalanceOverflow), ("nobody", refusals.PayeeNotFound)])
def test_a_definite_no_brings_the_money_back(payee: str, refusal: type[refusals.Refused]) -> None:
    """An unknown payee or one without room: the command ends with the payee's cell's refusal."""
    pair = Pair()
    pair.there.given(Kind.ACCOUNT, "bob", deposited(BALANCE_MAX_MINOR - 100))
    before = pair.money()
    pair.send(payee)
    assert kinds(pair.is_refused(refusal)) == [saga_events.SagaCompensationStarted]
    # The leg may have been sent twice, with the second call in transit: it is blocked first.
    answer = pair.ask()
    assert kinds(uncommitted.event for uncommitted in answer.uncommitted) == [saga_events.LegTombstoned]
    pair.record(answer.result)
    assert on_behalf_of(pair.state) == uid("ann")
    back = [RemoteTransferReturned, saga_events.SagaLegCompensated, saga_events.SagaCompensated]
    assert kinds(pair.take_back()) == back
    assert pair.money() == before
    (ending,) = pair.endings
    assert ending.refusal is not None
    assert (ending.command_id, ending.refusal.reason, ending.refusal.stored) == (COMMAND, refusal.reason, True)


def test_a_transfer_that_comes_too_late_is_refused_there(sent: Pair) -> None:
    """A late transfer stays late: no tombstone is needed, and the money comes back at once."""
    sent.there.now_ms += LATE_MS
    sent.is_refused(refusals.TransferExpired)
    sent.take_back()
    assert sent.state.state is SagaState.COMPENSATED
    assert sent.money() == (1_000, 100, 0)
    assert isinstance(sent.endings[0].refusal, refusals.TransferExpired)


def test_a_credit_that_comes_after_its_compensation_is_refused(sent: Pair) -> None:
    """The tombstone stops the call that was in transit all the time."""
    sent.there.refuses(sent.call_that_comes_late(), refusals.LegCancelled)
    assert sent.money() == (1_000, 100, 0)
    assert isinstance(sent.endings[0].refusal, refusals.TransferExpired)


def test_without_the_tombstone_the_late_credit_would_make_money(sent: Pair) -> None:
    """Ablation: if the barrier's record is removed, the money is in both places."""
    late = sent.call_that_comes_late()
    sent.there.states = {ref: state for ref, state in sent.there.states.items() if ref.kind is not Kind.LEG}
    sent.there.decided(late)
    assert sent.money() == (1_000, 500, -400)


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
        pair.there.refuses(replace(call, sent_ms=sent_ms), LegSentBeforeArrival)
    taken = pair.there.decided(replace(call, sent_ms=NOON_MS + 1)).result
    assert pair.there.decided(replace(call, sent_ms=0)).result == taken


def test_a_credit_whose_answer_was_lost_stands(sent: Pair) -> None:
    """Asked to cancel, the payee's cell answers that it is done: the transfer is complete."""
    sent.ask()
    sent.run_out(sent.saga_id, LATE_MS)
    ends = [saga_events.SagaPivotFoundDone, saga_events.SagaCompleted]
    assert kinds(sent.record(sent.ask().result)) == ends
    assert sent.money() == (600, 500, 0)
    assert sent.endings[0].refusal is None


def test_before_its_time_a_deadline_has_not_passed(sent: Pair) -> None:
    """The deciding batch's clock counts."""
    assert sent.fail(sent.saga_id, DEADLINE_EXCEEDED) == []
    assert sent.state.state is SagaState.RUNNING


def test_money_on_its_way_back_has_room_that_nothing_else_fills(sent: Pair) -> None:
    """The account is filled meanwhile as far as possible: the money comes back, and no compensation gets stuck."""
    sent.there.now_ms += LATE_MS
    sent.is_refused(refusals.TransferExpired)
    sent.here.when(Deposit(user_id=uid("ann"), amount=usd(BALANCE_MAX_MINOR - 600), external_reference="much"))
    more = Deposit(user_id=uid("ann"), amount=usd(1), external_reference="more")
    sent.here.refuses(more, refusals.BalanceOverflow)
    sent.take_back()
    assert sent.money() == (BALANCE_MAX_MINOR + 400, 100, 0)


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (transfer(usd(1), payee="ann"), refusals.SameAccount),
        (transfer(usd(1_001)), refusals.InsufficientFunds),
        (transfer(Money("EUR", 1)), refusals.InsufficientFunds),
        (transfer(usd(1), payer="eve"), refusals.UserNotFound),
        # Not known to be at home elsewhere.
        (transfer(usd(1), to_cell=None), refusals.UserNotFound),
    ],
)
def test_what_cannot_be_paid_starts_nothing(command: Transfer, refusal: type[refusals.Refused]) -> None:
    """To oneself, more than available, in a missing currency, by or to an unknown user."""
    Pair().here.refuses(command, refusal)


def test_two_payers_may_use_the_same_command_id(sent: Pair) -> None:
    """Their sagas, and so their legs and clearing movements, are distinct."""
    other = Pair()
    other.here.given(Kind.ACCOUNT, "sue", OPENED, deposited(500))
    assert other.here.decided(transfer(usd(1), payer="sue"), COMMAND).awaits_saga != sent.saga_id
