"""Deposits, withdrawals, transfers and holds: given events, when a command, then events or a refusal."""

from collections.abc import Sequence
from typing import get_args
from uuid import UUID

import pytest

from cells.domain import commands, refusals
from cells.domain.commands import Capture, Command, Deposit, Release, Reserve, Transfer, Withdraw
from cells.domain.event import postings
from cells.domain.events import (
    EVENT_TYPES,
    AnyEvent,
    FundsReleased,
    HoldCaptured,
    HoldEvents,
    TransferReceived,
    TransferSent,
    Withdrawn,
)
from cells.domain.record import fields_of
from cells.domain.values import BALANCE_MAX_MINOR, Kind
from tests.unit.given import NOON_MS, OPENED, World, deposited, reserved, uid, usd

ANN, BEN, EVE, HOLD = map(uid, ("ann", "ben", "eve", "hold"))
OPEN = commands.OpenAccount(user_id=ANN, home_epoch=1)
EXPIRE = commands.ExpireHold(user_id=ANN, hold_id=HOLD)
LASTING, EXPIRED = (reserved(80, expire_time_ms=NOON_MS + ms) for ms in (10, 0))
RELEASED = FundsReleased(hold_id=HOLD, currency="USD", amount_minor=80)
BACKS_BIDS = reserved(80, bid_id=uid("bid"), bid_minor=80)
# Of what an account may hold 5 are left, although part of it is reserved.
NEARLY_FULL = (deposited(BALANCE_MAX_MINOR - 105), reserved(1_000))


def deposit(amount_minor: int, user_id: UUID = ANN) -> Deposit:
    return Deposit(user_id=user_id, amount=usd(amount_minor), external_reference="bank-1")


def withdraw(amount_minor: int, user_id: UUID = ANN) -> Withdraw:
    return Withdraw(user_id=user_id, amount=usd(amount_minor), external_reference="bank-1")


def withdrawn(amount_minor: int) -> Withdrawn:
    return Withdrawn(currency="USD", amount_minor=amount_minor, external_reference="bank-1")


def transfer(amount_minor: int, payer: UUID = ANN, payee: UUID = BEN) -> Transfer:
    return Transfer(from_user_id=payer, to_user_id=payee, amount=usd(amount_minor))


def reserve(amount_minor: int, user_id: UUID = ANN, until_ms: int | None = None) -> Reserve:
    return Reserve(user_id=user_id, amount=usd(amount_minor), expire_time_ms=until_ms)


def capture(amount_minor: int | None, hold_id: UUID = HOLD) -> Capture:
    return Capture(user_id=ANN, hold_id=hold_id, to_user_id=BEN, amount_minor=amount_minor)


def rich(*events: AnyEvent) -> World:
    """Ann with 100, to whom `events` have happened since, and Ben without money."""
    world = World().given(Kind.ACCOUNT, "ben", OPENED)
    return world.given(Kind.ACCOUNT, "ann", OPENED, deposited(100), *events)


def test_an_account_is_opened_once() -> None:
    """A second opening of the same account is refused."""
    world = World()
    assert world.when(OPEN) == [OPENED]
    world.refuses(OPEN, refusals.AlreadyOpen)


@pytest.mark.parametrize(
    ("given", "command", "then", "money"),
    [
        # Money comes from outside into `available`.
        ([], deposit(250), [deposited(250, "bank-1")], (350, 0, 0)),
        (NEARLY_FULL, deposit(5), [deposited(5, "bank-1")], (BALANCE_MAX_MINOR - 1_000, 1_000, 0)),
        # A reference counts once per kind: a withdrawal may use that of a deposit.
        ([deposited(250, "bank-1")], withdraw(9), [withdrawn(9)], (341, 0, 0)),
        # All that is not reserved.
        ([reserved(60)], withdraw(40), [withdrawn(40)], (0, 60, 0)),
        # The timer's command does nothing early, and nothing the second time.
        ([LASTING], EXPIRE, [], (20, 80, 0)),
        ([EXPIRED], EXPIRE, [RELEASED], (100, 0, 0)),
        ([EXPIRED, RELEASED], EXPIRE, [], (100, 0, 0)),
    ],
)
def test_what_is_allowed_happens(
    given: Sequence[AnyEvent], command: Command, then: list[AnyEvent], money: tuple[int, int, int]
) -> None:
    """By these events alone."""
    world = rich(*given)
    assert world.when(command) == then
    assert world.money("ann") == money


@pytest.mark.parametrize(
    ("given", "command", "refusal"),
    [
        ([], deposit(1, EVE), refusals.UserNotFound),
        ([], withdraw(1, EVE), refusals.UserNotFound),
        ([], transfer(1, ANN, EVE), refusals.UserNotFound),
        ([], transfer(1, ANN, ANN), refusals.SameAccount),
        ([], transfer(1, BEN, ANN), refusals.InsufficientFunds),
        ([], reserve(1, BEN), refusals.InsufficientFunds),
        ([], reserve(1, until_ms=NOON_MS), refusals.ExpireTimeInPast),
        ([], reserve(1, until_ms=NOON_MS + 366 * 86_400_000 + 1), refusals.TimeTooFar),
        ([], Release(user_id=ANN, hold_id=uid("none")), refusals.HoldNotFound),
        ([], capture(None, uid("none")), refusals.HoldNotFound),
        ([deposited(250, "bank-1")], deposit(9, BEN), refusals.ExternalReferenceUsed),
        (NEARLY_FULL, deposit(6), refusals.BalanceOverflow),
        ([LASTING], capture(81), refusals.CaptureTooLarge),
        # Whether or not the timer has fired.
        ([EXPIRED], capture(81), refusals.HoldExpired),
        # Only the auction resolves a hold that backs its bids.
        ([BACKS_BIDS], Release(user_id=ANN, hold_id=HOLD), refusals.HoldBacksBids),
    ],
)
def test_what_is_not_allowed_is_refused(
    given: Sequence[AnyEvent], command: Command, refusal: type[refusals.Refused]
) -> None:
    """Each refusal is the named one, and nothing has happened."""
    rich(*given).refuses(command, refusal)


def test_a_withdrawal_is_bounded_by_what_is_available() -> None:
    """Reserved money cannot leave."""
    facts = rich(reserved(60)).refuses(withdraw(41), refusals.InsufficientFunds)
    assert facts == {"needed_minor": 41, "available_minor": 40, "currency": "USD"}


def test_a_transfer_is_an_event_in_each_stream() -> None:
    """The payer's event and the payee's carry the same id, and the payer's causes the payee's."""
    world = rich()
    sent, received = world.decided(transfer(30)).uncommitted
    assert isinstance(sent.event, TransferSent)
    assert isinstance(received.event, TransferReceived)
    assert sent.event.transfer_id == received.event.transfer_id
    assert received.caused_by == sent.event_id
    assert (world.money("ann"), world.money("ben")) == ((70, 0, 0), (30, 0, 0))


def test_a_capture_pays_a_part_and_frees_the_rest() -> None:
    """The remainder goes back to `available`; the hold is gone and cannot be captured again."""
    world = rich(reserved(80))
    assert world.when(capture(50))[0] == HoldCaptured(
        hold_id=HOLD, to_user_id=BEN, currency="USD", amount_minor=50, released_minor=30
    )
    assert (world.money("ann"), world.money("ben")) == ((50, 0, 0), (50, 0, 0))
    world.refuses(capture(1), refusals.HoldNotFound)


def test_postings_of_every_event_sum_to_zero() -> None:
    """No movement creates or destroys money."""
    world = rich()
    for command in (transfer(30), reserve(20), withdraw(30, BEN)):
        world.when(command)
    lines = [postings(event, aggregate.id) for aggregate, event in world.log]
    assert sum(len(each) for each in lines) == 10
    assert all(sum(line.amount_minor for line in each) == 0 for each in lines)


def test_each_event_that_names_a_hold_is_taken_into_the_holds() -> None:
    """Evolve passes only those events to the account's holds."""
    named = {event for event in EVENT_TYPES.values() if event.kind is Kind.ACCOUNT and "hold_id" in fields_of(event)}
    assert named == set(get_args(HoldEvents))
