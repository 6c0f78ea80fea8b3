"""A leader that dies or stops under load: its standby leads, and nobody's command is lost or done twice."""

import asyncio
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cellbook.v1 import auction_pb2
from cells.domain.time.hlc import Stamp
from server.process.clock import STAMP_KEY, VECTOR_KEY
from tests.faults.rig import (
    BANK,
    CELL,
    FUNDS_MINOR,
    SERVICE,
    UNKNOWN,
    Node,
    check,
    database,
    deposit,
    insist,
    loaded,
    open_user,
    pair,
    stubs,
)
from tests.integration.database import ask
from tests.integration.services_rig import Calls
from tests.local_cells import until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

# What is promised of a takeover.
TAKEOVER_MAX_S = 3.0
# What a machine may add whose processors are shared by other tests: these are no timings of the protocol. What does not
# depend on the machine is held in test_takeover_reads.py.
SLOW_MACHINE_S = 10.0
# While a stopped process holds on to its connections, every other attempt runs into its deadline.
SOME = 32


async def first_accepted_s(node: Node, user_id: str, since_s: float) -> float:
    """How long after `since_s` the node accepts its first command."""
    async with stubs(node.address) as to:
        while True:
            try:
                await to.send(deposit(user_id), by=BANK, timeout_s=1.0)
                return time.monotonic() - since_s
            except grpc.aio.AioRpcError as error:
                if error.code() not in UNKNOWN:
                    raise
            await asyncio.sleep(0.01)


async def refused_by(node: Node, user_id: str) -> str:
    """Why the node does not take a command."""
    async with stubs(node.address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await to.send(deposit(user_id), by=BANK, timeout_s=5.0)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        return refused.value.details() or ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_standby_takes_over(tmp_path: Path, number: signal.Signals) -> None:
    """Killed or stopped in the middle of the load, the leader is followed within 3 s. Woken, it cannot write."""
    async with (
        database(tmp_path) as (_, dsn),
        pair(tmp_path, dsn) as (leader, standby),
        stubs(leader.address, standby.address) as both,
    ):
        user_id = await open_user(both)
        assert "does not lead" in await refused_by(standby, user_id)
        async with loaded(both) as load:
            await load.more()
            hit_s = time.monotonic()
            leader.signal(number)
            took_s = await first_accepted_s(standby, user_id, hit_s)
            print(f"takeover after {number.name}: {took_s:.2f} s")
            await load.more(SOME)
            if number is signal.SIGSTOP:
                await wakes_fenced(leader, user_id)
            await load.more()
            await load.end()
        assert await standby.health() == "SERVING"
        await check(dsn, load)
    assert took_s < TAKEOVER_MAX_S + SLOW_MACHINE_S


async def wakes_fenced(leader: Node, user_id: str) -> None:
    """It takes itself for the leader still, tries to write, is fenced out, and stands by."""
    assert not leader.said("deposed")
    leader.signal(signal.SIGCONT)
    await leader.becomes("NOT_SERVING")
    # On a busy machine the status changes a moment before the line is there.
    await until(lambda: leader.said("deposed"))
    assert "does not lead" in await refused_by(leader, user_id)


async def test_a_leader_that_wakes_takes_its_successors_log_for_no_loss(tmp_path: Path) -> None:
    """Its peers know of positions that it has never seen: they wait for it in its socket, and it hears them first.

    Two of them would stop a leader whose log is too short. It asks the database, which has another one lead: nothing is
    lost, nothing is disputed, and it leads again after its successor as ever.
    """
    async with (
        database(tmp_path) as (_, dsn),
        pair(tmp_path, dsn) as (leader, standby),
        stubs(leader.address, standby.address) as both,
        stubs(leader.address) as one,
    ):
        user_id = await open_user(both)
        await one.send(deposit(user_id), by=BANK, timeout_s=10)
        leader.signal(signal.SIGSTOP)
        await first_accepted_s(standby, user_id, time.monotonic())
        async with stubs(standby.address) as to:
            for _ in range(5):
                await insist(to.send, deposit(user_id), BANK)
        [(position,)] = await ask(dsn, "SELECT position FROM head")
        claims = [asyncio.create_task(claim(one, peer, position)) for peer in ("eu-west", "ap-tokyo") * 4]
        await asyncio.sleep(0)
        leader.signal(signal.SIGCONT)
        answers = await asyncio.gather(*claims)
        await leader.becomes("NOT_SERVING")
        standby.signal(signal.SIGKILL)
        await first_accepted_s(leader, user_id, time.monotonic())
    assert grpc.StatusCode.DATA_LOSS not in answers
    assert leader.said("deposed")
    assert not any(leader.said(event) for event in ("data_lost", "position_disputed"))


async def claim(to: Calls, peer: str, position: int) -> grpc.StatusCode:
    """A call of another cell, which says that this cell's log has that position."""
    stamp = Stamp(time.time_ns() // 1_000_000, 0)
    said = ((STAMP_KEY, str(stamp.pack())), (VECTOR_KEY, f"{CELL}={position}"))
    request = auction_pb2.ListAuctionsRequest()
    try:
        await to.send(request, by=(("cellbook-principal", f"peer/{peer}"), *said), timeout_s=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_the_deposed_leads_again_when_its_successor_dies(tmp_path: Path) -> None:
    """Back and forth: each time the other one takes over, and what both have written is one log."""
    async with (
        database(tmp_path) as (_, dsn),
        pair(tmp_path, dsn) as (leader, standby),
        stubs(leader.address, standby.address) as both,
        loaded(both) as load,
    ):
        user_id = await open_user(both)
        leader.signal(signal.SIGSTOP)
        await first_accepted_s(standby, user_id, time.monotonic())
        leader.signal(signal.SIGCONT)
        await leader.becomes("NOT_SERVING")
        standby.signal(signal.SIGKILL)
        took_s = await first_accepted_s(leader, user_id, time.monotonic())
        await load.more()
        await load.end()
        await check(dsn, load)
        assert took_s < TAKEOVER_MAX_S + SLOW_MACHINE_S


async def test_a_leader_that_ends_in_order_is_followed_at_once(tmp_path: Path) -> None:
    """SIGTERM: it steps down, and the standby need not wait until the beat is missed."""
    async with database(tmp_path) as (_, dsn), pair(tmp_path, dsn) as (leader, standby):
        async with stubs(leader.address) as to:
            user_id = await open_user(to)
        leader.signal(signal.SIGTERM)
        assert await asyncio.wait_for(leader.wait(), 20) == 0
        took_s = await first_accepted_s(standby, user_id, time.monotonic())
        print(f"takeover after a step down: {took_s:.2f} s")
        # The look, and the clock's bound, which is promised a second ahead.
        assert took_s < 1.5 + SLOW_MACHINE_S


async def test_clients_with_a_plain_channel_carry_on(tmp_path: Path) -> None:
    """With the published service config no call fails while the leader is killed: nothing but gRPC repeats them."""
    async with (
        database(tmp_path) as (_, dsn),
        pair(tmp_path, dsn) as (leader, standby),
        stubs(leader.address, standby.address) as both,
    ):
        payers = [Payer(both, await open_user(both)) for _ in range(8)]
        paying = [asyncio.create_task(payer.pay()) for payer in payers]
        await paid_by_each(payers, paying, 5)
        leader.signal(signal.SIGKILL)
        await standby.becomes("SERVING")
        await paid_by_each(payers, paying, 5)
        for payer in payers:
            payer.done = True
        await asyncio.gather(*paying)
        for payer in payers:
            assert await balance(both, payer.user_id) == FUNDS_MINOR + payer.paid


@dataclass(slots=True)
class Payer:
    """Deposits 0.01 after 0.01; the first call that fails is the last."""

    to: Calls
    user_id: str
    paid: int = 0
    done: bool = False

    async def pay(self) -> None:
        while not self.done:
            await self.to.send(deposit(self.user_id), by=BANK, timeout_s=20)
            self.paid += 1


async def paid_by_each(payers: list[Payer], paying: list[asyncio.Task[None]], more: int) -> None:
    """Returns once each has paid so often again. Raises what a call has failed with."""
    wanted = [payer.paid + more for payer in payers]

    def enough() -> bool:
        for task in paying:
            if task.done():
                task.result()
        return all(payer.paid >= least for payer, least in zip(payers, wanted, strict=True))

    await until(enough, timeout_s=30)


async def balance(to: Calls, user_id: str) -> int:
    return int((await to.ask("GetBalance", user_id=user_id, by=SERVICE)).balances[0].available_minor)
