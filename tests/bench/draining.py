"""How fast the users of a cell are moved to the others, and for how long one of them is not served meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc.aio

from cellbook.v1 import router_pb2
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from lab.cluster import Cluster
from lab.market import Market, Person
from lab.play import side_by_side
from server.cli.client import MARKET
from tests.bench.calls import OPERATOR
from tests.bench.checks import CheckFailed
from tests.bench.measure import Bench
from tests.bench.moves import HOME, Watched, peak_memory
from tests.bench.report import Figure

NAME = "drain"
# Of these users each deposits all the while.
WATCHED = 20
PAUSE_S = 0.05
FUNDS_MINOR = 100
# More than it comes to: what is measured is how fast it goes.
RATE_PER_S = 1_000.0


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """Users a second, from the first move to the last."""
    if NAME not in bench.wanted:
        return
    users = bench.scale.drained_users
    async with Cluster(None) as cluster, Market(cluster.router) as market:
        with bench.stage(f"{users:,} users in {HOME}", users) as stage:
            people = await at_home(market, cluster.router, users, stage.advance)
        watched = [Watched(address=cluster.router, user_id=each.user_id, pause_s=PAUSE_S) for each in people[:WATCHED]]
        living = [asyncio.create_task(each.live()) for each in watched]
        began_s = time.monotonic()
        async with peak_memory(cluster.members[1:]) as peaks_mib:
            with bench.stage(NAME, users) as stage:
                await drained(cluster.router, stage.advance)
        took_s = time.monotonic() - began_s
        for each in watched:
            each.stopping = True
        await asyncio.gather(*living)
    waits_s = [max(each.waits_s) for each in watched]
    extra = {"users": users, "longest_refusal_s": max(waits_s), "peak_mib": max(peaks_mib.values())}
    yield Figure(name=NAME, value=users / took_s, unit="users/s", extra=extra)


async def at_home(market: Market, router: str, users: int, advance: object) -> list[Person]:
    """New users of any region, with money, all of them in one cell."""
    others = [name for name in market.cell_names if name != HOME]
    async with grpc.aio.insecure_channel(router) as channel:
        stub = RouterServiceStub(channel)
        for name in others:
            await stub.DrainCell(router_pb2.DrainCellRequest(name=name), metadata=OPERATOR)

        async def one(number: int) -> Person:
            request = router_pb2.RegisterUserRequest(user_id=str(uuid4()))
            reply = await market.client.call(market.client.router.RegisterUser, request, MARKET)
            person = Person(label=str(number), user_id=request.user_id, cell=reply.home.cell)
            await market.deposit(person, "USD", FUNDS_MINOR)
            advance(1)  # type: ignore[operator]
            return person

        people = await side_by_side(range(users), one)
        for name in others:
            await stub.UndrainCell(router_pb2.UndrainCellRequest(name=name), metadata=OPERATOR)
    return people


async def drained(router: str, advance: object) -> None:
    async with grpc.aio.insecure_channel(router) as channel:
        stub = RouterServiceStub(channel)
        await stub.DrainCell(router_pb2.DrainCellRequest(name=HOME), metadata=OPERATOR)
        request = router_pb2.EvacuateCellRequest(name=HOME, rate_per_s=RATE_PER_S)
        moved = 0
        async for progress in stub.EvacuateCell(request, metadata=OPERATOR):
            advance(progress.moved - moved)  # type: ignore[operator]
            moved = progress.moved
    if progress.left:
        raise CheckFailed(f"{progress.left} users are left in {HOME}: {progress.problem}")
