"""One client asks for all that it can, from outside: the others are served as if it were alone with itself."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1 import auction_pb2
from server.process.policies import POLICIES, SAGA, policies_of
from server.shell.calls.denials import RateExceeded
from server.shell.calls.limits import Throttle
from server.shell.calls.policy import one
from tests.integration.services_rig import (
    BANK,
    HERE,
    METHODS,
    THERE,
    Pairs,
    Rig,
    as_user,
    deposit_of,
    new_id,
    refusal_of,
    usd,
)
from tests.local_cells import until

BATCH, BATCHES, OTHERS = 250, 8, 15


async def deposit(rig: Rig, principal: Pairs) -> int:
    """Its position."""
    return int((await rig.call(deposit_of(rig.ann), by=principal, timeout_s=20)).receipt.token.position)


async def deposit_all(rig: Rig) -> int:
    """The position of the last one of a batch."""
    done = await rig.ask("BatchDeposit", items=[deposit_of(rig.ann) for _ in range(BATCH)], by=BANK, timeout_s=20)
    return max(int(each.accepted.receipt.token.position) for each in done.results)


def other(number: int) -> Pairs:
    return (("cellbook-principal", f"treasury/branch{number}"),)


@pytest.mark.parametrize("shared", [False, True])
async def test_one_that_sends_batches_turns_nobody_else_away(rig: Rig, *, shared: bool) -> None:
    """A cell that is far behind answers others at once, and before what the hungry one has sent.

    Ablation: where all are one and the same principal, those who come late are turned away.
    """
    queue = rig.cell.writer.queue
    queue.throughput.per_s, queue.commands_always, rig.cell.writer.batch_max = 1.0, BATCH, BATCH
    rig.store.gate.clear()
    batches: list[asyncio.Task[int]] = []
    # One commits, one is decided behind it, two wait; of the others each is one too many.
    for deciding, waits in ((1, 0), (2, 0), (2, 1), (2, 2), *[(2, 2)] * (BATCHES - 4)):
        batches.append(asyncio.create_task(deposit_all(rig)))
        await until(lambda: len(rig.cell.writer.deciding) == deciding * BATCH and len(queue) == waits * BATCH)  # noqa: B023
    await until(lambda: sum(each.done() for each in batches) == BATCHES - 4)
    waiting = len(queue)
    calls = [asyncio.create_task(deposit(rig, BANK if shared else other(number))) for number in range(OTHERS)]
    await until(lambda: len(queue) == waiting + OTHERS or all(each.done() for each in calls))
    rig.store.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in answers if isinstance(each, BaseException)]
    hungry = await asyncio.gather(*batches, return_exceptions=True)
    assert any(isinstance(each, grpc.aio.AioRpcError) for each in hungry)
    assert bool(refused) is shared, refused
    if not shared:
        last = max(each for each in hungry if isinstance(each, int))
        assert all(isinstance(each, int) and each < last - BATCH / 2 for each in answers)


async def call_as(rig: Rig, path: str, request: Message, principal: Pairs) -> Any:  # noqa: ANN401 - any answer
    method = METHODS[path]
    call: Any = rig.channel.unary_unary(
        path,
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return await call(request, metadata=principal, timeout=10)


def bids(rig: Rig, cell: str, count: int) -> auction_pb2.BatchPlaceBidsRequest:
    return auction_pb2.BatchPlaceBidsRequest(
        items=[
            auction_pb2.PlaceBidRequest(
                command_id=new_id(),
                auction=f"cells/{cell}/auctions/{new_id()}",
                bidder_user_id=str(rig.ann),
                amount=usd(1),
            )
            for _ in range(count)
        ]
    )


LIST, BATCH_BIDS = "/cellbook.v1.AuctionService/ListAuctions", "/cellbook.v1.AuctionService/BatchPlaceBids"


async def test_a_user_pays_for_the_work_and_not_for_the_call(rig: Rig) -> None:
    """A batch is as many calls as it has items, those into another cell five each, and a page a call for ten rows."""
    now_s = 1_000.0
    throttle = Throttle(user_calls_per_s=100, monotonic_s=lambda: now_s)
    rig.guard.throttle, rig.guard.policies = throttle, policies_of(HERE)
    ann = as_user(rig.ann)
    for path, request, cost in (
        (BATCH_BIDS, bids(rig, HERE, 150), 150),
        (BATCH_BIDS, bids(rig, THERE, 30), 30 * SAGA),
        (LIST, auction_pb2.ListAuctionsRequest(page_size=1_000), 101),
        (LIST, auction_pb2.ListAuctionsRequest(), 11),
    ):
        now_s += 3_600
        await call_as(rig, path, request, ann)
        # What is left of two seconds' worth is there to the last one, and no more.
        assert throttle._people is not None
        assert throttle._people.take(f"user/{rig.ann}", now_s, 200 - cost) == 0.0
        refused = await refusal_of(call_as(rig, LIST, auction_pb2.ListAuctionsRequest(page_size=1), ann))
        assert isinstance(refused, RateExceeded)
        assert refused.retry_after_ms


def test_whatever_can_be_made_longer_has_a_price() -> None:
    """A request with items, a page or a moment of the past costs by them: nobody adds such an RPC and forgets it."""
    long = {"items", "page_size", "as_of"}
    for path, method in METHODS.items():
        if long & set(method.input_type.fields_by_name) and "SettlementService" not in path and "Move" not in path:
            assert POLICIES[path].cost is not one, path
