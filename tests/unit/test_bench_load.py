"""The load generator counts what was accepted, and nothing else."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2

from cellbook.v1 import auction_pb2
from cells.domain.refusals import BidTooLow, QueueFull, Refused, UserNotFound
from server.shell.calls.statuses import details_metadata, to_status
from tests.bench.calls import Bids
from tests.bench.load import LoadFailed, Plan, run

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = Callable[[bytes, Context], Awaitable[bytes]]

AUCTIONS = ("cells/a/auctions/1", "cells/a/auctions/2")
BIDS = Bids(auctions=AUCTIONS, bidders_each=1_000, turn=1, items=5, tier=0, batch=True)
UNARY = Bids(auctions=AUCTIONS, bidders_each=10, turn=1, items=1, tier=0, batch=False)


@asynccontextmanager
async def cell(answer: "Handler") -> AsyncIterator[str]:
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(answer) for name in ("PlaceBid", "BatchPlaceBids")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cellbook.v1.AuctionService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def accept(request: bytes, _context: "Context") -> bytes:
    items = auction_pb2.BatchPlaceBidsRequest.FromString(request).items
    result = auction_pb2.PlaceBidResult(accepted=auction_pb2.PlaceBidResponse(bid_id="1"))
    return auction_pb2.BatchPlaceBidsResponse(results=[result] * len(items)).SerializeToString()


async def test_every_bid_is_counted_once() -> None:
    """All requested bids are counted, with the time of each call."""
    async with cell(accept) as address:
        result = await run(Plan(address=address, bids=BIDS, in_flight=2, bids_each=50))
    assert (result.accepted, result.placed, len(result.latencies_ms)) == (100, 100, 20)
    assert result.per_s > 0
    assert 0 < result.quantile_ms(0.5) <= result.quantile_ms(0.99)


async def test_what_came_in_the_warm_up_is_not_counted() -> None:
    """Only bids answered after the warm-up and before the end count."""
    async with cell(accept) as address:
        result = await run(Plan(address=address, bids=BIDS, in_flight=2, seconds=0.2, warm_up_s=0.2))
    assert 0 < result.accepted < result.placed
    assert result.seconds < 0.21


async def test_a_refused_item_ends_the_run() -> None:
    """If one of five is refused, the message says why."""

    async def refuse_one(request: bytes, context: "Context") -> bytes:
        answer = auction_pb2.BatchPlaceBidsResponse.FromString(await accept(request, context))
        answer.results[3].refused.code = code_pb2.FAILED_PRECONDITION
        answer.results[3].refused.message = "too low"
        return answer.SerializeToString()

    async with cell(refuse_one) as address:
        with pytest.raises(LoadFailed, match="item 3 was refused: too low"):
            await run(Plan(address=address, bids=BIDS, in_flight=2, bids_each=50))


async def test_in_one_auction_a_call_may_be_overtaken() -> None:
    """Bids that have become too low are reported and not counted; any other refusal still ends the run."""
    reasons: list[Refused] = [too_low(), too_low(), UserNotFound(user_id="nobody")]

    async def refuse_one(request: bytes, context: "Context") -> bytes:
        answer = auction_pb2.BatchPlaceBidsResponse.FromString(await accept(request, context))
        # Concurrent calls get the same answer as the one that ends the run.
        answer.results[0].refused.CopyFrom(to_status(reasons.pop(0) if len(reasons) > 1 else reasons[0]))
        return answer.SerializeToString()

    one = replace(BIDS, auctions=AUCTIONS[:1])
    async with cell(refuse_one) as address:
        result = await run(Plan(address=address, bids=one, in_flight=2, bids_each=5))
        assert (result.placed, result.overtaken) == (8, 2)
        with pytest.raises(LoadFailed, match="item 0 was refused"):
            await run(Plan(address=address, bids=one, in_flight=2, bids_each=5))


def too_low() -> Refused:
    return BidTooLow(amount_minor=1, least_minor=2, currency="USD")


async def test_missing_items_end_the_run() -> None:
    """An answer without an item has not accepted it."""

    async def answer_nothing(_request: bytes, _context: "Context") -> bytes:
        return b""

    async with cell(answer_nothing) as address:
        with pytest.raises(LoadFailed, match="0 of 5"):
            await run(Plan(address=address, bids=BIDS, in_flight=2, bids_each=50))


async def test_any_other_status_ends_the_run() -> None:
    """For example that of a cell that does not lead."""

    async def refuse(_request: bytes, context: "Context") -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "does not lead")
        raise AssertionError

    async with cell(refuse) as address:
        with pytest.raises(LoadFailed, match="UNAVAILABLE: does not lead"):
            await run(Plan(address=address, bids=UNARY, in_flight=2, bids_each=50))


async def test_what_is_turned_away_is_sent_again_and_told() -> None:
    """The same bytes are sent again, and count when they are accepted; so is what gRPC dropped before it was read."""
    seen: list[bytes] = []

    async def late_then_full(request: bytes, context: "Context") -> bytes:
        seen.append(request)
        if len(seen) == 1:
            await context.abort(grpc.StatusCode.CANCELLED)
        if len(seen) == 2:
            status = to_status(QueueFull(queued=1, queued_bytes=1))
            context.set_trailing_metadata(tuple(details_metadata(status)))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.message)
        return b"bid"

    async with cell(late_then_full) as address:
        result = await run(Plan(address=address, bids=UNARY, in_flight=1, bids_each=2))
    assert (result.accepted, result.turned_away) == (2, 2)
    assert seen[0] == seen[1] == seen[2] != seen[3]
