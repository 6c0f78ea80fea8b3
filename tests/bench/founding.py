"""Fills a cell's database before its server starts: the cell's own writer, in this process, on its own store."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import islice
from uuid import UUID

from cells.cell import Cell
from cells.domain.commands import Command, CreateAuction, Deposit, OpenAccount, RegisterAsset
from cells.domain.values import Money
from cells.requests import CommandRequest, Lane, Outcome
from cells.time.clocks import SystemClock, UuidV7Ids
from cells.uuids import uuid_from
from server.process.cell import build_cell, open_store
from server.process.settings import ServerSettings
from server.shell.hosting.security import build_security
from tests.bench.calls import FUNDS_MINOR, user_id

# By itself no auction of a run ends.
END_TIME_MS = time.time_ns() // 1_000_000 + 300 * 86_400_000
CHUNK = 512
# One is committed while the next is decided, and one more waits.
CHUNKS_AT_ONCE = 3
WAIT_S = 60.0
_IDS = UuidV7Ids(SystemClock())

Advance = Callable[[int], None]


async def found(cell_name: str, dsn: str, *, users: int, auctions: int, advance: Advance) -> list[str]:
    """Users 0 to `users` - 1 with money, and one more who sells in all auctions, whose names it returns."""
    async with leading(cell_name, dsn) as cell:
        seller = uuid_from(user_id(users))
        people = (uuid_from(user_id(number)) for number in range(users))
        commands: Iterator[Command] = (
            command for person in people for command in (OpenAccount(user_id=person, home_epoch=1), deposit(person))
        )
        await execute(cell, [OpenAccount(user_id=seller, home_epoch=1)], advance)
        await execute(cell, commands, advance)
        asset = RegisterAsset(owner_id=seller, owner_cell=cell_name, description="a lamp")
        assets = await execute(cell, [asset] * auctions, advance, kept=True)
        auction = (opened(outcome.result.asset_id, seller) for outcome in assets)
        made = await execute(cell, auction, advance, kept=True)
    return [f"cells/{cell_name}/auctions/{outcome.result.auction_id}" for outcome in made]


def commands_of(*, users: int, auctions: int) -> int:
    """How many commands `found` will advance by."""
    return 1 + 2 * users + 2 * auctions


@asynccontextmanager
async def leading(cell_name: str, dsn: str) -> AsyncIterator[Cell]:
    """The cell as its server builds it, without the server."""
    store, settings = await open_store(cell_name, dsn), ServerSettings(cell=cell_name, dsn=dsn)
    parts = build_cell(settings, store, build_security(settings))
    cell, peers = parts.cell, parts.peers
    # What is too much is decided here, not by how fast it goes.
    cell.writer.queue.wait_max_s = WAIT_S
    running = asyncio.create_task(parts.leadership.run())
    try:
        async with asyncio.timeout(WAIT_S):
            while not cell.leading:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        yield cell
    finally:
        parts.leadership.stop()
        await running
        await peers.close()
        await store.close()


async def execute(cell: Cell, commands: Iterable[Command], advance: Advance, *, kept: bool = False) -> list[Outcome]:
    """Has all of them executed, in order; what comes of them is `kept`, or too much to keep."""
    rest, outcomes = iter(commands), []
    under_way: list[asyncio.Future[list[Outcome]]] = []
    while chunk := [request(command) for command in islice(rest, CHUNK)]:
        under_way.append(asyncio.gather(*cell.writer.submit_all(chunk)))
        if len(under_way) == CHUNKS_AT_ONCE:
            done = await under_way.pop(0)
            advance(len(done))
            outcomes += done if kept else []
    for chunk_done in under_way:
        done = await chunk_done
        advance(len(done))
        outcomes += done if kept else []
    return outcomes


def request(command: Command) -> CommandRequest:
    command_id = _IDS.event_id()
    return CommandRequest(
        command_id=command_id,
        fingerprint=sha256(command_id.bytes).digest(),
        principal="service/bench",
        command=command,
        correlation_id=command_id,
        causation_id=None,
        user_id=None,
        deadline_s=None,
        lane=Lane.CLIENT,
        size_bytes=200,
    )


def deposit(person: UUID) -> Deposit:
    return Deposit(user_id=person, amount=Money("USD", FUNDS_MINOR), external_reference=f"bank/{person}")


def opened(asset_id: UUID, seller: UUID) -> CreateAuction:
    return CreateAuction(
        asset_id=asset_id,
        seller_id=seller,
        opening=Money("USD", 1),
        increment_minor=1,
        end_time_ms=END_TIME_MS,
        extension_ms=0,
        settlement_timeout_ms=None,
    )
