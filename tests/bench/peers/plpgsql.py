"""The ledger in PL/pgSQL, over asyncpg: `python -m tests.bench.peers.plpgsql DSN`, with an empty database."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from tests.bench.peers.work import FUNDS_MINOR, Bid, Size, Totals, serve

SCHEMA = Path(__file__).with_name("ledger.sql")
CONNECTIONS_MAX = 16
TOTALS = """
    SELECT
        (SELECT sum(available_minor) FROM accounts)::bigint AS available_minor,
        (SELECT sum(reserved_minor) FROM accounts)::bigint AS reserved_minor,
        (SELECT sum(highest_minor) FROM auctions)::bigint AS highest_minor,
        (SELECT count(*) FROM bids WHERE outcome = 'ACCEPTED') AS accepted,
        (
            SELECT count(*) FROM accounts
            LEFT JOIN (
                SELECT leader_id, sum(highest_minor) AS held FROM auctions GROUP BY 1
            ) AS led ON leader_id = user_id
            LEFT JOIN (
                SELECT user_id, sum(reserved_change_minor) AS changes FROM entries GROUP BY 1
            ) AS moved USING (user_id)
            LEFT JOIN LATERAL (
                SELECT available_after_minor, reserved_after_minor FROM entries
                WHERE entries.user_id = accounts.user_id ORDER BY entry_id DESC LIMIT 1
            ) AS last ON true
            WHERE (reserved_minor, reserved_minor) IS DISTINCT FROM (coalesce(held, 0), coalesce(changes, 0))
            OR (available_minor, reserved_minor) IS DISTINCT FROM
                (coalesce(available_after_minor, available_minor), coalesce(reserved_after_minor, 0))
        ) AS wrong_holds
"""


class PlpgsqlLedger:
    blocks = False

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self.pool = pool

    async def found(self, size: Size) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(SCHEMA.read_text())
            users = [(id_of(number), FUNDS_MINOR, 0) for number in range(size.users)]
            await connection.copy_records_to_table("accounts", records=users)
            await connection.executemany(
                "INSERT INTO auctions VALUES ($1, now() + interval '300 days', 1)",
                [(id_of(number),) for number in range(size.auctions)],
            )
        await self.pool.execute("ANALYZE")

    async def place(self, placed: Sequence[Bid]) -> list[str]:
        rows = [(bid.command_id, id_of(bid.auction), id_of(bid.bidder), bid.amount_minor) for bid in placed]
        if len(rows) == 1:
            return [await self.pool.fetchval("SELECT place_bid($1, $2, $3, $4)", *rows[0])]
        columns = list(zip(*rows, strict=True))
        return list(await self.pool.fetchval("SELECT place_bids($1, $2, $3, $4)", *columns))

    async def totals(self) -> Totals:
        return Totals(**dict((await self.pool.fetch(TOTALS))[0]))


def id_of(number: int) -> UUID:
    """Scattered as random ids are, the same for the same number."""
    return UUID(int=(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128))


async def nothing(connection: object) -> None:
    """The connections leave nothing behind to reset, which would be a round trip."""


async def main(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS_MAX, max_size=CONNECTIONS_MAX, reset=nothing) as pool:
        await serve(PlpgsqlLedger(pool))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
