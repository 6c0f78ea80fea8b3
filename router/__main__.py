"""The composition root of the router's process: `python -m router`."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence

import asyncpg
import uvloop
from prometheus_client import CollectorRegistry

from cellbook.v1 import router_pb2, router_pb2_grpc
from router.accounts import Accounts
from router.directory import Directory, RegionChanged
from router.policies import POLICIES
from router.registration import Registration
from router.service import RouterService
from router.settings import RouterSettings
from server.shell.config import load_settings_or_exit
from server.shell.database import MigrationFailed, Pool, migrate, open_pool
from server.shell.hosting import GrpcHost, ListenFailed, closing_on_sigterm
from server.shell.interceptors import CallGuard
from server.shell.logging import configure_logging
from server.shell.metrics import CallMetrics, MetricsEndpoint, MetricsFailed
from server.shell.postgres import EmbeddedPostgres
from server.shell.postgres_host import PostgresFailed

NAME = "router"
PROGRAM = "python -m router"
DATABASE = "cellbook"
ROLE = "cellbook_cell"
SERVICE = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name
# Statements are few and short: calls that come together share them.
_CONNECTIONS_MAX = 4
_CLOSE_TIMEOUT_S = 5.0

# What an operator can mend: said in a line, without a traceback.
_FAILURES = (
    ListenFailed,
    MigrationFailed,
    PostgresFailed,
    RegionChanged,
    MetricsFailed,
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
)


@contextlib.asynccontextmanager
async def database(settings: RouterSettings) -> AsyncIterator[str]:
    """The DSN of the one that the settings name, or of an embedded one for as long as this is entered."""
    if settings.dsn or settings.data is None:
        yield settings.dsn
        return
    postgres = EmbeddedPostgres(settings.data)
    await postgres.start()
    try:
        await postgres.ensure_database(DATABASE)
        yield postgres.dsn(DATABASE)
    finally:
        await postgres.stop()


@contextlib.asynccontextmanager
async def hosted(settings: RouterSettings) -> AsyncIterator[GrpcHost]:
    """The router, serving; the caller ends it by `run_until_signalled` or `stop`."""
    async with contextlib.AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(database(settings))
        await migrate(dsn, "router.sql")
        pool = await open_pool(dsn, role=ROLE, application="cellbook-router", size_max=_CONNECTIONS_MAX)
        stack.push_async_callback(_close, pool)
        directory = Directory(pool)
        topology = await directory.adopt(settings.cells)
        accounts = Accounts()
        stack.push_async_callback(accounts.close)
        registration = Registration(directory=directory, accounts=accounts, topology=topology)
        service = RouterService(registration=registration, directory=directory, topology=topology)
        registry = CollectorRegistry()
        metrics = MetricsEndpoint(settings.metrics, registry, insecure_listen=settings.insecure_listen)
        metrics.start()
        stack.push_async_callback(metrics.stop)
        host = GrpcHost(settings, name=NAME, guard=CallGuard(POLICIES, observe=CallMetrics(registry).observe))
        host.tells["metrics"] = str(metrics.address or "")
        router_pb2_grpc.add_RouterServiceServicer_to_server(service, host.server)
        await host.start([SERVICE])
        yield host


async def _close(pool: Pool) -> None:
    try:
        await asyncio.wait_for(pool.close(), _CLOSE_TIMEOUT_S)
    except TimeoutError:
        pool.terminate()


async def serve(settings: RouterSettings) -> None:
    async with hosted(settings) as host:
        await host.run_until_signalled()


def main(argv: Sequence[str] | None = None) -> None:
    settings = load_settings_or_exit(RouterSettings, sys.argv[1:] if argv is None else argv, program=PROGRAM)
    configure_logging(settings.log_level)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(closing_on_sigterm(serve(settings)))
    except _FAILURES as failure:
        sys.exit(f"{PROGRAM}: {failure}")


if __name__ == "__main__":
    main()
