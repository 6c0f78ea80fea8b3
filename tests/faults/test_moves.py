"""Users who move between real processes: under load, with processes killed at each step, and the router gone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
import pytest_asyncio

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2, move_pb2, router_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.move_pb2_grpc import MoveServiceStub
from cells.domain.moves.home import Home
from lab.chaos.links import Way
from lab.market import OpenAuction, Person
from router.client import Client
from tests.e2e.cluster import Town, town
from tests.faults.matrix import Matrix
from tests.faults.rig import BANK, OPERATOR, PATIENCE_S, SERVICE, UNKNOWN, Pairs, deposit, insist, usd
from tests.integration.database import ask
from tests.integration.services_rig import Over
from tests.local_cells import until, until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

US, EU, AP = "us-east", "eu-west", "ap-tokyo"
# What says nothing of a command, or not yet; also of one that another home is at.
UNKNOWN_YET = UNKNOWN | {grpc.StatusCode.ABORTED}


@pytest_asyncio.fixture(loop_scope="module")
async def client(here: Matrix) -> AsyncIterator[Client]:
    async with Client(here.cluster.router, principal="service/test") as client:
        yield client


@dataclass(slots=True, kw_only=True)
class Mover:
    """A user, who goes on depositing and bidding through the smart client whatever happens."""

    client: Client
    person: Person
    auction: OpenAuction
    deposited: int = 0
    bids: int = 0
    stopping: bool = False
    task: "asyncio.Task[None] | None" = None

    async def live(self) -> None:
        send = Over(self.client.channel).send
        while not self.stopping:
            await insist_meanwhile(send, deposit(self.person.user_id, 10), BANK)
            self.deposited += 1
            await insist_meanwhile(send, self.bid(), SERVICE)
            self.bids += 1
            await asyncio.sleep(0.01)

    def bid(self) -> auction_pb2.PlaceBidRequest:
        return auction_pb2.PlaceBidRequest(
            command_id=str(uuid4()),
            auction=self.auction.name,
            bidder_user_id=self.person.user_id,
            amount=usd(101 + self.bids),
        )


# Under one id until it is accepted; whatever else is said is the test's failure.
insist_meanwhile = partial(insist, attempt_s=5.0, unknown=UNKNOWN_YET)


async def move(client: Client, user_id: str, cell: str, command_id: str = "") -> router_pb2.Move:
    """Asked for until it is done."""
    request = router_pb2.MoveUserRequest(command_id=command_id or str(uuid4()), user_id=user_id, cell=cell, region="")

    async def send(request: router_pb2.MoveUserRequest, *, by: Pairs, timeout_s: float) -> router_pb2.MoveUserResponse:
        return await client.router.MoveUser(request, timeout=timeout_s, metadata=by)

    while True:
        answer: router_pb2.MoveUserResponse = await insist(send, request, OPERATOR, attempt_s=10.0, unknown=UNKNOWN_YET)
        if answer.move.state == router_pb2.MOVE_STATE_DONE:
            return answer.move
        await asyncio.sleep(0.1)


async def home_of(client: Client, user_id: str) -> tuple[str, int]:
    answer = await client.router.ResolveUser(router_pb2.ResolveUserRequest(user_id=user_id), timeout=10)
    return answer.home.cell, answer.home.epoch


@asynccontextmanager
async def living(here: Town, client: Client, label: str) -> AsyncIterator[Mover]:
    """Somebody who leads an auction in a cell of their own, and goes on living within."""
    person = await here.market.register(label, US)
    seller = await here.market.register(f"seller to {label}", EU)
    await here.market.deposit(person, "USD", 100_000)
    auction = await here.market.open_auction(EU, seller, label, "USD", 100)
    mover = Mover(client=client, person=person, auction=auction)
    task = mover.task = asyncio.create_task(mover.live())
    try:
        yield mover
        mover.stopping = True
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def check(here: Town, client: Client, mover: Mover) -> None:
    """Nothing that was accepted is lost, nothing was done twice, and the books are right."""
    await here.market.wait_until_quiet()
    await here.check()
    times: dict[str, int] = {}
    for dsn in (await here.dsns()).values():
        for kind in ("DEPOSITED", "BID_PLACED"):
            whose = "aggregate_id::text" if kind == "DEPOSITED" else "payload->>'bidder_id'"
            query = f"SELECT count(*) FROM event_store WHERE event_type = $1 AND {whose} = $2"  # noqa: S608
            [(count,)] = await ask(dsn, query, kind, mover.person.user_id)
            times[kind] = times.get(kind, 0) + count
    assert times == {"DEPOSITED": mover.deposited + 1, "BID_PLACED": mover.bids}
    request = ledger_pb2.GetBalanceRequest(user_id=mover.person.user_id)
    balance = (await client.ledger.GetBalance(request, timeout=10)).balances[0]
    leading = 100 + mover.bids
    assert balance.available_minor == 100_000 + 10 * mover.deposited - leading
    assert balance.reserved_minor == leading


async def test_a_user_moves_under_load_and_hardly_notices(tmp_path: Path) -> None:
    """Less than a second without an answer, history at hand, and a stale caller finds them."""
    async with town(tmp_path) as here, Client(here.cluster.router, principal="service/test") as client:
        async with living(here, client, "ann") as mover:
            for cell in (EU, AP, US, AP):
                await until_async(partial(more, mover, mover.deposited + 3), timeout_s=PATIENCE_S)
                await move(client, mover.person.user_id, cell)
        assert await home_of(client, mover.person.user_id) == (AP, 5)
        await check(here, client, mover)
        assert max(await gaps_s(here, mover.person.user_id)) < 1.0
        events = await earlier_events(client, mover.person.user_id)
        assert {event.cell for event in events} == {US, EU}
        async with Client(here.cluster.router, principal="service/test") as newcomer:
            newcomer._calls.homes.keep(mover.person.user_id, Home(US, 1))
            await insist_meanwhile(Over(newcomer.channel).send, deposit(mover.person.user_id, 10), BANK)
        proxied = ledger_pb2.GetBalanceRequest(user_id=mover.person.user_id)
        async with grpc.aio.insecure_channel(here.cluster.router) as channel:
            answer = await LedgerServiceStub(channel).GetBalance(proxied, timeout=10, metadata=SERVICE)
        assert answer.token.cell == AP


async def gaps_s(here: Town, user_id: str) -> list[float]:
    """For how long nobody served the user, move by move: from the departure to the arrival, by this machine's clock."""
    query = """SELECT payload->>'saga_id', event_type, recorded_at FROM event_store
        WHERE event_type IN ('ACCOUNT_DEPARTED', 'ACCOUNT_ARRIVED') AND aggregate_id = $1"""
    moments: dict[str, dict[str, float]] = {}
    for dsn in (await here.dsns()).values():
        for saga, event_type, recorded_at in await ask(dsn, query, UUID(user_id)):
            moments.setdefault(saga, {})[event_type] = recorded_at.timestamp()
    gaps = [moment["ACCOUNT_ARRIVED"] - moment["ACCOUNT_DEPARTED"] for moment in moments.values()]
    print(f"not served for {', '.join(f'{gap:.3f} s' for gap in gaps)}")
    return gaps


async def earlier_events(client: Client, user_id: str) -> list[event_pb2.Event]:
    found: list[event_pb2.Event] = []
    token = ""
    while True:
        request = move_pb2.ListEarlierEventsRequest(user_id=user_id, page_size=50, page_token=token)
        page = await MoveServiceStub(client.channel).ListEarlierEvents(request, timeout=10)
        found += page.events
        token = page.next_page_token
        if not token:
            return found


# Chosen ones: every one of them, at random and with both homes, is in the simulation.
STEPS = [
    (US, "before-send/arrive/action"),
    (EU, "after-commit/arrive/action"),
    (US, "before-record/arrive/action"),
    (US, "after-commit/leave/action"),
    (US, "before-record/tell/action"),
]


@pytest.mark.parametrize(("cell", "point"), STEPS)
async def test_a_process_that_dies_at_any_step_is_taken_up(here: Matrix, client: Client, cell: str, point: str) -> None:
    """Of the old home or the new one: the move goes on to its end, or the user stays, and nothing is lost."""
    async with living(here, client, point) as mover:
        here.add(cell, point)
        moving = asyncio.create_task(move(client, mover.person.user_id, EU))
        await here.dies(cell)
        here.drop(cell, point)
        here.member(cell).start()
        await ended(moving)
        await until_async(partial(more, mover, mover.deposited + 3), timeout_s=PATIENCE_S)
    await check(here, client, mover)


@pytest.mark.parametrize("leg", ["depart", "arrive", "leave", "tell"])
async def test_both_homes_die_at_each_step(here: Matrix, client: Client, leg: str) -> None:
    """At once, while the move is held there: it goes on to its end once they are back."""
    async with living(here, client, f"both at {leg}") as mover:
        async with held(here, client, mover, leg) as moving:
            for cell in (US, EU):
                here.member(cell).kill()
        for cell in (US, EU):
            await here.dies(cell)
            here.member(cell).start()
        await ended(moving)
    await check(here, client, mover)


@pytest.mark.parametrize("offset_ms", [3_600_000, -3_600_000], ids=["ahead", "behind"])
async def test_a_clock_jumps_while_a_user_moves(here: Matrix, client: Client, offset_ms: int) -> None:
    """The new home refuses to take anybody in by it; once it is right the move goes on, or the user stays."""
    async with living(here, client, "skewed") as mover:
        async with held(here, client, mover, "arrive") as moving:
            here.add(EU, f"clock/{offset_ms}")

        async def refused() -> bool:
            asked = router_pb2.GetMoveRequest(user_id=mover.person.user_id)
            answer = await client.router.GetMove(asked, timeout=10, metadata=OPERATOR)
            return "the wall clock jumped" in answer.move.problem

        await until_async(refused, timeout_s=PATIENCE_S)
        here.drop(EU, f"clock/{offset_ms}")
        await ended(moving)
    await check(here, client, mover)


async def test_a_home_that_cannot_reach_the_router_tells_it_later(here: Matrix, client: Client) -> None:
    """Cut off before it has told of the move: the user is served at the new home, and found once the way is mended."""
    way, member = Way(), here.member(US)
    await way.listen()
    way.target = here.cluster.router
    member.settings["router"] = way.address
    await restart(here, US)
    async with living(here, client, "untold") as mover:
        user_id = mover.person.user_id
        async with held(here, client, mover, "tell") as moving:
            way.cut()
        await until_async(partial(more, mover, mover.deposited + 3), timeout_s=PATIENCE_S)
        assert await home_of(client, user_id) == (US, 1)
        way.mend()
        await ended(moving)
        assert await home_of(client, user_id) == (EU, 2)
    await check(here, client, mover)
    member.settings["router"] = here.cluster.router
    await restart(here, US)
    await way.close()


async def restart(here: Matrix, cell: str) -> None:
    await here.kill(cell)
    await here.member(cell).wait_until_ready(30)


@asynccontextmanager
async def held(here: Matrix, client: Client, mover: Mover, leg: str) -> "AsyncIterator[asyncio.Task[router_pb2.Move]]":
    """A move that the old home holds before that leg meanwhile, as its log says."""
    seen = len(here.lines(US))
    here.add(US, f"hold/{leg}/action")
    moving = asyncio.create_task(move(client, mover.person.user_id, EU))

    def is_held() -> bool:
        said = [json.loads(line) for line in here.lines(US)[seen:] if '"held"' in line]
        return any(each["event"] == "held" and each["leg"] == leg for each in said)

    await until(is_held)
    yield moving
    here.drop(US, f"hold/{leg}/action")


async def ended(moving: "asyncio.Task[router_pb2.Move]") -> None:
    """To its end; or called off, as somebody was away for too long, and the user stays."""
    (end,) = await asyncio.gather(moving, return_exceptions=True)
    if isinstance(end, BaseException):
        assert isinstance(end, grpc.aio.AioRpcError), end
        assert end.code() is grpc.StatusCode.FAILED_PRECONDITION, end


@pytest.mark.parametrize("leg", ["arrive", "tell"])
async def test_without_the_router_a_move_ends_and_the_user_is_served(here: Matrix, client: Client, leg: str) -> None:
    """Killed while the move is held: arrival and departure need it no more, and it is told once it is back."""
    async with living(here, client, leg) as mover:
        user_id = mover.person.user_id
        async with held(here, client, mover, leg) as moving:
            router = here.member("router")
            router.kill()
            await router.wait()
        done = mover.deposited
        await until_async(partial(more, mover, done + 3), timeout_s=PATIENCE_S)
        await until_async(lambda: client.home(user_id), lambda found: found.cell == EU, timeout_s=30)
        router.start()
        await router.wait_until_ready(30)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)

        async def told() -> bool:
            try:
                return await home_of(client, user_id) == (EU, 2)
            except grpc.aio.AioRpcError:
                # The channel has not found out yet that it is back.
                return False

        await until_async(told, timeout_s=30)
    await check(here, client, mover)


async def more(mover: Mover, deposits: int) -> bool:
    if mover.task is not None and mover.task.done():
        mover.task.result()
    return mover.deposited >= deposits
