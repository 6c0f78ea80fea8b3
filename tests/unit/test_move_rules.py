"""The rules of a move, as rules alone: who may begin it, what departs, comes back and arrives, and what is answered."""

import pytest

from cells.domain.account.account import Account, Balance, Hold
from cells.domain.commands import ApplyLeg, CompensateLeg, FailSaga, RegisterAsset
from cells.domain.events import AccountOpened, AnyEvent, Deposited, Withdrawn
from cells.domain.moves.commands import ArriveUser, BeginMove, DepartUser, StopFlows
from cells.domain.moves.events import (
    AccountArrived,
    AccountDeparted,
    AccountLeft,
    AccountMoveAnnounced,
    AccountReturned,
    BalanceArrived,
    BalanceDeparted,
    BalanceReturned,
)
from cells.domain.moves.refusals import AlreadyAtHome, HomeChanged, HomeOutdated, MoveUnderWay, UserMoving
from cells.domain.record import replace
from cells.domain.refusals import FieldInvalid, Refused, UserNotFound, WrongCell
from cells.domain.sagas.saga_events import SagaStarted
from cells.domain.values import Kind, LegId
from tests.unit.given import NOON_MS, World, uid
from tests.unit.test_auction_rules import HERE, THERE

ANN = uid("ann")
BEGIN = BeginMove(user_id=ANN, to_cell=THERE, region=None)
OPENED = AccountOpened(home_epoch=1)
ANNOUNCED = AccountMoveAnnounced(saga_id=uid("move"), from_cell=HERE, to_cell=THERE, epoch=2)
DEPARTED = AccountDeparted(saga_id=uid("move"), to_cell=THERE)
LEFT = AccountLeft(saga_id=uid("move"), to_cell=THERE, epoch=2)
HOLD = Hold(currency="USD", amount_minor=300, bids_minor={uid("bid"): 300})
ARRIVAL = ArriveUser(
    user_id=ANN,
    from_cell=THERE,
    epoch=3,
    balances={"EUR": Balance(), "USD": Balance(available_minor=700, reserved_minor=300)},
    holds={uid("hold"): HOLD},
)


def here(*events: AnyEvent) -> World:
    return World(cell=HERE).given(Kind.ACCOUNT, "ann", *events)


def arrive(action: ArriveUser) -> ApplyLeg:
    return ApplyLeg(leg_id=LegId(uid("next move"), "arrive", 1), action=action, orchestrator=THERE, sent_ms=NOON_MS)


@pytest.mark.parametrize(
    ("given", "command", "refusal"),
    [
        ([], BEGIN, UserNotFound),
        ([OPENED], replace(BEGIN, to_cell=HERE), AlreadyAtHome),
        ([OPENED], replace(BEGIN, from_epoch=2), HomeChanged),
        ([OPENED, ANNOUNCED], BEGIN, MoveUnderWay),
        # A refusal that is stored now would stay behind, and the new home would answer the same command differently.
        ([OPENED, ANNOUNCED, DEPARTED], BEGIN, UserMoving),
        ([OPENED, ANNOUNCED, DEPARTED, LEFT], BEGIN, WrongCell),
    ],
)
def test_a_move_that_cannot_begin_is_refused(given: list[AnyEvent], command: BeginMove, refusal: type[Refused]) -> None:
    """For good, unless the user is on the way, or at home elsewhere or under another epoch."""
    with pytest.raises(refusal) as caught:
        here(*given).when(command)
    assert caught.value.final is (refusal not in {HomeChanged, UserMoving, WrongCell})


def test_a_move_is_announced_under_the_next_epoch() -> None:
    """In the commit that starts its saga; the user goes on meanwhile."""
    events = here(OPENED).when(replace(BEGIN, from_epoch=1))
    assert SagaStarted in map(type, events)
    announced = [event for event in events if isinstance(event, AccountMoveAnnounced)]
    assert [(event.epoch, event.to_cell, event.flows_go_on) for event in announced] == [(2, THERE, True)]


def test_all_money_departs_and_comes_back() -> None:
    """By currency, without one that was spent: an empty movement has no posting. Undone, the account is as it was."""
    euros = {"currency": "EUR", "amount_minor": 5, "external_reference": "giro"}
    world = here(OPENED, Deposited(currency="USD", amount_minor=1_000, external_reference="bank"))
    world.given(Kind.ACCOUNT, "ann", Deposited(**euros), Withdrawn(**euros))  # type: ignore[arg-type]
    before = world.state(Kind.ACCOUNT, "ann")
    saga_id = world.decided(BEGIN).awaits_saga
    assert saga_id is not None
    stop = StopFlows(user_id=ANN, to_cell=THERE)
    world.when(ApplyLeg(leg_id=LegId(saga_id, "close", 1), action=stop, orchestrator=HERE))
    leg, depart = LegId(saga_id, "depart", 1), DepartUser(user_id=ANN, to_cell=THERE)
    departed = world.when(ApplyLeg(leg_id=leg, action=depart, orchestrator=HERE))
    assert AccountDeparted in map(type, departed)
    assert [event.currency for event in departed if isinstance(event, BalanceDeparted)] == ["USD"]
    arrive_id = LegId(saga_id, "arrive", 1)
    failed = {"failure_reason": "X", "failure_message": "", "failure_facts": dict[str, str]()}
    world.when(FailSaga(leg_id=arrive_id, **failed, covers_leg=False))  # type: ignore[arg-type]
    returned = world.when(CompensateLeg(leg_id=leg, action=depart, orchestrator=HERE))
    assert AccountReturned in map(type, returned)
    assert [event.currency for event in returned if isinstance(event, BalanceReturned)] == ["USD"]
    after = world.state(Kind.ACCOUNT, "ann")
    assert isinstance(before, Account)
    assert isinstance(after, Account)
    assert (after.balances, after.holds) == (before.balances, before.holds)


def test_a_user_arrives_with_money_and_holds() -> None:
    """One event for each currency with an amount, and from then on this is the home; nobody arrives here twice."""
    world = here(OPENED, ANNOUNCED, DEPARTED, LEFT)
    arrived = world.when(arrive(ARRIVAL))
    assert [type(event) for event in arrived] == [AccountArrived, BalanceArrived]
    account = world.state(Kind.ACCOUNT, "ann")
    assert isinstance(account, Account)
    assert (account.home_epoch, account.balance("USD"), account.holds) == (3, ARRIVAL.balances["USD"], ARRIVAL.holds)
    again = replace(
        arrive(replace(ARRIVAL, epoch=4)), leg_id=LegId(uid("third move"), "arrive", 1), sent_ms=NOON_MS + 1
    )
    with pytest.raises(AlreadyAtHome):
        world.when(again)


@pytest.mark.parametrize(
    ("action", "refusal"),
    [
        (replace(ARRIVAL, epoch=2), HomeOutdated),
        (replace(ARRIVAL, holds={}), FieldInvalid),
        (replace(ARRIVAL, balances={}), FieldInvalid),
        (replace(ARRIVAL, holds={uid("hold"): replace(HOLD, currency="EUR")}), FieldInvalid),
        (replace(ARRIVAL, holds={uid("hold"): replace(HOLD, bids_minor={uid("bid"): 301})}), FieldInvalid),
    ],
)
def test_an_arrival_that_is_late_or_not_backed_is_refused(action: ArriveUser, refusal: type[Refused]) -> None:
    """Holds add up to what is reserved, and no bid is larger than its hold: else a bid has no money behind it."""
    with pytest.raises(refusal):
        here(OPENED, ANNOUNCED, DEPARTED, LEFT).when(arrive(action))


def test_a_departed_owner_registers_no_asset_here() -> None:
    """The outcome would stay behind, and the same command would register another asset at the new home."""
    world = here(OPENED, ANNOUNCED, DEPARTED)
    with pytest.raises(UserMoving):
        world.when(RegisterAsset(owner_id=ANN, owner_cell=HERE, description="a lamp"))
    world.when(RegisterAsset(owner_id=ANN, owner_cell=THERE, description="a lamp, kept here by name"))
