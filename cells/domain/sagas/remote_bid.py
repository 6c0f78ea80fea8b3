"""A bid in another cell's auction, and the release of its hold once it no longer leads.

The bidder's home reserves the money and starts the saga in one decision; the auction's cell accepts the bid or not.
"""

from collections.abc import Iterable
from uuid import UUID

from cells.domain import commands
from cells.domain.account.ledger_rules import release_bid, reserve_for_bid
from cells.domain.auction.auction_rules import after_bid, auction_of, bid_id_of, bid_of, bid_placed, require_acceptable
from cells.domain.decision import Context, Decision, UncommittedEvent, View, account_of, settled_account_of
from cells.domain.events import BidPlaced, FundsReleased, FundsReserved
from cells.domain.needs import auction_and_leader
from cells.domain.peer_rules import require_own_auction
from cells.domain.refusals import BidExpired, FieldInvalid, UserNotFound
from cells.domain.results import NewBid
from cells.domain.sagas.definition import Effect, Flow, LegContext, LegSpec, SagaDefinition, SagaKind
from cells.domain.sagas.saga_events import ReleaseFacts, RemoteBidFacts
from cells.domain.sagas.saga_start import require_room_for_flow, require_room_for_release, started_with
from cells.domain.sagas.settlement import AUCTION, free
from cells.domain.values import ACCOUNT, Money, Ref, derived_id


def place_remote_bid(command: commands.PlaceBid, view: View, context: Context) -> Decision:
    """Reserves here and starts the saga that submits the bid there."""
    account = settled_account_of(view, command.bidder_id)
    require_room_for_flow(command.bidder_id, view, context)
    bid_id = bid_id_of(command, context)
    saga_id = derived_id(bid_id, "saga")
    bid = bid_of(command, bid_id, context.cell)
    reserved = reserve_for_bid(
        account,
        auction_id=command.auction_id,
        auction_cell=command.auction_cell,
        bid_id=bid_id,
        amount=Money(command.amount.currency, bid.limit_minor),
    )
    facts = RemoteBidFacts(
        **command.amount.fields,
        auction_id=command.auction_id,
        auction_cell=command.auction_cell,
        bid_id=bid_id,
        bidder_id=command.bidder_id,
        bidder_cell=context.cell,
        valid_until_ms=context.now_ms + context.policy.bid_valid_ms,
        command_id=context.command_id,
        maximum_minor=bid.maximum_minor,
    )
    uncommitted = started_with(
        facts,
        saga_id,
        context,
        deadline_ms=facts.valid_until_ms,
        leg="reserve",
        aggregate=Ref(ACCOUNT, command.bidder_id),
        effect=reserved,
    )
    return Decision(uncommitted=uncommitted, result=NewBid(bid_id=bid_id), awaits_saga=saga_id)


def _reserve(action: commands.ReserveForBid, at: LegContext) -> FundsReserved:
    return reserve_for_bid(
        account_of(at.view, action.user_id),
        auction_id=action.auction_id,
        auction_cell=action.auction_cell,
        bid_id=action.bid_id,
        amount=action.amount,
    )


def _submit(action: commands.SubmitBid, at: LegContext) -> BidPlaced:
    context = at.context
    auction = auction_of(at.view, action.auction_id, context)
    if context.now_ms > action.valid_until_ms:
        raise BidExpired(valid_until_ms=action.valid_until_ms, now_ms=context.now_ms)
    bid = bid_of(action, action.bid_id, action.bidder_cell)
    require_acceptable(auction, action.auction_id, bid, action.amount.currency, context)
    require_room_for_release(action.bidder_cell, at.view, context)
    if auction.highest_bid is not None and auction.highest_bid.bid_id == bid.bid_id:
        # Answered, it would be released by that id, in whichever home its cell names: the leader's money would be free.
        raise FieldInvalid(field="bid_id", problem="is the id of the leading bid", value=str(bid.bid_id))
    return bid_placed(auction, bid, context)


def _free_outbid(action: commands.SubmitBid, at: LegContext, caused_by: UUID) -> Iterable[UncommittedEvent]:
    auction = auction_of(at.view, action.auction_id, at.context)
    bid = bid_of(action, action.bid_id, action.bidder_cell)
    return after_bid(auction, action.auction_id, bid, at.view, at.context, placed_id=caused_by)


def _release(action: commands.ReleaseBid, at: LegContext) -> FundsReleased:
    account = account_of(at.view, action.user_id)
    return release_bid(account, auction_id=action.auction_id, bid_id=action.bid_id, currency=action.currency)


def _answer(flow: Flow, _: View) -> NewBid:
    return NewBid(bid_id=flow.facts.bid_id)


RESERVE = Effect(action=commands.ReserveForBid, apply=_reserve, undo=free)
SUBMIT = Effect(
    action=commands.SubmitBid,
    apply=_submit,
    stream=AUCTION,
    needs=lambda action, view, cell: auction_and_leader(action.auction_id, view, cell),
    further=_free_outbid,
    foreign=True,
    claims="bidder_cell",
)
RELEASED = Effect(action=commands.ReleaseBid, apply=_release, foreign=True, askable=require_own_auction)
BIDDER = {"user_id": "bidder_id"}

REMOTE_BID = SagaDefinition(
    kind=SagaKind.REMOTE_BID,
    title="remote bid",
    facts=RemoteBidFacts,
    versions={
        1: (
            LegSpec(leg="reserve", at="bidder_cell", effect=RESERVE, given=BIDDER | {"amount": "limit"}),
            LegSpec(leg="submit", at="auction_cell", effect=SUBMIT, pivot=True),
        )
    },
    party="bidder_id",
    answer=_answer,
)
RELEASE = SagaDefinition(
    kind=SagaKind.RELEASE,
    title="release",
    facts=ReleaseFacts,
    # An unknown bidder holds nothing: the cell of the bid has lied, or was restored to a time before the user.
    versions={
        1: (LegSpec(leg="release", at="bidder_cell", effect=RELEASED, given=BIDDER, pivot=True, moot=UserNotFound),)
    },
    party="bidder_id",
)
