"""What a user is refused with who has more under way, or was refused more often, than a cell keeps for one user."""

from cells.domain.refusals import Busy


class TooManyFlows(Busy):
    """user {user_id} has {open_count} bids and transfers to other cells under way, of {most} that may be: wait"""

    retry_after_ms = 500


class TooManyHolds(Busy):
    """{open_count} holds of the account are open, of {most} that may be: release some, or wait for auctions"""


class TooManyBids(Busy):
    """{open_count} bids of one bidder in auction {auction_id} are open, at most {most} may be: wait for an answer"""

    retry_after_ms = 500


class TooManyRefusals(Busy):
    """{problem}; not for good: {whose} was refused too often for it to be stored. Send it again in {wait_ms} ms"""
