"""A user's move to another cell: announced, closed, departed, arrived there, left; called off before the arrival.

The arrival is the pivot: from that commit on the new home decides for the user, under a higher epoch. Everything in
flight moves along. Holds, pinned or not, are part of the account. A leg that was taken at the old home, and a reference
that was used up there, are found in the history copy (cells/moves/marks.py). A cell that later calls the old home for a
leg is redirected to the new one. The user's own flows into other cells (a bid, a transfer) end before the departure.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import assert_never
from uuid import UUID

from cells.domain.account.account import Account
from cells.domain.account.balance import Balance, Move
from cells.domain.decision import Context, Decision, UncommittedEvent, View, account_of, require_here
from cells.domain.events import (
    AccountArrived,
    AccountDeparted,
    AccountEvents,
    AccountFlowsResumed,
    AccountFlowsStopped,
    AccountLeft,
    AccountMoveAnnounced,
    AccountMoveCalledOff,
    AccountReturned,
    BalanceArrived,
    BalanceDeparted,
    BalanceReturned,
    MoveFacts,
)
from cells.domain.moves.commands import (
    AnnounceMove,
    ArriveUser,
    BeginMove,
    DepartUser,
    LeaveUser,
    MoveAction,
    StopFlows,
    TellHome,
)
from cells.domain.moves.refusals import AlreadyAtHome, HomeChanged, HomeOutdated, MoveUnderWay
from cells.domain.refusals import FieldInvalid, UserNotFound
from cells.domain.sagas.saga_start import started_with
from cells.domain.values import Kind, LegId, Ref, derived_id


def begin_move(command: BeginMove, view: View, context: Context) -> Decision:
    account = view.account(command.user_id)
    if account is None:
        raise UserNotFound(user_id=str(command.user_id))
    # Between departure and arrival nothing is refused for good: an outcome stored here then would not move along.
    require_here(account, command.user_id)
    if account.move is not None:
        move = account.move
        raise MoveUnderWay(user_id=str(command.user_id), to_cell=move.to_cell, saga_id=str(move.saga_id))
    if command.from_epoch not in {None, account.home_epoch}:
        raise HomeChanged(
            user_id=str(command.user_id),
            cell=context.cell,
            epoch=account.home_epoch,
            from_epoch=str(command.from_epoch),
        )
    if command.to_cell == context.cell:
        raise AlreadyAtHome(user_id=str(command.user_id), cell=context.cell)
    saga_id = move_saga_id(command.user_id, account.home_epoch, context)
    facts = MoveFacts(
        user_id=command.user_id,
        from_cell=context.cell,
        to_cell=command.to_cell,
        epoch=account.home_epoch + 1,
        region=command.region,
        command_id=context.command_id,
    )
    announced = AccountMoveAnnounced(
        saga_id=saga_id, from_cell=context.cell, to_cell=command.to_cell, epoch=facts.epoch, flows_go_on=True
    )
    uncommitted = started_with(
        facts,
        saga_id,
        context,
        deadline_ms=context.now_ms + context.policy.move_copy_ms,
        leg="announce",
        aggregate=Ref(Kind.ACCOUNT, command.user_id),
        effect=announced,
    )
    return Decision(
        uncommitted=uncommitted, result=moved_result(facts.to_cell, facts.epoch, saga_id), awaits_saga=saga_id
    )


def move_saga_id(user_id: UUID, from_epoch: int, context: Context) -> UUID:
    """Every home has an epoch of its own, so the same command in another home begins no saga with the same id.

    Nor does another operator's command. The router's name is not part of it: the next router derives the same id, and
    no other sender has the ids of a router's commands.
    """
    command = context.command if context.principal.startswith("operator/") else context.command_id
    return derived_id(user_id, f"move/{from_epoch}/{command}")


def deadline_after(leg: str, context: Context) -> int | None:
    """Set when the user first has to wait for something: then the time is short. None: the deadline is unchanged."""
    return context.now_ms + context.policy.move_valid_ms if leg == "close" else None


def moved_result(to_cell: str, epoch: int, saga_id: UUID) -> dict[str, str]:
    return {"saga_id": str(saga_id), "cell": to_cell, "epoch": str(epoch)}


def action(leg: str, facts: MoveFacts) -> MoveAction:
    match leg:
        case "announce":
            return AnnounceMove(user_id=facts.user_id, to_cell=facts.to_cell)
        case "close":
            return StopFlows(user_id=facts.user_id, to_cell=facts.to_cell)
        case "depart":
            return DepartUser(user_id=facts.user_id, to_cell=facts.to_cell)
        case "arrive":
            return ArriveUser(user_id=facts.user_id, from_cell=facts.from_cell, epoch=facts.epoch)
        case "leave":
            return LeaveUser(user_id=facts.user_id, to_cell=facts.to_cell, epoch=facts.epoch)
        case "tell":
            return TellHome(user_id=facts.user_id, cell=facts.to_cell, epoch=facts.epoch, region=facts.region)
        case _:
            raise ValueError(f"a move has no leg {leg!r}")


# --- the legs: the event of each, and further events ------------------------------------------------------------------


def effect(action: MoveAction, leg_id: LegId, view: View, context: Context) -> AccountEvents:
    match action:
        case StopFlows():
            _moving(account_of(view, action.user_id), leg_id)
            return AccountFlowsStopped(saga_id=leg_id.saga_id, to_cell=action.to_cell)
        case DepartUser():
            _moving(account_of(view, action.user_id), leg_id)
            return AccountDeparted(saga_id=leg_id.saga_id, to_cell=action.to_cell)
        case ArriveUser():
            return _arrival(action, leg_id, view, context)
        case LeaveUser():
            _moving(view.account(action.user_id), leg_id)
            return AccountLeft(saga_id=leg_id.saga_id, to_cell=action.to_cell, epoch=action.epoch)
        case AnnounceMove() | TellHome():
            raise TypeError(f"no cell is asked for {type(action).__name__}")
        case _:
            assert_never(action)


def secondary_events(
    action: MoveAction, leg_id: LegId, view: View, context: Context, *, caused_by: UUID
) -> Iterator[UncommittedEvent]:
    """Further events in the leg's commit."""
    if isinstance(action, DepartUser):
        balances = account_of(view, action.user_id).balances
        for event in _amounts(balances, leg_id, partial(BalanceDeparted, to_cell=action.to_cell)):
            yield _uncommitted(context, action.user_id, event, caused_by)
    elif isinstance(action, ArriveUser):
        for event in _amounts(action.balances, leg_id, partial(BalanceArrived, from_cell=action.from_cell)):
            yield _uncommitted(context, action.user_id, event, caused_by)


def undone(action: MoveAction, leg_id: LegId, view: View) -> AccountEvents:
    """Raises TypeError for an action that cannot be undone."""
    match action:
        case AnnounceMove():
            return AccountMoveCalledOff(saga_id=leg_id.saga_id)
        case StopFlows():
            return AccountFlowsResumed(saga_id=leg_id.saga_id)
        case DepartUser():
            return AccountReturned(saga_id=leg_id.saga_id, holds=_moving(view.account(action.user_id), leg_id).holds)
        case ArriveUser() | LeaveUser() | TellHome():
            raise TypeError(f"{type(action).__name__} is not undone once applied")
        case _:
            assert_never(action)


def secondary_events_undone(
    action: MoveAction, leg_id: LegId, view: View, context: Context, *, caused_by: UUID
) -> Iterator[UncommittedEvent]:
    """Returns the balances of a user who has departed and not arrived."""
    if isinstance(action, DepartUser):
        balances = _moving(view.account(action.user_id), leg_id).balances
        for event in _amounts(balances, leg_id, partial(BalanceReturned, from_cell=action.to_cell)):
            yield _uncommitted(context, action.user_id, event, caused_by)


def _moving(account: Account | None, leg_id: LegId) -> Move:
    if account is None or account.move is None or account.move.saga_id != leg_id.saga_id:
        raise TypeError(f"saga {leg_id.saga_id} is not the one that moves the user")
    return account.move


def _arrival(action: ArriveUser, leg_id: LegId, view: View, context: Context) -> AccountArrived:
    _require_backed(action)
    account = view.account(action.user_id)
    if account is not None:
        if account.move is None or not account.has_left:
            raise AlreadyAtHome(user_id=str(action.user_id), cell=context.cell)
        if action.epoch <= account.move.epoch:
            raise HomeOutdated(
                user_id=str(action.user_id), cell=context.cell, known=account.move.epoch, epoch=action.epoch
            )
    return AccountArrived(
        saga_id=leg_id.saga_id,
        from_cell=action.from_cell,
        epoch=action.epoch,
        holds=action.holds,
        earlier_homes=action.earlier_homes,
        history=action.history,
        home_since_ms=context.now_ms,
    )


def _require_backed(action: ArriveUser) -> None:
    """A hold without money behind it would back bids that nobody can pay. Raises FieldInvalid."""
    held: Counter[str] = Counter()
    for hold_id, hold in action.holds.items():
        held[hold.currency] += hold.amount_minor
        if hold.amount_minor < max(hold.bids_minor.values(), default=0):
            problem = "a bid must not be larger than the hold that backs it"
            raise FieldInvalid(field="arrive_user.holds.bids", problem=problem, value=str(hold_id))
    reserved = Counter({currency: balance.reserved_minor for currency, balance in action.balances.items()})
    if held != reserved:
        problem = "the holds of each currency must add up to what is reserved"
        raise FieldInvalid(field="arrive_user.holds", problem=problem, value=f"{dict(held)}, not {dict(reserved)}")


def _amounts(
    balances: Mapping[str, Balance], leg_id: LegId, event: Callable[..., AccountEvents]
) -> Iterator[AccountEvents]:
    """An event for each currency with an amount: without a movement there is no posting."""
    for currency, balance in sorted(balances.items()):
        if balance.total_minor:
            yield event(
                saga_id=leg_id.saga_id,
                currency=currency,
                available_minor=balance.available_minor,
                reserved_minor=balance.reserved_minor,
                pending_minor=balance.pending_minor,
                clearing_id=clearing_id(leg_id, currency),
            )


def clearing_id(leg_id: LegId, currency: str) -> UUID:
    """Identifies one currency in transit: both sides of a movement between cells record the same id."""
    return derived_id(leg_id.saga_id, f"clearing/move/{leg_id.generation}/{currency}")


def _uncommitted(context: Context, user_id: UUID, event: AccountEvents, caused_by: UUID) -> UncommittedEvent:
    return UncommittedEvent(
        event_id=context.new_event_id(), aggregate=Ref(Kind.ACCOUNT, user_id), event=event, caused_by=caused_by
    )
