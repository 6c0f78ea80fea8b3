"""What the router's way costs: the same reads of the same user, straight to the cell and through the router."""

import asyncio
import time
from collections.abc import AsyncIterator
from statistics import median, quantiles
from typing import TYPE_CHECKING

import grpc.aio

from cellbook.v1 import ledger_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from lab.cluster import Cluster
from lab.market import Market, Person
from tests.bench.calls import SERVICE
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared

if TYPE_CHECKING:
    # It exists for type checkers alone.
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

NAME = "proxied_calls"
CELL = "us-east"
IN_FLIGHT = 32


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """Calls a second with many in flight, and how much longer a lone one takes."""
    if NAME not in bench.wanted:
        return
    async with Cluster(None) as cluster, Market(cluster.router) as market:
        person = await market.register("reader", CELL)
        direct = next(member.address for member in cluster.members if member.name == CELL)
        proxied = cluster.router
        seconds = bench.scale.seconds
        values, yardsticks = await bench.in_turns(
            NAME,
            lambda: calls_per_s(proxied, person, seconds),
            lambda: calls_per_s(direct, person, seconds),
        )
        alone, straight = await lone_ms(proxied, person, seconds), await lone_ms(direct, person, seconds)
    added_ms = median(alone) - median(straight)
    bench.say(f"{NAME}: a lone call takes {median(alone):.2f} ms instead of {median(straight):.2f}")
    yield compared(
        NAME,
        "calls/s",
        values,
        "the same calls straight to the cell",
        yardsticks,
        p50_ms=median(alone),
        p99_ms=quantiles(alone, n=100)[98],
        added_p50_ms=added_ms,
    )


async def calls_per_s(address: str, person: Person, seconds: float) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = LedgerServiceStub(channel)
        began_s = time.perf_counter()
        counts = await asyncio.gather(*(_calls(stub, person, began_s + seconds) for _ in range(IN_FLIGHT)))
        return sum(len(times) for times in counts) / (time.perf_counter() - began_s)


async def lone_ms(address: str, person: Person, seconds: float) -> list[float]:
    async with grpc.aio.insecure_channel(address) as channel:
        return await _calls(LedgerServiceStub(channel), person, time.perf_counter() + seconds)


async def _calls(stub: "LedgerServiceAsyncStub", person: Person, until_s: float) -> list[float]:
    request, times_ms = ledger_pb2.GetBalanceRequest(user_id=person.user_id), []
    while True:
        began_s = time.perf_counter()
        await stub.GetBalance(request, timeout=10, metadata=SERVICE)
        ended_s = time.perf_counter()
        times_ms.append((ended_s - began_s) * 1_000)
        if ended_s >= until_s:
            return times_ms
