"""The results of accepted commands: the answers to their callers, stored under the commands' ids.

A stored result is the JSON of its fields, which are all strings there; it does not name its type.
"""

from uuid import UUID

from cells.domain.auction.auction import AuctionState
from cells.domain.record import Struct


# Of scalars only: the garbage collector need not follow them.
class Result(Struct, frozen=True, kw_only=True, gc=False):
    """The command was accepted; there is nothing more to say."""


class NewAsset(Result, frozen=True, kw_only=True):
    asset_id: UUID


class NewAuction(Result, frozen=True, kw_only=True):
    auction_id: UUID


class NewBid(Result, frozen=True, kw_only=True):
    bid_id: UUID


class Closed(Result, frozen=True, kw_only=True):
    state: AuctionState


class Sold(Closed, frozen=True, kw_only=True):
    """The winning bid, and the settlement of the sale."""

    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    currency: str
    amount_minor: int
    saga_id: UUID


class BalanceAfter(Result, frozen=True, kw_only=True):
    """The user's balance after the command."""

    currency: str
    available_minor: int
    reserved_minor: int
    pending_minor: int


class NewHold(BalanceAfter, frozen=True, kw_only=True):
    hold_id: UUID


class HoldEnded(BalanceAfter, frozen=True, kw_only=True):
    """`amount_minor` has been captured or released."""

    amount_minor: int


class UserMove(Result, frozen=True, kw_only=True):
    saga_id: UUID
    cell: str
    # In decimal.
    epoch: str


# Those with more fields first: the fields of one may be part of another's.
STORED = (Sold, NewHold, HoldEnded, BalanceAfter, UserMove, NewAsset, NewAuction, NewBid, Closed, Result)
