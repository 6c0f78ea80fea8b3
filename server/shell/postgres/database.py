"""Database access for the processes: bootstrapping roles, migrating under a lock, opening connections."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Any, TypeVar

import asyncpg
import structlog

from cells.domain.refusals import Unavailable
from cells.sql import queries
from cells.store.ports import StoreUnavailable
from cells.store.sessions import Connection, Pool, session_of
from cells.store.unusable import CannotServe
from server.shell.hosting.failures import shown_dsn

__all__ = ["Connection", "Pool", "session_of"]

log = structlog.get_logger()

# PostgreSQL versions: the lowest has the `SET` option of grants, which the role bootstrap needs; the highest is tested.
VERSION_MIN, VERSION_MAX = 16, 18
# The group roles, of which a login is a member.
CELL_ROLE, OWNER_ROLE = "cellbook_cell", "cellbook_owner"
CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 5.0
# For lookups by key. Queries that scan a table set their own timeout.
COMMAND_TIMEOUT_S = 3.0
# How long a cancelled statement may take to end before its session is terminated.
CANCEL_MAX_S = 0.5
# Both sides probe idle connections and require acknowledgements, so that neither a waiting process nor a session that
# holds locks outlives the network path between them.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TRIES = 3, 1, 3
UNACKNOWLEDGED_MAX_MS = 6_000
_SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
    "tcp_keepalives_interval": str(KEEPALIVE_EVERY_S),
    "tcp_keepalives_count": str(KEEPALIVE_TRIES),
    "tcp_user_timeout": str(UNACKNOWLEDGED_MAX_MS),
    # The server ends a query if its client has gone.
    "client_connection_check_interval": "2s",
}
# By name: macOS lacks one of them, and has another name for one.
_SOCKET_OPTIONS = {
    "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
    "TCP_KEEPALIVE": KEEPALIVE_IDLE_S,
    "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
    "TCP_KEEPCNT": KEEPALIVE_TRIES,
    "TCP_USER_TIMEOUT": UNACKNOWLEDGED_MAX_MS,
}
# A process that is stopped inside a transaction holds its locks no longer than this.
IDLE_IN_TRANSACTION_MAX_S = 20
# How long a process waits while another one migrates.
MIGRATION_WAIT_MAX_S = 60
STARTING_MAX_S = 60.0
STARTING_LOOK_S = 0.5
# An unreachable server may be restarting; with a wrong address the error should still come soon.
GONE_MAX_S = 5.0
_COMES_OR_GOES = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    # asyncpg raises this for a session that ends between two statements.
    asyncpg.InternalClientError,
    StoreUnavailable,
    Unavailable,
    ConnectionError,
    FileNotFoundError,
)
T = TypeVar("T")
_FILE = re.compile(r"(\d{4})_\w+\.sql")


class Session(asyncpg.Connection):
    """A connection that closes if a cancelled statement does not end.

    asyncpg sends the cancel request over a connection of its own, and waits for its answer as long as for a statement.
    If the network is cut it would wait in vain, and with it the task that returns the connection to its pool.
    """

    __slots__ = ()

    def _cancel_current_command(self, waiter: Any, cancel_waiter: Any = None) -> None:  # noqa: ANN401 - asyncpg's own
        super()._cancel_current_command(waiter, cancel_waiter)  # type: ignore[misc]
        asyncio.get_running_loop().call_later(CANCEL_MAX_S, self._end_if_pending, cancel_waiter)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's own
        """Closes the connection even if the server does not respond."""
        with suppress(TimeoutError):
            await super().close(timeout=timeout)

    def _end_if_pending(self, ended: Any) -> None:  # noqa: ANN401 - a future, or None where asyncpg tells of none
        if ended is not None and not ended.done() and not self.is_closed():
            self.terminate()


class MigrationFailed(CannotServe):
    """A database does not match its migrations, or they could not be applied. The message says which."""


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

    The connecting login bootstraps the roles; tables belong to the owner's role. All migrations are applied or none.
    Several processes may call this at once: one works, the others wait. Migrations of a newer version are left alone,
    because that version runs beside this one during a rolling upgrade.

    Raises:
        MigrationFailed: an applied migration differs from the shipped one, or one failed, or the wait was too long; or
            the server's version is not supported, in which case nothing was changed.
    """
    return await patiently(lambda: _migrate(dsn, migrations_of(package)))


async def _migrate(dsn: str, wanted: list[Migration]) -> int:
    sql = queries("server.shell.postgres.sql", "migrate.sql")
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        server_settings={"application_name": "migrate", "lock_timeout": f"{MIGRATION_WAIT_MAX_S}s"},
    )
    try:
        _require_version(connection, dsn)
        async with connection.transaction():
            await connection.execute(sql["lock"])
            await connection.execute(sql["bootstrap"])
            await connection.execute(sql["become_owner"])
            await connection.execute(sql["make_table"])
            applied = {row["version"]: row for row in await connection.fetch(sql["applied"])}
            return await _apply(connection, sql, applied, wanted)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationFailed(f"waited {MIGRATION_WAIT_MAX_S} s for a lock: {error}") from error
    finally:
        await connection.close(timeout=CLOSE_TIMEOUT_S)


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work` once the server is reachable. Waits while it starts, and for a moment if it goes away.

    `work` may run more than once, because the server may restart or lose power at any time.
    """
    loop = asyncio.get_running_loop()
    began_s = seen_s = loop.time()
    while True:
        try:
            return await work()
        except _COMES_OR_GOES as problem:
            if isinstance(problem, asyncpg.CannotConnectNowError):
                seen_s = loop.time()
            if loop.time() - seen_s > GONE_MAX_S or loop.time() - began_s > STARTING_MAX_S:
                raise
            log.info("database_starting", problem=str(problem) or type(problem).__name__)
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
    connection: Connection, sql: Mapping[str, str], applied: dict[int, asyncpg.Record], wanted: list[Migration]
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
        await connection.execute(sql["hold_writer"])
        try:
            await connection.execute(migration.sql)
        except asyncpg.DiskFullError:
            raise
        except asyncpg.PostgresError as error:
            raise MigrationFailed(f"{migration.name}: {error}; nothing was changed") from error
        await connection.execute(sql["record"], migration.version, migration.name, migration.checksum)
        log.info("migrated", migration=migration.name)
        fresh += 1
    return fresh


async def connect(
    dsn: str, *, role: str, application: str, command_timeout_s: float | None = COMMAND_TIMEOUT_S
) -> Connection:
    """One connection, with no privileges but those of `role`."""
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=command_timeout_s,
        server_settings=_session(role, application),
        connection_class=Session,
    )
    await _kept_alive(connection)
    return connection


async def open_pool(dsn: str, *, role: str, application: str, size_max: int) -> Pool:
    """A pool of such connections, opened on demand."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size_max,
        reset=_as_it_is,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings=_session(role, application),
        connection_class=Session,
        init=_kept_alive,
    )


async def _as_it_is(_connection: object) -> None:
    """Resets nothing: users of these connections only read, and leave the session unchanged.

    asyncpg would ask the server each time, which is half the cost of a short query.
    """


def _transport(connection: Any) -> asyncio.Transport:  # noqa: ANN401 - asyncpg tells of it nowhere else
    transport: asyncio.Transport = connection._transport  # noqa: SLF001
    return transport


async def _kept_alive(connection: Connection) -> None:
    """Turns on TCP keepalive; a Unix socket does not need it."""
    found = _transport(connection).get_extra_info("socket")
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            found.setsockopt(socket.IPPROTO_TCP, option, value)


def _session(role: str, application: str) -> dict[str, str]:
    return {
        "application_name": application,
        "role": role,
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_MAX_S}s",
        **_SERVER_KEEPALIVE,
    }
