"""decide(command, view, context) -> events and an answer, or a refusal. Pure."""

from collections.abc import Callable
from typing import Any

from cells.domain.account import ledger_rules
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
from cells.domain.moves.commands import BeginMove
from cells.domain.refusals import AssetLocked, InsufficientFunds
from cells.domain.sagas import leg_rules, remote_bid, saga_rules, transfer
from cells.domain.sagas.move import begin_move

Rule = Callable[[Any, View, Context], Decision]


def decide(command: Command, view: View, context: Context) -> Decision:
    """The result of the command in the state that `view` shows, at the time of `context`.

    Raises:
        Refused: a rule refuses it; nothing happens.
    """
    rule = RULES[type(command)]
    try:
        return rule(command, view, context)
    except (InsufficientFunds, AssetLocked) as refused:
        due = due_first(command, refused, view, context)
        if due is None:
            raise
    decision = rule(command, due.view, context)
    decision.uncommitted[:0] = due.uncommitted
    return decision


def _place_bid(command: PlaceBid, view: View, context: Context) -> Decision:
    """Decided in the bidder's home. A bid in a local auction is answered at once, in another cell's through a saga."""
    here = command.auction_cell == context.cell
    return (auction_rules.place_bid if here else remote_bid.place_remote_bid)(command, view, context)


def _transfer(command: Transfer, view: View, context: Context) -> Decision:
    here = command.to_cell is None
    return (ledger_rules.transfer if here else transfer.remote_transfer)(command, view, context)


RULES: dict[type[Command], Rule] = {
    PlaceBid: _place_bid,
    Deposit: ledger_rules.deposit,
    Withdraw: ledger_rules.withdraw,
    Transfer: _transfer,
    Reserve: ledger_rules.reserve,
    Capture: ledger_rules.capture,
    Release: ledger_rules.release,
    ExpireHold: ledger_rules.expire_hold,
    OpenAccount: ledger_rules.open_account,
    RegisterAsset: auction_rules.register_asset,
    CreateAuction: auction_rules.create_auction,
    CloseAuction: auction_rules.close_auction,
    CancelAuction: auction_rules.cancel_auction,
    BeginMove: begin_move,
    ApplyLeg: leg_rules.take_leg,
    CompensateLeg: leg_rules.take_leg,
    RecordLeg: saga_rules.progress_saga,
    SkipLeg: saga_rules.progress_saga,
    FailSaga: saga_rules.progress_saga,
    MoveParty: saga_rules.progress_saga,
    PauseSaga: saga_rules.order_saga,
    ResumeSaga: saga_rules.order_saga,
    CompensateSaga: saga_rules.order_saga,
    ReportMismatches: audit_rules.record_audit,
    RebuildProjections: audit_rules.record_audit,
    RecordAccesses: audit_rules.record_audit,
}
