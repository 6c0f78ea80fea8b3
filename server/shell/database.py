"""Databases as the processes use them: bootstrapping the roles, migrating under a lock, opening connections."""

import asyncio
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import TypeAlias

import asyncpg
import structlog

from cells.sql import queries
from cells.unusable import CannotServe
from server.shell.failures import shown_dsn

log = structlog.get_logger()

# Quoted: the classes are generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# Of PostgreSQL: with `SET` as an option of grants, which the bootstrap of roles rests on, and up to what was tried.
VERSION_MIN, VERSION_MAX = 16, 18
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
# A process that was stopped in a transaction holds its locks no longer than this.
IDLE_IN_TRANSACTION_MAX_S = 20
# How long a process waits for another one that is migrating.
MIGRATION_WAIT_MAX_S = 60
STARTING_MAX_S = 60.0
STARTING_LOOK_S = 0.5
_FILE = re.compile(r"(\d{4})_\w+\.sql")


class MigrationFailed(CannotServe):
    """A database is not what its migrations say, or they could not be applied. The message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


def migrations_of(package: str, folder: str = "migrations") -> list[Migration]:
    """The numbered migrations that a package ships, in order. Raises MigrationFailed for two of one number."""
    files = (resources.files(package) / folder).iterdir()
    found = [(match, file) for file in files if (match := _FILE.fullmatch(file.name))]
    migrations = sorted(
        (Migration(version=int(match[1]), name=match[0], sql=file.read_text("utf-8")) for match, file in found),
        key=lambda migration: migration.version,
    )
    if len({migration.version for migration in migrations}) < len(migrations):
        raise MigrationFailed(f"{package}: two migrations have the same number")
    return migrations


async def migrate(dsn: str, package: str) -> int:
    """Brings a database up to date; returns how many migrations were applied.

    Roles are bootstrapped by whoever connects, tables belong to the owner's role. All or nothing. Several
    processes may call this at once: one works, the others wait. Migrations of a newer version are left alone:
    it runs beside this one during a rolling upgrade.

    Raises:
        MigrationFailed: an applied migration is not the shipped one, or one failed, or the wait was too long; or the
            server is of a version that is not supported, and nothing was changed.
    """
    sql = queries("server.shell.sql", "migrate.sql")
    wanted = migrations_of(package)
    connection = await _connected(dsn)
    try:
        _require_version(connection, dsn)
        async with connection.transaction():
            await connection.execute(sql["lock"])
            await connection.execute(sql["bootstrap"])
            await connection.execute(sql["become_owner"])
            await connection.execute(sql["make_table"])
            applied = {row["version"]: row for row in await connection.fetch(sql["applied"])}
            return await _apply(connection, sql["record"], applied, wanted)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationFailed(f"waited {MIGRATION_WAIT_MAX_S} s for a lock: {error}") from error
    finally:
        await connection.close(timeout=CLOSE_TIMEOUT_S)


async def _connected(dsn: str) -> Connection:
    """A server that is starting, after a power cut say, is waited for."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + STARTING_MAX_S
    while True:
        try:
            return await asyncpg.connect(
                dsn,
                timeout=CONNECT_TIMEOUT_S,
                server_settings={"application_name": "migrate", "lock_timeout": f"{MIGRATION_WAIT_MAX_S}s"},
            )
        except asyncpg.CannotConnectNowError as problem:
            if loop.time() > deadline_s:
                raise
            log.info("database_starting", problem=str(problem))
            await asyncio.sleep(STARTING_LOOK_S)


def _require_version(connection: Connection, dsn: str) -> None:
    major, version = connection.get_server_version().major, connection.get_settings().server_version
    if major < VERSION_MIN:
        raise MigrationFailed(
            f"dsn: {shown_dsn(dsn)} is PostgreSQL {version}, and {VERSION_MIN} to {VERSION_MAX} are supported: upgrade "
            "it (pg_upgrade), or let dsn lead to a newer one; nothing was changed there"
        )
    if major > VERSION_MAX:
        log.warning("postgres_not_tried", version=version, problem=f"{VERSION_MIN} to {VERSION_MAX} are supported")


async def _apply(
    connection: Connection, record: str, applied: dict[int, asyncpg.Record], wanted: list[Migration]
) -> int:
    fresh = 0
    for migration in wanted:
        before = applied.get(migration.version)
        if before is not None:
            if before["checksum"] != migration.checksum:
                raise MigrationFailed(
                    f"{migration.name} was applied with another content: a migration that has shipped never changes"
                )
            continue
        try:
            await connection.execute(migration.sql)
        except asyncpg.DiskFullError:
            raise
        except asyncpg.PostgresError as error:
            raise MigrationFailed(f"{migration.name}: {error}; nothing was changed") from error
        await connection.execute(record, migration.version, migration.name, migration.checksum)
        log.info("migrated", migration=migration.name)
        fresh += 1
    return fresh


async def connect(
    dsn: str, *, role: str, application: str, command_timeout_s: float | None = COMMAND_TIMEOUT_S
) -> Connection:
    """One connection that has given up every privilege but those of `role`."""
    return await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=command_timeout_s,
        server_settings=_session(role, application),
    )


async def open_pool(dsn: str, *, role: str, application: str, size_max: int) -> Pool:
    """A pool of such connections, opened as they are needed."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size_max,
        reset=_as_it_is,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings=_session(role, application),
    )


async def _as_it_is(_connection: object) -> None:
    """Nothing to reset: whoever takes a connection reads, and leaves the session as it was.

    asyncpg would ask the server each time, which is half of what a short query costs.
    """


def _session(role: str, application: str) -> dict[str, str]:
    return {
        "application_name": application,
        "role": role,
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_MAX_S}s",
    }
