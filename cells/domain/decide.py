"""decide(command, view, context) -> events and an answer, or a refusal. Pure."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

from cells.domain import commands
from cells.domain import needs as pieces
from cells.domain.account import ledger_rules
from cells.domain.auction import auction_rules
from cells.domain.audit import audit_rules
from cells.domain.decision import Context, Decision, View
from cells.domain.due import due_first
from cells.domain.moves.commands import BeginMove
from cells.domain.needs import Loaded, Needs
from cells.domain.refusals import AssetLocked, InsufficientFunds
from cells.domain.sagas import leg_rules, remote_bid, saga_rules, transfer
from cells.domain.sagas.move import begin_move
from cells.domain.values import ACCOUNT, Ref


class Rule(NamedTuple):
    """How a command is decided, and which state it reads: both for one command, so that neither is forgotten."""

    decide: Callable[[Any, View, Context], Decision]
    needs: Needs


def needs(command: commands.Command, view: Loaded, cell: str) -> Iterator[Ref]:
    """The state that the command will read. Ask again after each load, since one piece may point at the next."""
    return RULES[type(command)].needs(command, view, cell)


def decide(command: commands.Command, view: View, context: Context) -> Decision:
    """The result of the command in the state that `view` shows, at the time of `context`.

    Raises:
        Refused: a rule refuses it; nothing happens.
    """
    rule = RULES[type(command)].decide
    try:
        return rule(command, view, context)
    except (InsufficientFunds, AssetLocked) as refused:
        due = due_first(command, refused, view, context)
        if due is None:
            raise
    decision = rule(command, due.view, context)
    decision.uncommitted[:0] = due.uncommitted
    return decision


def _place_bid(command: commands.PlaceBid, view: View, context: Context) -> Decision:
    """Decided in the bidder's home. A bid in a local auction is answered at once, in another cell's through a saga."""
    here = command.auction_cell == context.cell
    return (auction_rules.place_bid if here else remote_bid.place_remote_bid)(command, view, context)


def _transfer(command: commands.Transfer, view: View, context: Context) -> Decision:
    here = command.to_cell is None
    return (ledger_rules.transfer if here else transfer.remote_transfer)(command, view, context)


RULES: dict[type[commands.Command], Rule] = {
    commands.PlaceBid: Rule(_place_bid, pieces.bid),
    commands.Deposit: Rule(ledger_rules.deposit, pieces.paid_outside),
    commands.Withdraw: Rule(ledger_rules.withdraw, pieces.paid_outside),
    commands.Transfer: Rule(_transfer, pieces.transfer),
    commands.Reserve: Rule(ledger_rules.reserve, pieces.USER),
    commands.Capture: Rule(ledger_rules.capture, pieces.pieces(ACCOUNT, "user_id", "to_user_id")),
    commands.Release: Rule(ledger_rules.release, pieces.USER),
    commands.ExpireHold: Rule(ledger_rules.expire_hold, pieces.USER),
    commands.OpenAccount: Rule(ledger_rules.open_account, pieces.USER),
    commands.RegisterAsset: Rule(auction_rules.register_asset, pieces.pieces(ACCOUNT, "owner_id")),
    commands.CreateAuction: Rule(auction_rules.create_auction, pieces.asset_and_its_auction),
    commands.CloseAuction: Rule(auction_rules.close_auction, pieces.whole_auction),
    commands.CancelAuction: Rule(auction_rules.cancel_auction, pieces.whole_auction),
    BeginMove: Rule(begin_move, pieces.USER),
    commands.ApplyLeg: Rule(leg_rules.take_leg, pieces.leg),
    commands.CompensateLeg: Rule(leg_rules.take_leg, pieces.leg),
    **dict.fromkeys(get_args(commands.SagaProgress), Rule(saga_rules.progress_saga, pieces.progress)),
    **dict.fromkeys(get_args(commands.SagaOrder), Rule(saga_rules.order_saga, pieces.SAGA)),
    **dict.fromkeys(get_args(commands.AuditRecord), Rule(audit_rules.record_audit, pieces.NOTHING)),
}
