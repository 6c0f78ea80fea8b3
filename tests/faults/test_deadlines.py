"""Clients whose deadlines end in the middle of commits, under load: each command's id tells what became of it."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import grpc
import grpc.aio
import pytest

from cellbook.v1 import ledger_pb2
from tests.faults.rig import (
    AUDITOR,
    BANK,
    PATIENCE_S,
    UNKNOWN,
    Load,
    Stubs,
    alone,
    check,
    database,
    deposit,
    insist,
    loaded,
    open_user,
    stubs,
)

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CLIENTS = 8
# Of those given up by their callers, at least so many were done all the same.
WANTED = 10
ACCEPTED, IN_PROGRESS, NOT_FOUND = "COMMAND_STATE_ACCEPTED", "COMMAND_STATE_IN_PROGRESS", "NOT_FOUND"


async def test_a_deadline_in_a_commit_leaves_nothing_unknown(tmp_path: Path) -> None:
    """Done or not, GetCommand tells; sent again under its id, each has happened once."""
    async with (
        database(tmp_path) as (_, dsn),
        alone(tmp_path, dsn) as cell,
        stubs(cell.address) as to,
        loaded(to) as load,
    ):
        told: Counter[str] = Counter()
        clients = [asyncio.create_task(impatient(to, load, seed, told)) for seed in range(CLIENTS)]
        await asyncio.gather(*clients)
        await load.end()
        print(f"given up by their callers: {dict(told)}")
        await check(dsn, load)
        assert await load.told() == {ACCEPTED: len(load.sent)}


async def impatient(to: Stubs, load: Load, seed: int, told: Counter[str]) -> None:
    """Gives each call a part of the time that one takes just now, until enough were cut in the middle."""
    # Seeded: which part it is says nothing of when the commit is, so that all moments of it are hit.
    part = random.Random(seed)
    user_id = await open_user(to)
    give_up_s = time.monotonic() + PATIENCE_S
    while told[ACCEPTED] < WANTED:
        assert time.monotonic() < give_up_s, f"no deadline ended in a commit: {dict(told)}"
        begun_s = time.monotonic()
        await insist(to.ledger.Deposit, deposit(user_id), BANK)
        took_s = time.monotonic() - begun_s
        paid = deposit(user_id)
        load.sent.add(UUID(paid.command_id))
        try:
            await to.ledger.Deposit(paid, timeout=took_s * part.uniform(0.2, 1.2), metadata=BANK)
        except grpc.aio.AioRpcError as error:
            if error.code() not in UNKNOWN:
                raise
            told[await end_of(to, paid.command_id)] += 1
            await insist(to.ledger.Deposit, paid, BANK)
        load.accepted.add(UUID(paid.command_id))


async def end_of(to: Stubs, command_id: str) -> str:
    """What the cell says of it, once it is not under way any more."""
    asked = ledger_pb2.GetCommandRequest(command_id=command_id)
    while True:
        try:
            answer = await to.ledger.GetCommand(asked, timeout=10, metadata=AUDITOR)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return NOT_FOUND
        state = ledger_pb2.CommandState.Name(answer.state)
        if state != IN_PROGRESS:
            return state
        await asyncio.sleep(0.002)
