"""The composition root of the router's process: `python -m router`."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import asyncpg
import uvloop
from prometheus_client import CollectorRegistry

from cellbook.v1 import router_pb2, router_pb2_grpc
from router.accounts import Accounts
from router.database import Database
from router.directory import Directory
from router.follower import Follower
from router.operations import Operations
from router.policies import POLICIES
from router.probes import Probes
from router.registration import Registration
from router.service import RouterService
from router.settings import RouterSettings
from router.topology import LiveTopology, Topology
from server.shell.config import load_settings_or_exit
from server.shell.database import MigrationFailed
from server.shell.hosting import GrpcHost, ListenFailed, closing_on_sigterm
from server.shell.interceptors import CallGuard
from server.shell.logging import configure_logging
from server.shell.metrics import CallMetrics, MetricsEndpoint, MetricsFailed
from server.shell.postgres import EmbeddedPostgres
from server.shell.postgres_host import PostgresFailed
from server.shell.refusals import Refused

NAME = "router"
PROGRAM = "python -m router"
DATABASE = "cellbook"
SERVICE = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name

# What an operator can mend: said in a line, without a traceback.
_FAILURES = (
    ListenFailed,
    MigrationFailed,
    PostgresFailed,
    Refused,
    MetricsFailed,
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
)


@contextlib.asynccontextmanager
async def directory_database(settings: RouterSettings) -> AsyncIterator[Database]:
    """That of the settings, or an embedded one, which runs for as long as this is entered."""
    postgres = EmbeddedPostgres(settings.data) if settings.data is not None and not settings.dsn else None

    async def source() -> str:
        if postgres is None:
            return settings.dsn
        await postgres.start()
        await postgres.ensure_database(DATABASE)
        return postgres.dsn(DATABASE)

    database = Database(source)
    try:
        yield database
    finally:
        await database.close()
        if postgres is not None:
            await postgres.stop()


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What goes on beside the calls, for as long as this is entered."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def hosted(settings: RouterSettings) -> AsyncIterator[GrpcHost]:
    """The router, serving; the caller ends it by `run_until_signalled` or `stop`."""
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(directory_database(settings))
        directory, operations, topology = Directory(database), Operations(database), LiveTopology(Topology([]))
        follower = Follower(database=database, operations=operations, topology=topology, settings_cells=settings.cells)
        await follower.look()
        accounts, probes = Accounts(), Probes(topology)
        stack.push_async_callback(accounts.close)
        stack.push_async_callback(probes.close)
        registration = Registration(directory=directory, accounts=accounts, topology=topology)
        service = RouterService(
            registration=registration,
            directory=directory,
            operations=operations,
            follower=follower,
            topology=topology,
        )
        registry = CollectorRegistry()
        metrics = MetricsEndpoint(settings.metrics, registry, insecure_listen=settings.insecure_listen)
        metrics.start()
        stack.push_async_callback(metrics.stop)
        host = GrpcHost(settings, name=NAME, guard=CallGuard(POLICIES, observe=CallMetrics(registry).observe))
        host.tells["metrics"] = str(metrics.address or "")
        router_pb2_grpc.add_RouterServiceServicer_to_server(service, host.server)
        await stack.enter_async_context(running(follower.run(), probes.run()))
        await host.start([SERVICE])
        yield host


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
