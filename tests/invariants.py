"""What must hold in every cell and over all cells, whatever has happened. Run after every test that runs the system.

Most of it is summed in SQL from the stored postings, without a line of our code. The replay folds the log through
`evolve` and compares it with the projections, byte by byte.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from cells.domain.event import postings
from cells.domain.evolve import evolve
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.sql import queries
from cells.store.ports import EventRow

if TYPE_CHECKING:
    from cells.domain.decision import State

PROJECTIONS = {
    Kind.ACCOUNT: "accounts",
    Kind.ASSET: "assets",
    Kind.AUCTION: "auctions",
    Kind.SAGA: "sagas",
}
TERMINAL = ("SAGA_COMPLETED", "SAGA_COMPENSATED")

# Each query names rows that must not be there.
NO_ROWS = {name.replace("_", " "): query for name, query in queries("cells.sql", "books.sql").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellBooks:
    """What one cell's database says, for the sums over all cells."""

    cell: str
    # (account class, currency) -> minor units: users, escrow, external, fees, transit, clearing.
    sums: dict[tuple[str, str], int]
    # clearing_id -> net postings of this cell.
    clearing: dict[UUID, int]
    # asset -> owner, for those registered here.
    owners: dict[UUID, str]
    sagas_running: int


async def check_cell(dsn: str) -> CellBooks:
    """Asserts all that must hold within one cell."""
    connection = await asyncpg.connect(dsn)
    try:
        for problem, query in NO_ROWS.items():
            rows = await connection.fetch(query)
            assert not rows, f"{problem}: {[tuple(row) for row in rows[:5]]} ({len(rows)} rows)"
        await _check_replay(connection)
        return await _books(connection)
    finally:
        await connection.close()


async def check_all(dsns: Mapping[str, str], *, settled: bool = True) -> dict[str, CellBooks]:
    """Asserts what must hold in each cell and over all of them; `settled`: nothing may be under way any more."""
    books = {cell: await check_cell(dsn) for cell, dsn in dsns.items()}
    currencies = {currency for cell in books.values() for _, currency in cell.sums}
    for currency in currencies:
        total = sum(amount for cell in books.values() for (_, of), amount in cell.sums.items() if of == currency)
        assert total == 0, f"{currency}: all accounts of all cells sum to {total}"
    if settled:
        assert in_transit(books) == {}, f"in transit: {in_transit(books)}"
        assert sum(cell.sagas_running for cell in books.values()) == 0
        for cell in books.values():
            escrow = {key: amount for key, amount in cell.sums.items() if key[0] == "escrow" and amount}
            assert not escrow, f"{cell.cell}: {escrow}"
    return books


def in_transit(books: Mapping[str, CellBooks]) -> dict[UUID, int]:
    """Movement by movement: what has left one cell and not arrived in the other."""
    net: dict[UUID, int] = {}
    for cell in books.values():
        for clearing_id, amount in cell.clearing.items():
            net[clearing_id] = net.get(clearing_id, 0) + amount
    return {clearing_id: amount for clearing_id, amount in net.items() if amount}


async def _books(connection: "asyncpg.Connection[asyncpg.Record]") -> CellBooks:
    cell = await connection.fetchval("SELECT cell FROM head")
    sums = await connection.fetch("""
        SELECT split_part(p->>'account', '/', 1) AS class, p->>'currency' AS currency,
               sum((p->>'amount_minor')::numeric) AS total
        FROM event_store e, jsonb_array_elements(e.payload->'postings') p GROUP BY 1, 2
    """)
    clearing = await connection.fetch("SELECT clearing_id, sum(amount_minor) AS total FROM clearing_entries GROUP BY 1")
    owners = await connection.fetch("SELECT id, state::jsonb->>'owner_id' AS owner FROM assets")
    running = await connection.fetchval("""
        SELECT count(*) FROM event_store s WHERE s.event_type = 'SAGA_STARTED' AND NOT EXISTS (
            SELECT FROM event_store e WHERE e.aggregate_id = s.aggregate_id
            AND e.event_type IN ('SAGA_COMPLETED', 'SAGA_COMPENSATED'))
    """)
    return CellBooks(
        cell=cell,
        # Of many accounts together: the sum may need more than the 64 bits of each.
        sums={(row["class"], row["currency"]): int(row["total"]) for row in sums},
        clearing={row["clearing_id"]: int(row["total"]) for row in clearing},
        owners={row["id"]: row["owner"] for row in owners},
        sagas_running=running,
    )


async def _check_replay(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """The projections are what a fold of the log gives, the leaf hashes what the stored rows give."""
    states: dict[Ref, State | None] = {}
    versions: dict[Ref, int] = {}
    async with connection.transaction():
        query = f"SELECT {', '.join(EventRow._fields)} FROM event_store ORDER BY position"  # noqa: S608
        async for record in connection.cursor(query):
            row = _canonical(EventRow(*record))
            assert codec.leaf_hash(row) == row.leaf_hash, f"leaf hash of position {row.position}"
            event = codec.decode_event(row.event_type, json.loads(row.metadata)["v"], row.payload)
            ref = Ref(event.kind, row.aggregate_id)
            assert _stored_postings(row) == [tuple(line) for line in postings(event, row.aggregate_id)]
            states[ref] = evolve(states.get(ref), event, row.event_id)
            versions[ref] = row.stream_version
    for kind, table in PROJECTIONS.items():
        rows = await connection.fetch(f"SELECT id, stream_version, state::text AS state FROM {table}")  # noqa: S608
        stored = {Ref(kind, row["id"]): (row["stream_version"], json.loads(row["state"])) for row in rows}
        replayed = {
            ref: (versions[ref], json.loads(codec.encode_state(state)))
            for ref, state in states.items()
            if ref.kind is kind and state is not None
        }
        assert stored == replayed, f"{table} differ from the replay"


def _canonical(row: EventRow) -> EventRow:
    """With PostgreSQL's own spelling of JSON turned into the one that hashes are over."""
    return row._replace(
        vector_clock=_respelt(row.vector_clock), payload=_respelt(row.payload), metadata=_respelt(row.metadata)
    )


def _respelt(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _stored_postings(row: EventRow) -> list[tuple[str, str, int]]:
    lines = json.loads(row.payload).get("postings", [])
    return [(line["account"], line["currency"], int(line["amount_minor"])) for line in lines]
