"""A cell to put load on: its database, its process, its users with money, its auctions."""

import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from rich.console import Console

from lab.member import Member
from lab.reaper import Reaper
from server.cli.report import stage
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.settings.addresses import LOOPBACK
from tests.bench.calls import Bids
from tests.bench.founding import commands_of, found

CELL, DATABASE = "us-east", "cellbook"
START_S = 60.0
_PORTS = range(12_000, 19_000)


@dataclass(slots=True, kw_only=True)
class Ground:
    """The folder that a bench works in. What it starts there ends with it, even if it is killed."""

    folder: Path
    reaper: Reaper

    @asynccontextmanager
    async def postgres(self, name: str) -> AsyncIterator[EmbeddedPostgres]:
        """A PostgreSQL of its own, with an empty database for a cell."""
        postgres = EmbeddedPostgres(self.folder / name)
        self.reaper.watch(postgres.data)
        try:
            await postgres.start()
            await postgres.ensure_database(DATABASE)
            yield postgres
        finally:
            await postgres.stop("immediate")
            shutil.rmtree(postgres.data, ignore_errors=True)

    @asynccontextmanager
    async def server(
        self, name: str, postgres: EmbeddedPostgres, *, runner: tuple[str, ...] = (), **settings: str
    ) -> AsyncIterator[Member]:
        """One `python -m server`, ready: it leads, or stands by where another one leads."""
        server = self.member(name, postgres, **settings)
        server.runner = runner
        try:
            self.reaper.watch(server.folder, pid=server.start())
            await server.wait_until_ready(START_S)
            yield server
        finally:
            await server.stop()

    def member(self, name: str, postgres: EmbeddedPostgres, **settings: str) -> Member:
        address = f"{LOOPBACK}:{random.choice(_PORTS)}"
        fixed = {"cell": CELL, "listen": address, "dsn": postgres.dsn(DATABASE)}
        return Member(
            name=name, module="server", address=address, folder=self.folder / name, settings={**fixed, **settings}
        )


@asynccontextmanager
async def ground(inside: Path | None = None) -> AsyncIterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="cellbook-bench-", dir=inside))
    reaper = Reaper()
    reaper.inherit(folder)
    try:
        yield Ground(folder=folder, reaper=reaper)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        reaper.dismiss()


@dataclass(slots=True, kw_only=True)
class Dataset:
    """A cell's users are user_id(0), user_id(1), ...; each auction has the next of them for bidders."""

    users: int
    auctions: tuple[str, ...]
    # One that all users bid in.
    hot: str
    # Bids that were sent to it, each of which was accepted.
    bids: int = 0
    _tiers: dict[str, int] = field(default_factory=dict)

    def spread(self, items: int, *, turn: int, auctions: int | None = None, bidders_each: int | None = None) -> Bids:
        """Bids in the first so many auctions, by so many bidders in each (all users, where nothing is said)."""
        chosen = self.auctions[:auctions]
        return self._bids(chosen, bidders_each or self.users // len(self.auctions), items, turn)

    def in_one(self, items: int, *, turn: int) -> Bids:
        return self._bids((self.hot,), self.users, items, turn)

    def _bids(self, auctions: tuple[str, ...], bidders_each: int, items: int, turn: int) -> Bids:
        """Each time of a higher tier: nobody asks how far the last ones have come."""
        tier = self._tiers[auctions[0]] = self._tiers.get(auctions[0], -1) + 1
        return Bids(
            auctions=auctions,
            bidders_each=bidders_each,
            turn=turn,
            items=max(items, 1),
            batch=bool(items),
            tier=tier,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A cell at work, and the dataset in it."""

    dataset: Dataset
    server: Member
    postgres: EmbeddedPostgres


async def settled(postgres: EmbeddedPostgres, console: Console, *, users: int, auctions: int) -> Dataset:
    """A dataset in an empty database. No server may be at work in it."""
    total = commands_of(users=users, auctions=auctions + 1)
    with stage(f"a dataset of {users:,} users and {auctions:,} auctions", total, console) as founded:
        names = await found(CELL, postgres.dsn(DATABASE), users=users, auctions=auctions + 1, advance=founded.advance)
    return Dataset(users=users, auctions=tuple(names[1:]), hot=names[0])


@asynccontextmanager
async def side(
    place: Ground, name: str, console: Console, *, users: int, auctions: int, **settings: str
) -> AsyncIterator[Side]:
    """A cell at work on a new dataset."""
    async with place.postgres(name) as postgres:
        dataset = await settled(postgres, console, users=users, auctions=auctions)
        async with place.server(f"{name}-cell", postgres, runner=(), **settings) as server:
            yield Side(dataset=dataset, server=server, postgres=postgres)


async def last_position(postgres: EmbeddedPostgres) -> int:
    """How many events a cell's store has."""
    connection = await asyncpg.connect(postgres.dsn(DATABASE))
    try:
        return int(await connection.fetchval("SELECT position FROM head"))
    finally:
        await connection.close()
