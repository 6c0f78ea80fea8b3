"""The cost of calls against their caller's budget per second: 1 is a plain call, such as a bid within the cell.

Everything that enlarges the work has a price: many items, a page, a past moment. A bid or transfer that may begin a
saga costs as much as the events that it leaves in two logs forever.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from server.shell.calls.policy import Cost
from server.shell.fields.parse import parse_page_size

# Rows of a page.
ROWS_A_COST = 10
# Finding, checking and folding the history of one aggregate.
PAST = 20
# The same for all accounts.
PAST_OF_ALL = 200
# Events of a saga, here and in the other cell, compared with the two or three of a bid here.
SAGA = 5
# Proofs read nodes of the tree.
PROOF = 5
# Trace and FindEvents ask every cell.
TRACE = 20


def page(request: Any) -> int:  # noqa: ANN401 - any request with a page
    return 1 + max(parse_page_size(max(request.page_size, 0)), 0) // ROWS_A_COST


def past(request: Message) -> int:
    return PAST if request.HasField("as_of") else 1


def pages_of_the_past(request: Message) -> int:
    return page(request) + PAST_OF_ALL


def always(cost: int) -> Cost:
    return lambda _request: cost


def items(each: Cost) -> Cost:
    def cost(request: Any) -> int:  # noqa: ANN401 - any request with items
        return sum(map(each, request.items)) or 1

    return cost


def bid_in(cell: str) -> Cost:
    here = f"cells/{cell}/"

    def cost(request: Any) -> int:  # noqa: ANN401 - one bid, or an item of a batch
        return 1 if request.auction.startswith(here) else SAGA

    return cost


def costs_in(cell: str) -> Mapping[str, Cost]:
    """By the name of the RPC; a missing one costs 1."""
    return {
        "BatchDeposit": items(always(1)),
        "Transfer": always(SAGA),
        "PlaceBid": bid_in(cell),
        "BatchPlaceBids": items(bid_in(cell)),
        "GetBalance": past,
        "GetAccount": past,
        "GetAsset": past,
        "GetAuction": past,
        "GetSaga": past,
        "ListAuctions": page,
        "ListSagas": page,
        "ListEarlierEvents": page,
        "ListHomes": page,
        "GetStatement": page,
        "ListBalances": pages_of_the_past,
        "GetTrialBalance": always(PAST_OF_ALL),
        "CheckStream": always(PAST),
        "Trace": always(TRACE),
        "FindEvents": always(TRACE),
        "GetInclusionProof": always(PROOF),
        "GetConsistencyProof": always(PROOF),
        "AddCosignature": always(PROOF),
    }
