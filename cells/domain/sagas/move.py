"""A user's move to another cell: announced, closed, departed, arrived there, left; called off before the arrival.

The arrival is the pivot: from that commit on the new home decides for the user, under a higher epoch. Everything in
flight moves along. Holds, pinned or not, are part of the account. A leg that was taken at the old home, and a reference
that was used up there, are found in the history copy (cells/moves/marks.py). A cell that later calls the old home for a
leg is redirected to the new one. The user's own flows into other cells (a bid, a transfer) end before the departure.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NoReturn
from uuid import UUID

from cells.domain.account.account import Account
from cells.domain.account.balance import Balance, Move
from cells.domain.decision import Context, Decision, UncommittedEvent, View, account_of, require_here
from cells.domain.events import AccountEvents
from cells.domain.moves import commands, events, refusals
from cells.domain.refusals import FieldInvalid, UserNotFound
from cells.domain.results import UserMove
from cells.domain.sagas.definition import Effect, Flow, LegContext, LegSpec, SagaDefinition, SagaKind
from cells.domain.sagas.saga_events import MoveFacts
from cells.domain.sagas.saga_start import started_with
from cells.domain.values import ACCOUNT, LegId, Ref, derived_id


def begin_move(command: commands.BeginMove, view: View, context: Context) -> Decision:
    account = view.account(command.user_id)
    if account is None:
        raise UserNotFound(user_id=str(command.user_id))
    # Between departure and arrival nothing is refused for good: an outcome stored here then would not move along.
    require_here(account, command.user_id)
    if account.move is not None:
        move = account.move
        raise refusals.MoveUnderWay(user_id=str(command.user_id), to_cell=move.to_cell, saga_id=str(move.saga_id))
    if command.from_epoch not in {None, account.home_epoch}:
        raise refusals.HomeChanged(
            user_id=str(command.user_id),
            cell=context.cell,
            epoch=account.home_epoch,
            from_epoch=str(command.from_epoch),
        )
    if command.to_cell == context.cell:
        raise refusals.AlreadyAtHome(user_id=str(command.user_id), cell=context.cell)
    saga_id = move_saga_id(command.user_id, account.home_epoch, context)
    facts = MoveFacts(
        user_id=command.user_id,
        from_cell=context.cell,
        to_cell=command.to_cell,
        epoch=account.home_epoch + 1,
        region=command.region,
        command_id=context.command_id,
    )
    announced = events.AccountMoveAnnounced(
        saga_id=saga_id, from_cell=context.cell, to_cell=command.to_cell, epoch=facts.epoch, flows_go_on=True
    )
    uncommitted = started_with(
        facts,
        saga_id,
        context,
        deadline_ms=context.now_ms + context.policy.move_copy_ms,
        leg="announce",
        aggregate=Ref(ACCOUNT, command.user_id),
        effect=announced,
    )
    result = move_result(facts.to_cell, facts.epoch, saga_id)
    return Decision(uncommitted=uncommitted, result=result, awaits_saga=saga_id)


def move_saga_id(user_id: UUID, from_epoch: int, context: Context) -> UUID:
    """Every home has an epoch of its own, so the same command in another home begins no saga with the same id.

    Nor does another operator's command. The router's name is not part of it: the next router derives the same id, and
    no other sender has the ids of a router's commands.
    """
    command = context.command if context.principal.startswith("operator/") else context.command_id
    return derived_id(user_id, f"move/{from_epoch}/{command}")


def move_result(to_cell: str, epoch: int, saga_id: UUID) -> UserMove:
    return UserMove(saga_id=saga_id, cell=to_cell, epoch=str(epoch))


def _answer(flow: Flow, _: View) -> UserMove:
    return move_result(flow.facts.to_cell, flow.facts.epoch, flow.saga_id)


def deadline_after(leg: str, context: Context) -> int | None:
    """Set when the user first has to wait for something: then the time is short. None: the deadline is unchanged."""
    return context.now_ms + context.policy.move_valid_ms if leg == "close" else None


# --- the legs ---------------------------------------------------------------------------------------------------------


def _announce(action: commands.AnnounceMove, _: LegContext) -> events.AccountMoveAnnounced:
    _not_asked(action)


def _call_off(_: commands.AnnounceMove, at: LegContext) -> events.AccountMoveCalledOff:
    return events.AccountMoveCalledOff(saga_id=at.leg_id.saga_id)


def _stop_flows(action: commands.StopFlows, at: LegContext) -> events.AccountFlowsStopped:
    _moving(account_of(at.view, action.user_id), at)
    return events.AccountFlowsStopped(saga_id=at.leg_id.saga_id, to_cell=action.to_cell)


def _resume_flows(_: commands.StopFlows, at: LegContext) -> events.AccountFlowsResumed:
    return events.AccountFlowsResumed(saga_id=at.leg_id.saga_id)


def _depart(action: commands.DepartUser, at: LegContext) -> events.AccountDeparted:
    _moving(account_of(at.view, action.user_id), at)
    return events.AccountDeparted(saga_id=at.leg_id.saga_id, to_cell=action.to_cell)


def _return(action: commands.DepartUser, at: LegContext) -> events.AccountReturned:
    return events.AccountReturned(saga_id=at.leg_id.saga_id, holds=_moving(at.view.account(action.user_id), at).holds)


def _leave(action: commands.LeaveUser, at: LegContext) -> events.AccountLeft:
    _moving(at.view.account(action.user_id), at)
    return events.AccountLeft(saga_id=at.leg_id.saga_id, to_cell=action.to_cell, epoch=action.epoch)


def _tell(action: commands.TellHome, _: LegContext) -> NoReturn:
    _not_asked(action)


def _not_asked(action: commands.AnnounceMove | commands.TellHome) -> NoReturn:
    """The announcement comes with the saga's start, and the directory is told by the saga's own cell."""
    raise TypeError(f"no cell is asked for {type(action).__name__}")


def _moving(account: Account | None, at: LegContext) -> Move:
    if account is None or account.move is None or account.move.saga_id != at.leg_id.saga_id:
        raise TypeError(f"saga {at.leg_id.saga_id} is not the one that moves the user")
    return account.move


def _arrive(action: commands.ArriveUser, at: LegContext) -> events.AccountArrived:
    _require_backed(action)
    account, cell = at.view.account(action.user_id), at.context.cell
    if account is not None:
        if account.move is None or not account.has_left:
            raise refusals.AlreadyAtHome(user_id=str(action.user_id), cell=cell)
        if action.epoch <= account.move.epoch:
            raise refusals.HomeOutdated(
                user_id=str(action.user_id), cell=cell, known=account.move.epoch, epoch=action.epoch
            )
    return events.AccountArrived(
        saga_id=at.leg_id.saga_id,
        from_cell=action.from_cell,
        epoch=action.epoch,
        holds=action.holds,
        earlier_homes=action.earlier_homes,
        history=action.history,
        home_since_ms=at.context.now_ms,
    )


def _require_backed(action: commands.ArriveUser) -> None:
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


# --- the balances, in the commits of departure, return and arrival ----------------------------------------------------


def _balances_depart(action: commands.DepartUser, at: LegContext, caused_by: UUID) -> Iterator[UncommittedEvent]:
    balances, event = (
        account_of(at.view, action.user_id).balances,
        partial(events.BalanceDeparted, to_cell=action.to_cell),
    )
    return _amounts(action.user_id, balances, at, event, caused_by)


def _balances_return(action: commands.DepartUser, at: LegContext, caused_by: UUID) -> Iterator[UncommittedEvent]:
    balances = _moving(at.view.account(action.user_id), at).balances
    return _amounts(action.user_id, balances, at, partial(events.BalanceReturned, from_cell=action.to_cell), caused_by)


def _balances_arrive(action: commands.ArriveUser, at: LegContext, caused_by: UUID) -> Iterator[UncommittedEvent]:
    event = partial(events.BalanceArrived, from_cell=action.from_cell)
    return _amounts(action.user_id, action.balances, at, event, caused_by)


def _amounts(
    user_id: UUID,
    balances: Mapping[str, Balance],
    at: LegContext,
    event: Callable[..., AccountEvents],
    caused_by: UUID,
) -> Iterator[UncommittedEvent]:
    """An event for each currency with an amount: without a movement there is no posting."""
    for currency, balance in sorted(balances.items()):
        if balance.total_minor:
            amounts = event(
                saga_id=at.leg_id.saga_id,
                currency=currency,
                available_minor=balance.available_minor,
                reserved_minor=balance.reserved_minor,
                pending_minor=balance.pending_minor,
                clearing_id=clearing_id(at.leg_id, currency),
            )
            yield at.context.uncommitted(Ref(ACCOUNT, user_id), amounts, caused_by)


def clearing_id(leg_id: LegId, currency: str) -> UUID:
    """Identifies one currency in transit: both sides of a movement between cells record the same id."""
    return derived_id(leg_id.saga_id, f"clearing/move/{leg_id.generation}/{currency}")


# --- the declaration --------------------------------------------------------------------------------------------------

DEPARTED = Effect(
    action=commands.DepartUser, apply=_depart, undo=_return, further=_balances_depart, further_undone=_balances_return
)
ARRIVED = Effect(action=commands.ArriveUser, apply=_arrive, further=_balances_arrive, foreign=True, claims="from_cell")

ANNOUNCE = LegSpec(
    leg="announce", at="from_cell", effect=Effect(action=commands.AnnounceMove, apply=_announce, undo=_call_off)
)
# The history is copied before it.
CLOSE = LegSpec(
    leg="close", at="from_cell", effect=Effect(action=commands.StopFlows, apply=_stop_flows, undo=_resume_flows)
)
FROM_DEPARTURE = (
    LegSpec(leg="depart", at="from_cell", effect=DEPARTED),
    LegSpec(leg="arrive", at="to_cell", effect=ARRIVED, pivot=True),
    LegSpec(leg="leave", at="from_cell", effect=Effect(action=commands.LeaveUser, apply=_leave)),
    LegSpec(
        leg="tell", at="directory", effect=Effect(action=commands.TellHome, apply=_tell), given={"cell": "to_cell"}
    ),
)
MOVE = SagaDefinition(
    kind=SagaKind.MOVE,
    title="move of a user to another cell",
    facts=MoveFacts,
    # In version 1 everything was copied after the announcement.
    versions={1: (ANNOUNCE, *FROM_DEPARTURE), 2: (ANNOUNCE, CLOSE, *FROM_DEPARTURE)},
    party="user_id",
    answer=_answer,
    expired=refusals.MoveExpired,
)
