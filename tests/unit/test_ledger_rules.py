"""Deposits, withdrawals, transfers and holds: given events, when a command, then events or a refusal."""

from typing import get_args

import pytest

from cells.domain import commands, refusals
from cells.domain.event import postings
from cells.domain.events import (
    EVENT_TYPES,
    AccountOpened,
    Deposited,
    FundsReleased,
    FundsReserved,
    HoldCaptured,
    HoldEvents,
    TransferReceived,
    TransferSent,
    Withdrawn,
)
from cells.domain.record import fields_of
from cells.domain.values import BALANCE_MAX_MINOR, Kind
from tests.unit.given import NOON_MS, World, uid, usd

OPENED = AccountOpened(home_epoch=1)


def deposited(amount_minor: int, reference: str = "ref-0") -> Deposited:
    return Deposited(currency="USD", amount_minor=amount_minor, external_reference=reference)


def rich(amount_minor: int = 10_000) -> World:
    """Ann with money, and Ben without."""
    return World().given(Kind.ACCOUNT, "ann", OPENED, deposited(amount_minor)).given(Kind.ACCOUNT, "ben", OPENED)


def test_an_account_is_opened_once() -> None:
    """A second opening of the same account is refused."""
    world = World()
    assert world.when(commands.OpenAccount(user_id=uid("ann"), home_epoch=1)) == [OPENED]
    with pytest.raises(refusals.AlreadyOpen):
        world.when(commands.OpenAccount(user_id=uid("ann"), home_epoch=1))


def test_a_deposit_raises_what_is_available() -> None:
    """Money comes from outside into `available`."""
    world = rich(500)
    command = commands.Deposit(user_id=uid("ann"), amount=usd(250), external_reference="bank-1")
    assert world.when(command) == [deposited(250, "bank-1")]
    assert world.money("ann") == (750, 0, 0)


def test_an_external_reference_counts_once_per_kind() -> None:
    """The same bank reference deposits once; a withdrawal may also use it."""
    world = rich()
    world.when(commands.Deposit(user_id=uid("ann"), amount=usd(250), external_reference="bank-1"))
    with pytest.raises(refusals.ExternalReferenceUsed):
        world.when(commands.Deposit(user_id=uid("ben"), amount=usd(9), external_reference="bank-1"))
    assert world.when(commands.Withdraw(user_id=uid("ann"), amount=usd(9), external_reference="bank-1"))


def test_a_withdrawal_is_bounded_by_what_is_available() -> None:
    """Reserved money cannot leave."""
    world = rich(100)
    world.when(commands.Reserve(user_id=uid("ann"), amount=usd(60), expire_time_ms=None))
    with pytest.raises(refusals.InsufficientFunds) as refused:
        world.when(commands.Withdraw(user_id=uid("ann"), amount=usd(41), external_reference="w"))
    assert refused.value.facts == {"needed_minor": 41, "available_minor": 40, "currency": "USD"}
    assert world.when(commands.Withdraw(user_id=uid("ann"), amount=usd(40), external_reference="w")) == [
        Withdrawn(currency="USD", amount_minor=40, external_reference="w")
    ]


def test_a_transfer_is_an_event_in_each_stream() -> None:
    """The payer's event and the payee's carry the same id, and the payer's causes the payee's."""
    world = rich(100)
    decision = world.decided(commands.Transfer(from_user_id=uid("ann"), to_user_id=uid("ben"), amount=usd(30)))
    sent, received = decision.uncommitted
    assert isinstance(sent.event, TransferSent)
    assert isinstance(received.event, TransferReceived)
    assert sent.event.transfer_id == received.event.transfer_id
    assert received.caused_by == sent.event_id
    assert (world.money("ann"), world.money("ben")) == ((70, 0, 0), (30, 0, 0))


def test_no_balance_passes_half_of_what_64_bits_hold() -> None:
    """A larger amount is refused, even if part of the money is reserved."""
    world = rich(BALANCE_MAX_MINOR - 5)
    world.when(commands.Reserve(user_id=uid("ann"), amount=usd(1_000), expire_time_ms=None))
    with pytest.raises(refusals.BalanceOverflow):
        world.when(commands.Deposit(user_id=uid("ann"), amount=usd(6), external_reference="six"))
    world.when(commands.Deposit(user_id=uid("ann"), amount=usd(5), external_reference="five"))


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (commands.Deposit(user_id=uid("eve"), amount=usd(1), external_reference="x"), refusals.UserNotFound),
        (commands.Withdraw(user_id=uid("eve"), amount=usd(1), external_reference="x"), refusals.UserNotFound),
        (commands.Transfer(from_user_id=uid("ann"), to_user_id=uid("eve"), amount=usd(1)), refusals.UserNotFound),
        (commands.Transfer(from_user_id=uid("ann"), to_user_id=uid("ann"), amount=usd(1)), refusals.SameAccount),
        (commands.Transfer(from_user_id=uid("ben"), to_user_id=uid("ann"), amount=usd(1)), refusals.InsufficientFunds),
        (commands.Reserve(user_id=uid("ben"), amount=usd(1), expire_time_ms=None), refusals.InsufficientFunds),
        (commands.Reserve(user_id=uid("ann"), amount=usd(1), expire_time_ms=NOON_MS), refusals.ExpireTimeInPast),
        (
            commands.Reserve(user_id=uid("ann"), amount=usd(1), expire_time_ms=NOON_MS + 366 * 86_400_000 + 1),
            refusals.TimeTooFar,
        ),
        (commands.Release(user_id=uid("ann"), hold_id=uid("none")), refusals.HoldNotFound),
        (
            commands.Capture(user_id=uid("ann"), hold_id=uid("none"), to_user_id=uid("ben"), amount_minor=None),
            refusals.HoldNotFound,
        ),
    ],
)
def test_what_is_not_allowed_is_refused(command: commands.Deposit, refusal: type[refusals.Refused]) -> None:
    """Each refusal is the named one, and nothing has happened."""
    world = rich(100)
    before = len(world.log)
    with pytest.raises(refusal):
        world.when(command)
    assert len(world.log) == before


def test_a_capture_pays_a_part_and_frees_the_rest() -> None:
    """The remainder goes back to `available`; the hold is gone and cannot be captured again."""
    world = rich(100)
    hold_id = uid("hold")
    world.given(Kind.ACCOUNT, "ann", FundsReserved(hold_id=hold_id, currency="USD", amount_minor=80))
    events = world.when(commands.Capture(user_id=uid("ann"), hold_id=hold_id, to_user_id=uid("ben"), amount_minor=50))
    assert events[0] == HoldCaptured(
        hold_id=hold_id, to_user_id=uid("ben"), currency="USD", amount_minor=50, released_minor=30
    )
    assert (world.money("ann"), world.money("ben")) == ((50, 0, 0), (50, 0, 0))
    with pytest.raises(refusals.HoldNotFound):
        world.when(commands.Capture(user_id=uid("ann"), hold_id=hold_id, to_user_id=uid("ben"), amount_minor=1))


def test_a_capture_is_bounded_by_the_hold_and_its_time() -> None:
    """More than the hold, or after its expiry, is refused, whether or not the timer has fired."""
    world = rich(100)
    reserved = FundsReserved(hold_id=uid("hold"), currency="USD", amount_minor=80, expire_time_ms=NOON_MS + 1_000)
    world.given(Kind.ACCOUNT, "ann", reserved)
    capture = commands.Capture(user_id=uid("ann"), hold_id=uid("hold"), to_user_id=uid("ben"), amount_minor=81)
    with pytest.raises(refusals.CaptureTooLarge):
        world.when(capture)
    world.now_ms += 1_000
    with pytest.raises(refusals.HoldExpired):
        world.when(capture)


def test_an_expired_hold_is_released_by_the_timer_and_no_sooner() -> None:
    """The timer's command does nothing early, and nothing the second time."""
    world = rich(100)
    world.given(
        Kind.ACCOUNT,
        "ann",
        FundsReserved(hold_id=uid("hold"), currency="USD", amount_minor=80, expire_time_ms=NOON_MS + 10),
    )
    expire = commands.ExpireHold(user_id=uid("ann"), hold_id=uid("hold"))
    assert world.when(expire) == []
    world.now_ms += 10
    assert world.when(expire) == [FundsReleased(hold_id=uid("hold"), currency="USD", amount_minor=80)]
    assert world.when(expire) == []
    assert world.money("ann") == (100, 0, 0)


def test_a_hold_behind_bids_is_not_the_owners_to_release() -> None:
    """Only the auction resolves a hold that backs its bids."""
    world = rich(100).given(
        Kind.ACCOUNT,
        "ann",
        FundsReserved(hold_id=uid("auction"), currency="USD", amount_minor=80, bid_id=uid("bid"), bid_minor=80),
    )
    with pytest.raises(refusals.HoldBacksBids):
        world.when(commands.Release(user_id=uid("ann"), hold_id=uid("auction")))


def test_postings_of_every_event_sum_to_zero() -> None:
    """No movement creates or destroys money."""
    world = rich(100)
    world.when(commands.Transfer(from_user_id=uid("ann"), to_user_id=uid("ben"), amount=usd(30)))
    world.when(commands.Reserve(user_id=uid("ann"), amount=usd(20), expire_time_ms=None))
    world.when(commands.Withdraw(user_id=uid("ben"), amount=usd(30), external_reference="w"))
    lines = [postings(event, aggregate.id) for aggregate, event in world.log]
    assert sum(len(each) for each in lines) == 10
    assert all(sum(line.amount_minor for line in each) == 0 for each in lines)


def test_each_event_that_names_a_hold_is_taken_into_the_holds() -> None:
    """Evolve passes only those events to the account's holds."""
    named = {event for event in EVENT_TYPES.values() if event.kind is Kind.ACCOUNT and "hold_id" in fields_of(event)}
    assert named == set(get_args(HoldEvents))
