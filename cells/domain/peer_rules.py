"""The actions that another cell may request: a cell is believed only about itself (docs/security.md).

It may pin, take and release bids in its own auctions; credit sales, and settle or take back its own credits; bid, pay
and move users in its own name. The cell that drives a saga takes all other legs itself.
"""

from cells.domain.account.barrier import LegCommand
from cells.domain.audit.refusals import ForeignLeg
from cells.domain.commands import NotifyParty, PinHold, ReleaseBid, SendToEscrow
from cells.domain.decision import Context, View
from cells.domain.sagas.definition import EFFECTS, leg_names


def require_own_word(command: LegCommand, cell: str) -> None:
    """Checks that need only the leg itself. Raises ForeignLeg."""
    action, effect = command.action, EFFECTS[type(command.action)]
    if command.orchestrator == cell:
        return
    # Each effect has one name, in whatever saga.
    if not effect.foreign or command.leg_id.leg not in leg_names(effect):
        raise foreign_leg(command, "a cell takes this leg of its own sagas alone")
    if isinstance(action, NotifyParty):
        field, claimed = "the cell of auction", action.auction.split("/")[1]
    else:
        field, claimed = effect.claims, getattr(action, effect.claims, command.orchestrator)
    if claimed != command.orchestrator:
        raise foreign_leg(command, f"{field} must be the cell that asks, not {claimed!r}")


def require_askable(command: LegCommand, view: View, context: Context) -> None:
    """Raises ForeignLeg for an action that the calling cell may not request. A cell may request anything of itself."""
    require_own_word(command, context.cell)
    askable = EFFECTS[type(command.action)].askable
    if askable is not None and command.orchestrator != context.cell:
        askable(command, view, context)


def require_own_auction(command: LegCommand, view: View, _: Context) -> None:
    action = command.action
    if isinstance(action, PinHold | SendToEscrow | ReleaseBid):
        account = view.account(action.user_id)
        hold = account.holds.get(action.auction_id) if account is not None else None
        # Empty: reserved before holds stored the cell of their auction.
        if hold is not None and hold.auction_cell not in {"", command.orchestrator}:
            raise foreign_leg(command, f"the hold is for an auction of {hold.auction_cell}")


def foreign_leg(command: LegCommand, problem: str) -> ForeignLeg:
    return ForeignLeg(orchestrator=command.orchestrator, leg=command.leg_id.leg, problem=problem)
