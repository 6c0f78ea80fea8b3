"""Assets and auctions: registering, opening, bidding, closing and cancelling."""

from collections.abc import Iterator
from uuid import UUID

from cells.domain import commands, events, refusals
from cells.domain.account.account import Account, evolve_account
from cells.domain.account.ledger_rules import release_bid, reserve_for_bid
from cells.domain.auction.auction import Auction, AuctionState, Bid
from cells.domain.decision import (
    Context,
    Decision,
    UncommittedEvent,
    View,
    account_of,
    require_here,
)
from cells.domain.results import Closed, NewAsset, NewAuction, NewBid, Sold
from cells.domain.sagas.saga_events import ReleaseFacts, SettlementFacts
from cells.domain.sagas.saga_start import started
from cells.domain.values import ACCOUNT, AMOUNT_MAX_MINOR, AUCTION, Kind, Money, Ref, derived_id, require_near

BASIS_POINTS = 10_000


def register_asset(command: commands.RegisterAsset, view: View, context: Context) -> Decision:
    owner = view.account(command.owner_id)
    if owner is not None and command.owner_cell == context.cell:
        # Decided after the departure, its outcome would not move along: sent again there, it would be another asset.
        require_here(owner, command.owner_id)
    asset_id = context.derived_id("asset")
    event = events.AssetRegistered(
        owner_id=command.owner_id, owner_cell=command.owner_cell, description=command.description
    )
    uncommitted = context.uncommitted(Ref(Kind.ASSET, asset_id), event)
    return Decision(uncommitted=[uncommitted], result=NewAsset(asset_id=asset_id))


def create_auction(command: commands.CreateAuction, view: View, context: Context) -> Decision:
    asset = view.asset(command.asset_id)
    if asset is None:
        raise refusals.AssetNotFound(asset_id=str(command.asset_id), cell=context.cell)
    if asset.owner_id != command.seller_id:
        raise refusals.NotTheOwner(asset_id=str(command.asset_id), user_id=str(command.seller_id))
    if asset.locked_by is not None:
        raise refusals.AssetLocked(asset_id=str(command.asset_id), auction_id=str(asset.locked_by))
    if command.end_time_ms <= context.now_ms:
        raise refusals.EndTimeInPast(end_time_ms=command.end_time_ms, now_ms=context.now_ms)
    require_near(command.end_time_ms, context.now_ms, field="end_time_ms")
    auction_id = context.derived_id("auction")
    created = events.AuctionCreated(
        asset_id=command.asset_id,
        seller_id=command.seller_id,
        seller_cell=asset.owner_cell,
        currency=command.opening.currency,
        opening_minor=command.opening.amount_minor,
        increment_minor=command.increment_minor,
        end_time_ms=command.end_time_ms,
        extension_ms=command.extension_ms,
        settlement_timeout_ms=command.settlement_timeout_ms or context.policy.settlement_timeout_ms,
    )
    opened = context.uncommitted(Ref(AUCTION, auction_id), created)
    locked = context.uncommitted(
        Ref(Kind.ASSET, command.asset_id), events.AssetLockTaken(auction_id=auction_id), opened.event_id
    )
    return Decision(uncommitted=[opened, locked], result=NewAuction(auction_id=auction_id))


def place_bid(command: commands.PlaceBid, view: View, context: Context) -> Decision:
    """In an auction of this cell, by a user who is at home here."""
    account = account_of(view, command.bidder_id)
    auction = auction_of(view, command.auction_id, context)
    bid = bid_of(command, bid_id_of(command, context), context.cell)
    require_acceptable(auction, command.auction_id, bid, command.amount.currency, context)
    outbid = auction.highest_bid
    own = outbid is not None and outbid.is_replaced_by(bid)
    reserved = reserve_for_bid(
        account,
        auction_id=command.auction_id,
        auction_cell=context.cell,
        bid_id=bid.bid_id,
        amount=Money(command.amount.currency, bid.limit_minor),
        replaces_bid_id=outbid.bid_id if outbid is not None and own else None,
    )
    placed = context.uncommitted(Ref(AUCTION, command.auction_id), bid_placed(auction, bid, context))
    decision = Decision(uncommitted=[placed], result=NewBid(bid_id=bid.bid_id))
    decision.uncommitted.append(context.uncommitted(Ref(ACCOUNT, command.bidder_id), reserved, placed.event_id))
    if outbid is not None and not own:
        auction_id, placed_id = command.auction_id, placed.event_id
        decision.extend(after_bid(auction, auction_id, bid, view, context, placed_id=placed_id, reserved=reserved))
    return decision


def close_auction(command: commands.CloseAuction, view: View, context: Context) -> Decision:
    """Ends bidding. If there is a winner, the settlement starts in the same commit."""
    auction = auction_of(view, command.auction_id, context)
    if not command.by_command and auction.state is not AuctionState.ACTIVE:
        return Decision()
    if not command.by_command and context.now_ms < auction.end_time_ms:
        return Decision(due_ms=auction.end_time_ms)
    if auction.state is not AuctionState.ACTIVE:
        raise refusals.AuctionNotActive(auction_id=str(command.auction_id), state=auction.state.value)
    winner = auction.highest_bid
    saga_id = None if winner is None else derived_id(command.auction_id, "settlement")
    closed = events.AuctionClosed(
        # A close after the end does not count as the reason: the time had already closed it.
        closed_by="COMMAND" if context.now_ms < auction.end_time_ms else "TIME",
        winning_bid_id=winner.bid_id if winner else None,
        winner_id=winner.bidder_id if winner else None,
        winner_cell=winner.bidder_cell if winner else None,
        currency=auction.currency,
        price_minor=winner.amount_minor if winner else None,
        saga_id=saga_id,
    )
    close = context.uncommitted(Ref(AUCTION, command.auction_id), closed)
    decision = Decision(uncommitted=[close])
    if winner is None or saga_id is None:
        decision.uncommitted.append(_unlock(auction, command.auction_id, context, close.event_id))
        decision.result = Closed(state=AuctionState.UNSOLD)
        return decision
    decision.uncommitted.append(
        _settlement(auction, command.auction_id, winner, saga_id, context, caused_by=close.event_id)
    )
    decision.result = Sold(
        state=AuctionState.SETTLING,
        bid_id=winner.bid_id,
        bidder_id=winner.bidder_id,
        bidder_cell=winner.bidder_cell,
        currency=auction.currency,
        amount_minor=winner.amount_minor,
        saga_id=saga_id,
    )
    return decision


def cancel_auction(command: commands.CancelAuction, view: View, context: Context) -> Decision:
    auction = auction_of(view, command.auction_id, context)
    if not auction.is_active(context.now_ms):
        raise _not_active(auction, command.auction_id)
    leading = auction.highest_bid
    cancelled = events.AuctionCancelled(released_bid_id=leading.bid_id if leading else None)
    cancel = context.uncommitted(Ref(AUCTION, command.auction_id), cancelled)
    uncommitted = [cancel, _unlock(auction, command.auction_id, context, cancel.event_id)]
    if leading is not None:
        account = _account_of(leading, view, context)
        uncommitted.append(_free_bid(leading, account, command.auction_id, auction, context, caused_by=cancel.event_id))
    return Decision(uncommitted=uncommitted)


def auction_of(view: View, auction_id: UUID, context: Context) -> Auction:
    auction = view.auction(auction_id)
    if auction is None:
        raise refusals.AuctionNotFound(auction_id=str(auction_id), cell=context.cell)
    return auction


def require_acceptable(auction: Auction, auction_id: UUID, bid: Bid, currency: str, context: Context) -> None:
    """The auction's own checks of a bid, wherever its bidder lives."""
    if not auction.is_active(context.now_ms):
        raise _not_active(auction, auction_id)
    if bid.bidder_id == auction.seller_id:
        raise refusals.BidOnOwnAuction(auction_id=str(auction_id))
    if currency != auction.currency:
        raise refusals.WrongCurrency(auction_id=str(auction_id), expected=auction.currency, currency=currency)
    least = auction.least_bid_minor(bid)
    if bid.limit_minor < least or least > AMOUNT_MAX_MINOR:
        raise refusals.BidTooLow(amount_minor=bid.limit_minor, least_minor=least, currency=currency)


def _not_active(auction: Auction, auction_id: UUID) -> refusals.AuctionNotActive:
    state = "ENDED" if auction.state is AuctionState.ACTIVE else auction.state.value
    return refusals.AuctionNotActive(auction_id=str(auction_id), state=state)


def bid_of(command: commands.PlaceBid | commands.SubmitBid, bid_id: UUID, cell: str) -> Bid:
    """Raises FieldInvalid if the maximum is none of the bid."""
    currency, amount_minor = command.amount
    maximum = command.maximum
    if maximum is not None and maximum.currency != currency:
        problem = f"must be the bid's, {currency}"
        raise refusals.FieldInvalid(field="maximum.currency", problem=problem, value=maximum.currency)
    if maximum is not None and maximum.amount_minor < amount_minor:
        raise refusals.FieldInvalid(
            field="maximum.amount_minor", problem=f"is less than the bid, {amount_minor}", value=maximum.amount_minor
        )
    return Bid(
        bid_id=bid_id,
        bidder_id=command.bidder_id,
        bidder_cell=cell,
        amount_minor=amount_minor,
        maximum_minor=None if maximum is None else maximum.amount_minor,
    )


def bid_placed(auction: Auction, bid: Bid, context: Context) -> events.BidPlaced:
    return _bid_event(events.BidPlaced, auction, auction.standing(bid), context)


def _bid_event(kind: type[events.BidPlaced], auction: Auction, bid: Bid, context: Context) -> events.BidPlaced:
    return kind(
        bid_id=bid.bid_id,
        bidder_id=bid.bidder_id,
        bidder_cell=bid.bidder_cell,
        currency=auction.currency,
        amount_minor=bid.amount_minor,
        end_time_ms=auction.end_after(bid, context.now_ms),
        maximum_minor=bid.maximum_minor,
    )


def after_bid(
    auction: Auction,
    auction_id: UUID,
    bid: Bid,
    view: View,
    context: Context,
    *,
    placed_id: UUID,
    reserved: events.FundsReserved | None = None,
) -> Iterator[UncommittedEvent]:
    """The bid that no longer leads is released: the one before, or `bid` itself if the leader's maximum answers it.

    `reserved`: the event of the same decision that reserves the money of `bid`, if its bidder is at home here.
    """
    leading, raised = auction.highest_bid, auction.answer_to(bid)
    if raised is not None:
        event = _bid_event(events.BidRaised, auction, raised, context)
        answer = context.uncommitted(Ref(AUCTION, auction_id), event, placed_id)
        yield answer
        account = _account_of(bid, view, context)
        if account is not None and reserved is not None:
            account = evolve_account(account, reserved)
        yield _free_bid(bid, account, auction_id, auction, context, caused_by=answer.event_id)
    elif leading is not None:
        account = _account_of(leading, view, context)
        yield _free_bid(leading, account, auction_id, auction, context, caused_by=placed_id)


def _account_of(bid: Bid, view: View, context: Context) -> Account | None:
    """The bidder's account, if it is here."""
    return view.account(bid.bidder_id) if bid.bidder_cell == context.cell else None


def _free_bid(
    bid: Bid, account: Account | None, auction_id: UUID, auction: Auction, context: Context, *, caused_by: UUID
) -> UncommittedEvent:
    """Releases a bid that no longer leads: here at once, in another cell by a durable one-step saga.

    The saga also serves a bidder who has moved since, or is about to: it finds the new home.
    """
    if account is not None and account.is_here:
        event = release_bid(
            account,
            auction_id=auction_id,
            bid_id=bid.bid_id,
            currency=auction.currency,
        )
        return context.uncommitted(Ref(ACCOUNT, bid.bidder_id), event, caused_by)
    # Not derived from the bid's id, which its cell may use twice, but from what outbids it, however often.
    saga_id = derived_id(caused_by, "release")
    facts = ReleaseFacts(
        auction_id=auction_id,
        auction_cell=context.cell,
        bid_id=bid.bid_id,
        bidder_id=bid.bidder_id,
        bidder_cell=bid.bidder_cell,
        currency=auction.currency,
    )
    return started(facts, saga_id, context, deadline_ms=None, caused_by=caused_by)


def _settlement(
    auction: Auction, auction_id: UUID, winner: Bid, saga_id: UUID, context: Context, *, caused_by: UUID
) -> UncommittedEvent:
    facts = SettlementFacts(
        auction_id=auction_id,
        asset_id=auction.asset_id,
        bid_id=winner.bid_id,
        winner_id=winner.bidder_id,
        winner_cell=winner.bidder_cell,
        seller_id=auction.seller_id,
        seller_cell=auction.seller_cell,
        auction_cell=context.cell,
        currency=auction.currency,
        amount_minor=winner.amount_minor,
        fee_minor=winner.amount_minor * context.policy.fee_bps // BASIS_POINTS,
    )
    deadline_ms = context.now_ms + auction.settlement_timeout_ms
    return started(facts, saga_id, context, deadline_ms=deadline_ms, caused_by=caused_by)


def _unlock(auction: Auction, auction_id: UUID, context: Context, caused_by: UUID) -> UncommittedEvent:
    unlocked = events.AssetLockReleased(auction_id=auction_id)
    return context.uncommitted(Ref(Kind.ASSET, auction.asset_id), unlocked, caused_by)


def bid_id_of(command: commands.PlaceBid, context: Context) -> UUID:
    # Derived from the bidder's id: two bidders in two cells may use the same command_id.
    return derived_id(command.bidder_id, f"bid/{context.command}")
