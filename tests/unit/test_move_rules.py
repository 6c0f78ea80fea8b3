"""The rules of a move, as rules alone: who may begin it, what departs, comes back and arrives, and what is answered."""

import pytest

from cells.domain.account.account import Account, Balance, Hold
from cells.domain.commands import ApplyLeg, Command, CompensateLeg, FailSaga, RegisterAsset
from cells.domain.events import AnyEvent, Deposited, Withdrawn
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
from tests.unit.given import NOON_MS, OPENED, World, apply_leg, deposited, kinds, only, uid
from tests.unit.sales import HERE, THERE

ANN = uid("ann")
BEGIN = BeginMove(user_id=ANN, to_cell=THERE, region=None)
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


def arrive(action: ArriveUser, saga: str = "next move", sent_ms: int = NOON_MS) -> ApplyLeg:
    return apply_leg(uid(saga), "arrive", action, THERE, sent_ms=sent_ms)


GONE: list[AnyEvent] = [OPENED, ANNOUNCED, DEPARTED, LEFT]
OTHER_CURRENCY = {uid("hold"): replace(HOLD, currency="EUR")}
BID_TOO_LARGE = {uid("hold"): replace(HOLD, bids_minor={uid("bid"): 301})}


@pytest.mark.parametrize(
    ("given", "command", "refusal"),
    [
        ([], BEGIN, UserNotFound),
        ([OPENED], replace(BEGIN, to_cell=HERE), AlreadyAtHome),
        ([OPENED], replace(BEGIN, from_epoch=2), HomeChanged),
        ([OPENED, ANNOUNCED], BEGIN, MoveUnderWay),
        # A refusal that is stored now would stay behind, and the new home would answer the same command differently.
        ([OPENED, ANNOUNCED, DEPARTED], BEGIN, UserMoving),
        (GONE, BEGIN, WrongCell),
        # So would the outcome, and the same command would register another asset at the new home.
        ([OPENED, ANNOUNCED, DEPARTED], RegisterAsset(owner_id=ANN, owner_cell=HERE, description="a lamp"), UserMoving),
        # Late, or not backed: holds add up to what is reserved, and no bid is larger than its hold.
        (GONE, arrive(replace(ARRIVAL, epoch=2)), HomeOutdated),
        (GONE, arrive(replace(ARRIVAL, holds={})), FieldInvalid),
        (GONE, arrive(replace(ARRIVAL, balances={})), FieldInvalid),
        (GONE, arrive(replace(ARRIVAL, holds=OTHER_CURRENCY)), FieldInvalid),
        (GONE, arrive(replace(ARRIVAL, holds=BID_TOO_LARGE)), FieldInvalid),
    ],
)
def test_what_cannot_be_is_refused(given: list[AnyEvent], command: Command, refusal: type[Refused]) -> None:
    """For good, unless the user is on the way, or at home elsewhere or under another epoch."""
    here(*given).refuses(command, refusal)
    if isinstance(command, BeginMove):
        assert refusal.final is (refusal not in {HomeChanged, UserMoving, WrongCell})


def test_a_move_is_announced_under_the_next_epoch() -> None:
    """In the commit that starts its saga; the user goes on meanwhile."""
    events = here(OPENED).when(replace(BEGIN, from_epoch=1))
    assert SagaStarted in kinds(events)
    announced = only(AccountMoveAnnounced, events)
    assert (announced.epoch, announced.to_cell, announced.flows_go_on) == (2, THERE, True)


def test_all_money_departs_and_comes_back() -> None:
    """By currency, without one that was spent: an empty movement has no posting. Undone, the account is as it was."""
    euros = {"currency": "EUR", "amount_minor": 5, "external_reference": "giro"}
    world = here(OPENED, deposited(1_000), Deposited(**euros), Withdrawn(**euros))  # type: ignore[arg-type]
    before = world.the(Account, "ann")
    saga_id = world.decided(BEGIN).awaits_saga
    assert saga_id is not None
    world.when(apply_leg(saga_id, "close", StopFlows(user_id=ANN, to_cell=THERE), HERE))
    depart = DepartUser(user_id=ANN, to_cell=THERE)
    departed = world.when(apply_leg(saga_id, "depart", depart, HERE))
    assert AccountDeparted in kinds(departed)
    assert only(BalanceDeparted, departed).currency == "USD"
    failed = {"failure_reason": "X", "failure_message": "", "failure_facts": dict[str, str]()}
    world.when(FailSaga(leg_id=LegId(saga_id, "arrive", 1), **failed, covers_leg=False))  # type: ignore[arg-type]
    undo = CompensateLeg(leg_id=LegId(saga_id, "depart", 1), action=depart, orchestrator=HERE)
    returned = world.when(undo)
    assert AccountReturned in kinds(returned)
    assert only(BalanceReturned, returned).currency == "USD"
    after = world.the(Account, "ann")
    assert (after.balances, after.holds) == (before.balances, before.holds)


def test_a_user_arrives_with_money_and_holds() -> None:
    """One event for each currency with an amount, and from then on this is the home; nobody arrives here twice."""
    world = here(*GONE)
    assert kinds(world.when(arrive(ARRIVAL))) == [AccountArrived, BalanceArrived]
    account = world.the(Account, "ann")
    assert (account.home_epoch, account.balance("USD"), account.holds) == (3, ARRIVAL.balances["USD"], ARRIVAL.holds)
    world.refuses(arrive(replace(ARRIVAL, epoch=4), "third move", NOON_MS + 1), AlreadyAtHome)


def test_a_departed_owner_may_have_an_asset_registered_here() -> None:
    """By the name of another cell."""
    here(OPENED, ANNOUNCED, DEPARTED).when(RegisterAsset(owner_id=ANN, owner_cell=THERE, description="a lamp"))
