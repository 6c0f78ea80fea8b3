"""A firewall forgets a connection: it carries nothing any more and nobody is told. Each way is found dead in time.

What carries bytes here closes nothing, whatever is sent: no kernel tells of the cut, time-outs have to.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from cells.store import postgres as store_module
from cells.store import sessions as store_sessions
from cells.store.ports import CommitUnknown, StoreUnavailable
from cells.store.postgres import PostgresStore
from lab.chaos.links import Way
from server.shell.channels.client import open_cell_channel, open_channel
from server.shell.postgres import database
from server.shell.postgres.database import Connection
from tests.integration.database import opened
from tests.integration.rows import batch_on, event_row
from tests.integration.shell.shell_host import HEALTH, running
from tests.integration.store.test_store_faults import commit_held_up, until, waiting_for_lock
from tests.integration.wire import COMMIT, Wire, once
from tests.local_cells import until_async

# What is promised of every way: found dead and another one made.
FOUND_S = 10.0
SHORT_S = 0.4


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def far_store(cell_dsn: str, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresStore]:
    """Beyond the firewall, with short time-outs."""
    monkeypatch.setattr(store_module, "COMMIT_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(database, "COMMAND_TIMEOUT_S", SHORT_S)
    async with wire.listening(cell_dsn) as dsn, opened(dsn) as store:
        yield store


def test_the_time_outs_leave_room_for_a_second_try() -> None:
    """Of every statement and every connection; what is promised is held by their sum."""
    assert store_module.COMMIT_TIMEOUT_S + store_sessions.ASK_TIMEOUT_S < FOUND_S
    assert database.COMMAND_TIMEOUT_S + database.CANCEL_MAX_S < FOUND_S
    assert database.CONNECT_TIMEOUT_S < FOUND_S


async def test_a_commit_over_a_forgotten_connection_is_settled(far_store: PostgresStore, wire: Wire) -> None:
    """Whatever of it had come to the server: a claim over another connection tells, and ends the old session."""
    head = await far_store.claim()
    await far_store.append(batch_on(head, event_row(1)))
    head = await far_store.head()
    wire.forget()
    with pytest.raises((CommitUnknown, StoreUnavailable)):
        await asyncio.wait_for(far_store.append(batch_on(head, event_row(2))), FOUND_S)
    claimed = await far_store.claim()
    await far_store.append(batch_on(claimed, event_row(claimed.position + 1)))


async def test_an_answer_that_was_swallowed_is_not_waited_for(far_store: PostgresStore, wire: Wire) -> None:
    """The server has committed and waits for its client: it is not at work, though its session is there."""
    head = await far_store.claim()
    cut = once(COMMIT)

    def swallow(sent: bytes) -> bool:
        if not cut(sent):
            asyncio.get_running_loop().call_soon(wire.forget)
        return True

    wire.after = swallow
    with pytest.raises(CommitUnknown):
        await asyncio.wait_for(far_store.append(batch_on(head, event_row(1))), FOUND_S)
    await far_store.claim(expected_epoch=head.epoch)


async def test_a_lost_session_gives_the_heads_lock_back(far_store: PostgresStore, wire: Wire) -> None:
    """It waits for the rest of its transaction. Ablation: the next append waits with it, until the server ends it."""
    head = await far_store.claim()
    swallowed = once(b"event_store")

    def swallow(sent: bytes) -> bool:
        if not swallowed(sent):
            wire.forget()
        return True

    wire.after = swallow
    with pytest.raises(StoreUnavailable):
        await far_store.append(batch_on(head, event_row(1)))
    await far_store.append(batch_on(head, event_row(1)))
    assert (await far_store.head()).position == 1


async def test_a_slow_disk_is_no_death(cell_dsn: str, superuser: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that takes several times as long as a silent server is waited for is waited for, as the server says."""
    monkeypatch.setattr(store_module, "COMMIT_TIMEOUT_S", SHORT_S)
    async with opened(cell_dsn) as store:
        head = await store.claim()
        async with commit_held_up(superuser):
            appending = asyncio.create_task(store.append(batch_on(head, event_row(1))))
            await until(lambda: waiting_for_lock(superuser))
            await asyncio.sleep(3 * SHORT_S)
            assert not appending.done()
        await appending
        assert (await store.head()).position == 1


async def test_one_forgotten_session_makes_all_of_its_pool_suspect(far_store: PostgresStore, wire: Wire) -> None:
    """The first question finds out. Ablation: without it each of the three would, one after the other."""
    await asyncio.gather(*(far_store.head() for _ in range(3)))
    wire.forget()
    with pytest.raises(StoreUnavailable):
        await far_store.head()
    began_s = time.monotonic()
    await asyncio.gather(*(far_store.head() for _ in range(3)))
    assert time.monotonic() - began_s < SHORT_S


async def test_a_question_that_is_given_up_holds_nobody_up(
    far_store: PostgresStore, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asyncpg asks the server to cancel it, and would wait for the answer; where that is lost as well, in vain."""
    monkeypatch.setattr(database, "CANCEL_MAX_S", 0.1)
    await far_store.head()
    wire.forget()
    wire.swallows = True
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await far_store.head()
    assert time.monotonic() - began_s < 2 * SHORT_S
    wire.swallows = False
    await far_store.head()


@pytest.mark.parametrize("kind", ["peer", "router"])
async def test_calls_find_another_connection(tmp_path: Path, kind: str) -> None:
    """Between cells, and from a router to a cell, a call is answered again within 10 s, though nothing was closed."""
    way = Way()
    await way.listen()
    async with running(tmp_path) as shell:
        way.target = str(shell.host.address)
        async with open_channel(way.address) if kind == "peer" else open_cell_channel([way.address]) as channel:
            await asked(channel)
            way.forget()
            began_s = time.monotonic()
            await until_async(lambda: answered(channel), timeout_s=FOUND_S)
            print(f"{kind}: {time.monotonic() - began_s:.1f} s")
    await way.close()


async def answered(channel: grpc.aio.Channel) -> bool:
    try:
        await asked(channel)
    except grpc.aio.AioRpcError:
        return False
    return True


async def asked(channel: grpc.aio.Channel) -> None:
    await HEALTH(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)


async def test_a_look_up_that_finds_out_spares_the_next_commit_the_same(far_store: PostgresStore, wire: Wire) -> None:
    """The writer looks up first and appends then: each with its own connection, it would wait twice."""
    head = await far_store.claim()
    wire.forget()
    with pytest.raises(StoreUnavailable):
        await far_store.head()
    began_s = time.monotonic()
    await far_store.append(batch_on(head, event_row(1)))
    assert time.monotonic() - began_s < SHORT_S
