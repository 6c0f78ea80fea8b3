"""The actions that another cell may request: a cell is believed only about itself (docs/security.md).

It may pin, take and release bids in its own auctions; credit sales, and settle or take back its own credits; bid, pay
and move users in its own name. The cell that drives a saga takes all other legs itself.
"""

from cells.domain.account.barrier import LegCommand, barrier_of
from cells.domain.audit.claim_refusals import ForeignLeg
from cells.domain.commands import (
    ApplyLeg,
    CreditPending,
    LegAction,
    NotifyParty,
    PinHold,
    ReceiveTransfer,
    ReleaseBid,
    SendToEscrow,
    SettlePending,
    SubmitBid,
)
from cells.domain.decision import Context, View
from cells.domain.moves.commands import ArriveUser
from cells.domain.values import LegId

CREDIT, SETTLE = "credit-in", "settle"
# The actions that may be requested from outside, and the names of their legs: each effect has one name.
LEGS: dict[type[LegAction], tuple[str, ...]] = {
    PinHold: ("pin",),
    SendToEscrow: ("escrow-out",),
    CreditPending: (CREDIT,),
    SettlePending: (SETTLE,),
    NotifyParty: ("notify-winner", "notify-seller", "notify"),
    SubmitBid: ("submit",),
    ReleaseBid: ("release",),
    ReceiveTransfer: ("receive",),
    ArriveUser: ("arrive",),
}


def require_own_word(command: LegCommand, cell: str) -> None:
    """Checks that need only the leg itself. Raises ForeignLeg."""
    action = command.action
    if command.orchestrator == cell:
        return
    if command.leg_id.leg not in LEGS.get(type(action), ()):
        raise _foreign(command, "a cell takes this leg of its own sagas alone")
    field, claimed = _claimed(action)
    if claimed not in {None, command.orchestrator}:
        raise _foreign(command, f"{field} must be the cell that asks, not {claimed!r}")


def require_askable(command: LegCommand, view: View, context: Context) -> None:
    """Raises ForeignLeg for an action that the calling cell may not request. A cell may request anything of itself."""
    require_own_word(command, context.cell)
    if command.orchestrator == context.cell:
        return
    match action := command.action:
        case PinHold() | SendToEscrow() | ReleaseBid():
            _require_own_auction(command, action, view)
        case SettlePending():
            _require_credited(command, action, view, context)
        case CreditPending() if not isinstance(command, ApplyLeg):
            _require_not_settled(command, action, view, context)
        case _:
            pass


def _claimed(action: LegAction) -> tuple[str, str | None]:
    """The field that names the requesting cell, and its value."""
    match action:
        case SendToEscrow():
            return "to_cell", action.to_cell
        case CreditPending() | ReceiveTransfer() | ArriveUser():
            return "from_cell", action.from_cell
        case SubmitBid():
            return "bidder_cell", action.bidder_cell
        case NotifyParty():
            return "the cell of auction", action.auction.split("/")[1]
        case _:
            return "orchestrator", None


def _require_own_auction(command: LegCommand, action: PinHold | SendToEscrow | ReleaseBid, view: View) -> None:
    account = view.account(action.user_id)
    hold = account.holds.get(action.auction_id) if account is not None else None
    # Empty: reserved before holds stored the cell of their auction.
    if hold is not None and hold.auction_cell not in {"", command.orchestrator}:
        raise _foreign(command, f"the hold is for an auction of {hold.auction_cell}")


def _require_credited(command: LegCommand, action: SettlePending, view: View, context: Context) -> None:
    credit = barrier_of(credit_of(command, action), view, context.cell)
    if isinstance(command, ApplyLeg) and (credit.action is None or credit.compensation is not None):
        raise _foreign(command, "this saga has credited no such sale, or has taken it back")


def _require_not_settled(command: LegCommand, action: CreditPending, view: View, context: Context) -> None:
    if barrier_of(settle_of(command, action), view, context.cell).action is not None:
        raise _foreign(command, "the sale is settled")


def credit_of(command: LegCommand, action: SettlePending) -> ApplyLeg:
    """The leg that credited the sale to be settled. Its amount and ids are not compared."""
    credited = CreditPending(
        user_id=action.user_id,
        auction_id=action.auction_id,
        amount=action.amount,
        from_cell=command.orchestrator,
        clearing_id=command.leg_id.saga_id,
    )
    return ApplyLeg(leg_id=_named(command, CREDIT), action=credited, orchestrator=command.orchestrator)


def settle_of(command: LegCommand, action: CreditPending) -> ApplyLeg:
    settled = SettlePending(user_id=action.user_id, auction_id=action.auction_id, amount=action.amount, fee_minor=0)
    return ApplyLeg(leg_id=_named(command, SETTLE), action=settled, orchestrator=command.orchestrator)


def _named(command: LegCommand, leg: str) -> LegId:
    return command.leg_id._replace(leg=leg)


def _foreign(command: LegCommand, problem: str) -> ForeignLeg:
    return ForeignLeg(orchestrator=command.orchestrator, leg=command.leg_id.leg, problem=problem)
