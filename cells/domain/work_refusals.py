"""Refusals of work for which a cell has no room, mostly because one user has too much of it."""

from cells.domain.refusals import Busy


class TooManyFlows(Busy):
    """user {user_id} has {open_count} bids and transfers to other cells under way, the limit is {most}: wait"""

    retry_after_ms = 500


class TooManyHolds(Busy):
    """{open_count} holds of the account are open, the limit is {most}: release some, or wait for auctions"""


class TooManyBids(Busy):
    """{open_count} bids of one bidder in auction {auction_id} are open, the limit is {most}: wait for an answer"""

    retry_after_ms = 500


class TooManyRefusals(Busy):
    """{problem}; not final, because {whose} was refused too often to store it. Send it again in {wait_ms} ms"""


class HouseAccountFull(Busy):
    """{accounts}: a house account holds at most 2^63 - 1 minor units, which this command would exceed; wait"""
