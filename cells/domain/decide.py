"""decide(command, view, context) -> events and an answer, or a refusal. Pure."""

from typing import assert_never
from uuid import UUID

from cells.domain import peer_rules
from cells.domain.account import ledger_rules
from cells.domain.account.barrier import direction_of
from cells.domain.auction import auction_rules
from cells.domain.audit import audit_rules
from cells.domain.commands import (
    ApplyLeg,
    CancelAuction,
    Capture,
    CloseAuction,
    Command,
    CompensateLeg,
    CompensateSaga,
    CreateAuction,
    Deposit,
    ExpireHold,
    FailSaga,
    MoveParty,
    OpenAccount,
    PauseSaga,
    PlaceBid,
    RebuildProjections,
    RecordAccesses,
    RecordLeg,
    RegisterAsset,
    Release,
    ReportMismatches,
    Reserve,
    ResumeSaga,
    SkipLeg,
    Transfer,
    Withdraw,
)
from cells.domain.decision import Context, Decision, View
from cells.domain.due import due_first
from cells.domain.moves import move_rules
from cells.domain.moves.commands import BeginMove
from cells.domain.refusals import AssetLocked, InsufficientFunds
from cells.domain.sagas import leg_rules, saga_orders, saga_rules, transfer_rules
from cells.domain.sagas.leg import LegResult


def decide(command: Command, view: View, context: Context) -> Decision:
    """The result of the command in the state that `view` shows, at the time of `context`.

    Raises:
        Refused: a rule refuses it; nothing happens.
    """
    try:
        return _decided(command, view, context)
    except (InsufficientFunds, AssetLocked) as refused:
        due = due_first(command, refused, view, context)
        if due is None:
            raise
    decision = _decided(command, due.view, context)
    decision.uncommitted[:0] = due.uncommitted
    return decision


def _decided(command: Command, view: View, context: Context) -> Decision:
    match command:
        case PlaceBid():
            return auction_rules.place_bid(command, view, context)
        case Deposit():
            return ledger_rules.deposit(command, view, context)
        case Withdraw():
            return ledger_rules.withdraw(command, view, context)
        case Transfer(to_cell=None):
            return ledger_rules.transfer(command, view, context)
        case Transfer():
            return transfer_rules.transfer(command, view, context)
        case Reserve():
            return ledger_rules.reserve(command, view, context)
        case Capture():
            return ledger_rules.capture(command, view, context)
        case Release():
            return ledger_rules.release(command, view, context)
        case ExpireHold():
            return ledger_rules.expire_hold(command, view, context)
        case OpenAccount():
            return ledger_rules.open_account(command, view, context)
        case RegisterAsset():
            return auction_rules.register_asset(command, view, context)
        case CreateAuction():
            return auction_rules.create_auction(command, view, context)
        case CloseAuction():
            return auction_rules.close_auction(command, view, context)
        case CancelAuction():
            return auction_rules.cancel_auction(command, view, context)
        case BeginMove():
            return move_rules.begin_move(command, view, context)
        case ApplyLeg() | CompensateLeg():
            return _take_leg(command, view, context)
        case RecordLeg() | SkipLeg() | FailSaga() | MoveParty():
            return saga_rules.progress_saga(command, view, context)
        case PauseSaga() | ResumeSaga() | CompensateSaga():
            return saga_orders.order_saga(command, view, context)
        case ReportMismatches() | RebuildProjections() | RecordAccesses():
            return audit_rules.record_audit(command, context)
        case _:
            assert_never(command)


def _take_leg(command: ApplyLeg | CompensateLeg, view: View, context: Context) -> Decision:
    """A leg's effect and, if this cell orchestrates the saga, its progress, in one decision."""
    peer_rules.require_askable(command, view, context)
    if isinstance(command, ApplyLeg):
        if command.orchestrator == context.cell:
            saga_rules.require_in_time(command.leg_id, view, context)
        decision = leg_rules.apply_leg(command, view, context)
    else:
        decision = leg_rules.compensate_leg(command, view, context)
    if command.orchestrator == context.cell:
        result, effect_id = LegResult(decision.result["result"]), UUID(decision.result["event_id"])
        news = RecordLeg(
            leg_id=command.leg_id, direction=direction_of(command), result=result.value, effect_id=effect_id
        )
        progress = saga_rules.leg_taken(news, view, context)
        decision.extend(progress.uncommitted)
        decision.endings.extend(progress.endings)
    return decision
