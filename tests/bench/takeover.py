"""How long a standby takes: from the kill -9 of a leader under load to the first command that it accepts."""

import asyncio
import time
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc.aio

from cellbook.v1 import ledger_pb2, types_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench.calls import BANK, user_id
from tests.bench.cluster import Dataset
from tests.bench.load import LoadFailed
from tests.bench.measure import BATCH_ITEMS, BATCHES_IN_FLIGHT, TURN, Bench

PATIENCE_S = 60.0
ASK_S = 0.01


async def measured_s(bench: Bench, dataset: Dataset, postgres: EmbeddedPostgres) -> list[float]:
    """Each standby is the next leader."""
    took_s = []
    async with AsyncExitStack() as stack:
        leader = await stack.enter_async_context(bench.ground.server("leader-0", postgres))
        with bench.stage("takeover", bench.scale.takeovers) as stage:
            for number in range(1, bench.scale.takeovers + 1):
                standby = await stack.enter_async_context(bench.ground.server(f"leader-{number}", postgres))
                bids = dataset.spread(BATCH_ITEMS, turn=TURN)
                load = asyncio.create_task(bench.bid(dataset, leader.address, bids, in_flight=BATCHES_IN_FLIGHT))
                await asyncio.sleep(bench.scale.warm_up_s + bench.scale.seconds / 2)
                leader.kill()
                took_s.append(await first_accepted_s(standby.address))
                bench.say(f"takeover {number}: {took_s[-1]:.2f} s")
                await cut_off(load)
                stage.advance()
                leader = standby
    return took_s


async def cut_off(load: "asyncio.Task[object]") -> None:
    """The load must have been under way, and have ended with the leader."""
    try:
        await load
    except LoadFailed as failed:
        if not str(failed).startswith("UNAVAILABLE"):
            raise
    else:
        raise LoadFailed("the load ended before its leader")


async def first_accepted_s(address: str) -> float:
    """How long from now until the cell there accepts a command, which is asked of it again and again."""
    began_s = time.monotonic()
    async with grpc.aio.insecure_channel(address) as channel:
        ledger = LedgerServiceStub(channel)
        while True:
            try:
                await ledger.Deposit(deposit(), metadata=BANK, timeout=PATIENCE_S)
                return time.monotonic() - began_s
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() - began_s > PATIENCE_S:
                    raise
            await asyncio.sleep(ASK_S)


def deposit() -> ledger_pb2.DepositRequest:
    command_id = str(uuid4())
    return ledger_pb2.DepositRequest(
        command_id=command_id,
        user_id=user_id(0),
        amount=types_pb2.Money(currency="USD", amount_minor=1),
        external_reference=f"bank/{command_id}",
    )
