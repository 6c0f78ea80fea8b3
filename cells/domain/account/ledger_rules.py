"""Deposits, withdrawals, transfers and holds: their preconditions, and the events they become."""

from uuid import UUID

from cells.domain import commands, events, refusals
from cells.domain.account.account import Account, Balance, Hold
from cells.domain.decision import Context, Decision, View, account_of, require_here
from cells.domain.record import asdict
from cells.domain.results import BalanceAfter, HoldEnded, NewHold
from cells.domain.values import (
    ACCOUNT,
    AMOUNT_MAX_MINOR,
    BALANCE_MAX_MINOR,
    Money,
    Ref,
    carried_kind,
    reference_ref,
    require_near,
)

# Each command on an account writes the account with all its holds, and each hold with all its bids.
HOLDS_MAX = 500
BIDS_MAX = 20


def open_account(command: commands.OpenAccount, view: View, context: Context) -> Decision:
    account = view.account(command.user_id)
    if account is not None:
        require_here(account, command.user_id)
        raise refusals.AlreadyOpen(user_id=str(command.user_id))
    return Decision(
        uncommitted=[
            context.uncommitted(Ref(ACCOUNT, command.user_id), events.AccountOpened(home_epoch=command.home_epoch))
        ]
    )


def deposit(command: commands.Deposit, view: View, context: Context) -> Decision:
    account = account_of(view, command.user_id)
    _unused_reference(command, "deposit", account, view)
    require_room(account, command.amount)
    event = events.Deposited(
        **command.amount.fields,
        external_reference=command.external_reference,
    )
    return _on_account(account, command.user_id, event, context)


def withdraw(command: commands.Withdraw, view: View, context: Context) -> Decision:
    account = account_of(view, command.user_id)
    _unused_reference(command, "withdrawal", account, view)
    require_available(account, command.amount)
    event = events.Withdrawn(
        **command.amount.fields,
        external_reference=command.external_reference,
    )
    return _on_account(account, command.user_id, event, context)


def transfer(command: commands.Transfer, view: View, context: Context) -> Decision:
    if command.from_user_id == command.to_user_id:
        raise refusals.SameAccount(user_id=str(command.from_user_id))
    payer = account_of(view, command.from_user_id)
    payee = account_of(view, command.to_user_id)
    require_available(payer, command.amount)
    require_room(payee, command.amount)
    # Both parties see it, so it must not be the payer's command_id.
    transfer_id = context.derived_id("transfer")
    sent = events.TransferSent(
        transfer_id=transfer_id,
        to_user_id=command.to_user_id,
        **command.amount.fields,
    )
    decision = _on_account(payer, command.from_user_id, sent, context)
    _pay(decision, transfer_id, context, payee=command.to_user_id, payer=command.from_user_id, amount=command.amount)
    return decision


def reserve(command: commands.Reserve, view: View, context: Context) -> Decision:
    account = account_of(view, command.user_id)
    expires = command.expire_time_ms
    if expires is not None and expires <= context.now_ms:
        raise refusals.ExpireTimeInPast(expire_time_ms=expires, now_ms=context.now_ms)
    if expires is not None:
        require_near(expires, context.now_ms, field="expire_time_ms")
    require_available(account, command.amount)
    _require_room_for_hold(account)
    hold_id = context.derived_id("hold")
    event = events.FundsReserved(
        hold_id=hold_id,
        **command.amount.fields,
        expire_time_ms=expires,
    )
    return _on_account(account, command.user_id, event, context, NewHold, hold_id=hold_id)


def _require_room_for_hold(account: Account) -> None:
    if len(account.holds) >= HOLDS_MAX:
        raise refusals.TooManyHolds(open_count=len(account.holds), most=HOLDS_MAX)


def capture(command: commands.Capture, view: View, context: Context) -> Decision:
    account = account_of(view, command.user_id)
    hold = _own_hold(account, command.user_id, command.hold_id, context)
    if command.to_user_id == command.user_id:
        raise refusals.SameAccount(user_id=str(command.user_id))
    payee = account_of(view, command.to_user_id)
    wanted = hold.amount_minor if command.amount_minor is None else command.amount_minor
    if wanted > hold.amount_minor:
        raise refusals.CaptureTooLarge(amount_minor=wanted, hold_minor=hold.amount_minor, currency=hold.currency)
    amount = Money(hold.currency, wanted)
    require_room(payee, amount)
    captured = events.HoldCaptured(
        hold_id=command.hold_id,
        to_user_id=command.to_user_id,
        currency=hold.currency,
        amount_minor=wanted,
        released_minor=hold.amount_minor - wanted,
    )
    decision = _on_account(account, command.user_id, captured, context, HoldEnded, amount_minor=wanted)
    transfer_id = context.derived_id("transfer")
    _pay(decision, transfer_id, context, payee=command.to_user_id, payer=command.user_id, amount=amount)
    return decision


def release(command: commands.Release, view: View, context: Context) -> Decision:
    account = account_of(view, command.user_id)
    hold = _own_hold(account, command.user_id, command.hold_id, context)
    event = events.FundsReleased(hold_id=command.hold_id, currency=hold.currency, amount_minor=hold.amount_minor)
    return _on_account(account, command.user_id, event, context, HoldEnded, amount_minor=hold.amount_minor)


def expire_hold(command: commands.ExpireHold, view: View, context: Context) -> Decision:
    """Releases an expired hold; does nothing if it is gone, and returns the time to retry if it is early."""
    account = view.account(command.user_id)
    # A moving user takes the hold and its expiry along.
    hold = account.holds.get(command.hold_id) if account is not None else None
    if account is None or hold is None or hold.expire_time_ms is None:
        return Decision()
    if hold.expire_time_ms > context.now_ms:
        return Decision(due_ms=hold.expire_time_ms)
    event = events.FundsReleased(hold_id=command.hold_id, currency=hold.currency, amount_minor=hold.amount_minor)
    return _on_account(account, command.user_id, event, context)


def reserve_for_bid(
    account: Account,
    *,
    auction_id: UUID,
    auction_cell: str,
    bid_id: UUID,
    amount: Money,
    replaces_bid_id: UUID | None = None,
) -> events.FundsReserved:
    """Grows the auction's hold to cover the bid: a hold is the maximum over the bids it backs.

    Raises:
        InsufficientFunds: the difference is not available.
        HeldInAnotherCurrency: two currencies have no maximum. Only the auction's cell can tell which of two bids is
            in the wrong currency; if one hold covered both, releasing either could free money of the other.
        TooManyHolds, TooManyBids: the account would grow without limit.
        AuctionNotFound: the id is of a hold for an auction of another cell, or for no auction. A bid that changed the
            cell of a hold would void that auction's settlement.
    """
    hold = account.holds.get(auction_id)
    if hold is not None and not (hold.bids_minor and hold.auction_cell in {"", auction_cell}):
        raise refusals.AuctionNotFound(auction_id=str(auction_id), cell=auction_cell)
    if hold is not None and hold.currency != amount.currency:
        raise refusals.HeldInAnotherCurrency(
            auction_id=str(auction_id), expected=hold.currency, currency=amount.currency
        )
    if hold is None:
        _require_room_for_hold(account)
    elif replaces_bid_id is None and len(hold.bids_minor) >= BIDS_MAX:
        raise refusals.TooManyBids(auction_id=str(auction_id), open_count=len(hold.bids_minor), most=BIDS_MAX)
    held = 0 if hold is None else hold.amount_minor
    growth = max(0, amount.amount_minor - held)
    if growth:
        require_available(account, Money(amount.currency, growth))
    return events.FundsReserved(
        hold_id=auction_id,
        currency=amount.currency,
        amount_minor=growth,
        bid_id=bid_id,
        bid_minor=amount.amount_minor,
        replaces_bid_id=replaces_bid_id,
        auction_cell=auction_cell,
    )


def holds_bid(account: Account, auction_id: UUID, bid_id: UUID) -> bool:
    hold = account.holds.get(auction_id)
    return hold is not None and bid_id in hold.bids_minor


def release_bid(account: Account, *, auction_id: UUID, bid_id: UUID, currency: str) -> events.FundsReleased:
    """Frees money that only this bid held: nothing if the bid is already resolved or larger ones are open.

    It uses the hold's own currency, whichever one is given: with another one it would free money that backs something
    else.
    """
    hold = account.holds.get(auction_id)
    freed = 0
    if hold is not None and bid_id in hold.bids_minor:
        still_needed = max((amount for bid, amount in hold.bids_minor.items() if bid != bid_id), default=0)
        freed = max(0, hold.amount_minor - still_needed)
        currency = hold.currency
    return events.FundsReleased(hold_id=auction_id, currency=currency, amount_minor=freed, bid_id=bid_id)


def require_available(account: Account, amount: Money) -> None:
    available = account.balance(amount.currency).available_minor
    if available < amount.amount_minor:
        raise refusals.InsufficientFunds(
            needed_minor=amount.amount_minor, available_minor=available, currency=amount.currency
        )


def require_room(account: Account, amount: Money) -> None:
    """For incoming money: it may use half of the 64-bit range, so that money sent to another cell can come back.

    Counts all buckets, because money may later move between the account's buckets.
    """
    _require_room(account, amount, BALANCE_MAX_MINOR)


def require_room_to_return(account: Account, amount: Money) -> None:
    """For returning money: no bucket may exceed 64 bits."""
    _require_room(account, amount, AMOUNT_MAX_MINOR)


def _require_room(account: Account, amount: Money, most_minor: int) -> None:
    if account.balance(amount.currency).total_minor + amount.amount_minor > most_minor:
        raise refusals.BalanceOverflow(amount_minor=amount.amount_minor, currency=amount.currency)


def balance_after(
    balance: Balance, currency: str, result: type[BalanceAfter] = BalanceAfter, **more: UUID | int
) -> BalanceAfter:
    return result(currency=currency, **asdict(balance) | more)


def _own_hold(account: Account, user_id: UUID, hold_id: UUID, context: Context) -> Hold:
    """Raises HoldExpired if it has expired, whether or not its timer has fired."""
    hold = account.holds.get(hold_id)
    if hold is None:
        raise refusals.HoldNotFound(user_id=str(user_id), hold_id=str(hold_id))
    if hold.bids_minor:
        raise refusals.HoldBacksBids(hold_id=str(hold_id))
    if hold.expire_time_ms is not None and hold.expire_time_ms <= context.now_ms:
        raise refusals.HoldExpired(hold_id=str(hold_id), expire_time_ms=hold.expire_time_ms, now_ms=context.now_ms)
    return hold


def _unused_reference(command: commands.Deposit | commands.Withdraw, kind: str, account: Account, view: View) -> None:
    """Checks that neither this cell, nor this user in an earlier home, has used the reference."""
    kinds = (kind, carried_kind(kind, command.user_id)) if account.earlier_homes else (kind,)
    if any(view.reference(reference_ref(each, command.external_reference)) is not None for each in kinds):
        raise refusals.ExternalReferenceUsed(kind=kind, external_reference=command.external_reference)


def _on_account(
    account: Account,
    user_id: UUID,
    event: events.AccountEvents,
    context: Context,
    result: type[BalanceAfter] = BalanceAfter,
    **more: UUID | int,
) -> Decision:
    """One event in the user's stream, answered with the balance after it."""
    decision, movement = Decision(uncommitted=[context.uncommitted(Ref(ACCOUNT, user_id), event)]), event.movement()
    if movement is not None:
        after = account.balance(movement.currency).moved(movement)
        decision.result = balance_after(after, movement.currency, result, **more)
    return decision


def _pay(decision: Decision, transfer_id: UUID, context: Context, *, payee: UUID, payer: UUID, amount: Money) -> None:
    received = events.TransferReceived(
        transfer_id=transfer_id,
        from_user_id=payer,
        **amount.fields,
    )
    decision.uncommitted.append(context.uncommitted(Ref(ACCOUNT, payee), received, decision.uncommitted[0].event_id))
