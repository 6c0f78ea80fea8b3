"""What a rollout rests on: a standby that need not wait, and an old version that goes on while a new one migrates."""

import asyncio
import signal
from pathlib import Path
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from cellbook.v1 import auction_pb2
from server.shell.postgres import database as databases
from server.shell.postgres.database import Migration, migrate, migrations_of
from tests.faults.rig import (
    BANK,
    SERVICE,
    START_S,
    Node,
    alone,
    check,
    database,
    deposit,
    loaded,
    node,
    open_user,
    running,
    stubs,
    usd,
)
from tests.integration.database import ask

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SOME = 80
NEXT = """
ALTER TABLE accounts ADD COLUMN remark TEXT NOT NULL DEFAULT '';
ALTER TABLE event_store ADD COLUMN remark TEXT;
CREATE TABLE remarks (id UUID PRIMARY KEY);
CREATE INDEX accounts_by_remark ON accounts (remark);
"""


def process(folder: Path, name: str, dsn: str) -> Node:
    """It knows of a cell which nobody answers for."""
    return node(folder, name, dsn, peers="eu-west=127.0.0.1:1", bid_valid_ms="90000", drain_grace_ms="90000")


async def test_the_standby_waits_for_no_call_that_waits(tmp_path: Path) -> None:
    """A bid into a cell that is cut off keeps its process draining for long: meanwhile the standby leads."""
    async with database(tmp_path) as (_, dsn):
        leader, standby = process(tmp_path, "leader", dsn), process(tmp_path, "standby", dsn)
        async with (
            running(leader),
            running(standby),
            stubs(leader.address) as to,
            stubs(standby.address) as other,
        ):
            user_id = await open_user(to)
            bid = auction_pb2.PlaceBidRequest(
                command_id=str(uuid4()),
                auction=f"cells/eu-west/auctions/{uuid4()}",
                bidder_user_id=user_id,
                amount=usd(1),
            )
            bidding = asyncio.ensure_future(to.send(bid, by=SERVICE, timeout_s=90))
            await reserved(dsn)
            leader.signal(signal.SIGTERM)
            await standby.becomes("SERVING")
            await other.send(deposit(user_id), by=BANK, timeout_s=10)
            assert leader.ended() is None
            assert not bidding.done()
            # A second signal hurries the drain. The bid's end is unknown then: to be asked again, of the standby.
            leader.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError):
                await bidding
            assert await leader.wait() == 0


async def reserved(dsn: str) -> None:
    """Returns once the bid's money is held: it is on its way."""
    async with asyncio.timeout(START_S):
        while not await ask(dsn, "SELECT 1 FROM event_store WHERE event_type = 'SAGA_STARTED'"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_an_old_version_goes_on_while_a_new_one_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns, an index, a table more: nothing is lost, and the old one starts on the new schema, too."""
    async with (
        database(tmp_path) as (_, dsn),
        alone(tmp_path, dsn) as cell,
        stubs(cell.address) as to,
        loaded(to) as load,
    ):
        await load.more(SOME)
        newer = [*migrations_of("cells.sql"), Migration(version=9999, name="9999_remarks.sql", sql=NEXT)]
        monkeypatch.setattr(databases, "migrations_of", lambda _: newer)
        assert await migrate(dsn, "cells.sql") == 1
        await load.more(SOME)
        cell.signal(signal.SIGTERM)
        assert await cell.wait() == 0
        cell.start()
        await cell.wait_until_ready(START_S)
        await load.more(SOME)
        await load.end()
        await check(dsn, load)
