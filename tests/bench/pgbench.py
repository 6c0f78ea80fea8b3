"""The yardstick of durable writes: pgbench's TPC-B in the very PostgreSQL that the cell writes to."""

import asyncio
import re
from collections.abc import Sequence

from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.postgres.host import host_for

DATABASE = "pgbench"
CLIENTS = (8, 16)
# At least the clients: below that they wait for each other's branch rows.
SCALE = 16
_TPS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_SLACK_S = 120.0


class PgbenchFailed(Exception):
    """pgbench did not run. The message is its own."""


async def prepare(postgres: EmbeddedPostgres) -> None:
    await postgres.ensure_database(DATABASE)
    await _pgbench(postgres, ["-i", "-q", "-s", str(SCALE)], _SLACK_S)


async def best_tps(postgres: EmbeddedPostgres, seconds: float) -> float:
    """The better of 8 and 16 clients, each for so long."""
    return max([await tps(postgres, clients, seconds) for clients in CLIENTS])


async def tps(postgres: EmbeddedPostgres, clients: int, seconds: float) -> float:
    arguments = ["-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(max(1, round(seconds)))]
    said = await _pgbench(postgres, arguments, seconds + _SLACK_S)
    found = _TPS.search(said)
    if found is None:
        raise PgbenchFailed(said)
    return float(found[1])


async def run_through(postgres: EmbeddedPostgres, clients: int, each: int) -> int:
    """So many transactions of each client; returns how many these are."""
    await _pgbench(postgres, ["-M", "prepared", "-c", str(clients), "-j", "2", "-t", str(each)], _SLACK_S)
    return clients * each


async def _pgbench(postgres: EmbeddedPostgres, arguments: Sequence[str], timeout_s: float) -> str:
    command = ["pgbench", *arguments, postgres.dsn(DATABASE)]
    host = host_for(postgres.cluster)
    code, said = await asyncio.to_thread(host.run, command, timeout_s=timeout_s)
    if code != 0:
        raise PgbenchFailed(said)
    return said
