"""The sagas that a request begins or advances, for links between traces.

An invalid request is left to its servicer. A transfer within the cell and an auction without a bid begin no saga: then
the link leads nowhere.
"""

from collections.abc import Iterable, Iterator
from uuid import UUID

from google.protobuf.message import Message

from cellbook.v1 import auction_pb2, ledger_pb2, settlement_pb2
from cells.domain.values import derived_id


def sagas_of(request: Message, principal: str) -> Iterable[UUID]:
    try:
        return tuple(_sagas_of(request, principal))
    except ValueError:
        return ()


def _sagas_of(request: Message, principal: str) -> Iterator[UUID]:
    match request:
        case auction_pb2.PlaceBidRequest():
            bid_id = derived_id(UUID(request.bidder_user_id), f"bid/{principal}/{UUID(request.command_id)}")
            yield derived_id(bid_id, "saga")
        case auction_pb2.CloseAuctionRequest():
            yield derived_id(UUID(request.auction.rpartition("/")[2]), "settlement")
        case ledger_pb2.TransferRequest():
            yield derived_id(UUID(request.from_user_id), f"transfer/{principal}/{UUID(request.command_id)}")
        case settlement_pb2.ApplyLegRequest() | settlement_pb2.CompensateLegRequest():
            yield UUID(request.leg.saga_id)
        case settlement_pb2.BatchLegsRequest():
            for item in request.items:
                leg = item.apply.leg if item.HasField("apply") else item.compensate.leg
                yield UUID(leg.saga_id)
        case _:
            return
