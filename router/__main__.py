"""The composition root of the router's process: `python -m router`."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence

import structlog

from cells.background import running
from router.directory.cells import CellStore
from router.directory.database import AWAY, Database
from router.directory.follower import Follower
from router.directory.homes import Homes
from router.directory.probes import Probes
from router.directory.registration import Accounts, Registration, nobody_hears
from router.directory.snapshot import Copier, Snapshot
from router.directory.topology import LiveTopology, Topology
from router.directory.users import Directory
from router.metrics import router_registry
from router.moves.calls import MoveCalls
from router.moves.moves import Moves
from router.moves.store import MoveStore
from router.policies import POLICIES
from router.refusals import DirectoryUnavailable
from router.routing.proxy import Forwarder, ProxyingGuard
from router.service import RouterService
from router.settings import RouterSettings
from server.shell.channels.client import cell_channels, peer_channels
from server.shell.hosting.host import GrpcHost, add_servicer
from server.shell.hosting.process import run_process
from server.shell.hosting.security import build_security
from server.shell.observability.logging import configure_logging, turn_level_by_signals
from server.shell.observability.metrics import CallMetrics, MetricsEndpoint
from server.shell.observability.tracing import build_tracing
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.settings.host import load_settings_or_exit

log = structlog.get_logger()

NAME = "router"
PROGRAM = "python -m router"

# With a copy at hand, the start waits no longer than this for the database.
_FIRST_LOOK_S = 10.0


@contextlib.asynccontextmanager
async def directory_database(settings: RouterSettings, snapshot: Snapshot | None) -> AsyncIterator[Database]:
    """The configured database, or an embedded one, which runs while this is entered."""
    postgres = EmbeddedPostgres(settings.data) if settings.data is not None and not settings.dsn else None

    async def source() -> str:
        return settings.dsn if postgres is None else await postgres.database()

    database = Database(source, known=snapshot.directory_id if snapshot else "", migrate_dsn=settings.migrate_dsn)
    try:
        yield database
    finally:
        await database.close()
        if postgres is not None:
            await postgres.stop()


@contextlib.asynccontextmanager
async def first_look(follower: Follower, snapshot: Snapshot | None) -> AsyncIterator[None]:
    """Reads the directory; if its database is away or slow, uses the last known good copy.

    Raises:
        AWAY, Refused, MigrationFailed: there is nothing to serve.
    """
    copy = snapshot if snapshot is not None and snapshot.directory_id else None
    looking = asyncio.create_task(follower.poll())
    try:
        await asyncio.wait({looking}, timeout=_FIRST_LOOK_S if copy else None)
        problem = looking.exception() if looking.done() else f"nothing after {_FIRST_LOOK_S:.0f} s"
        if copy is not None and (isinstance(problem, (str, *AWAY, DirectoryUnavailable))):
            log.warning("serving_the_last_known_good_copy", problem=str(problem))
            follower.show_copy(copy.topology())
        else:
            looking.result()
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


@contextlib.asynccontextmanager
async def hosted(settings: RouterSettings) -> AsyncIterator[GrpcHost]:
    """The running router; the caller ends it by `run_until_signalled` or `stop`."""
    async with contextlib.AsyncExitStack() as stack:
        file = settings.snapshot_file
        snapshot = stack.enter_context(contextlib.closing(Snapshot(file))) if file is not None else None
        database = await stack.enter_async_context(directory_database(settings, snapshot))
        directory, cells, topology = Directory(database), CellStore(database), LiveTopology(Topology(()))
        follower = Follower(database=database, cells=cells, topology=topology, settings_cells=settings.cells)
        copier = Copier(directory=directory, cells=cells, snapshot=snapshot) if snapshot else None
        await stack.enter_async_context(first_look(follower, snapshot))
        security = build_security(settings)
        tls = security.certificates
        processes, leaders = peer_channels(tls), cell_channels(tls)
        stack.push_async_callback(processes.close)
        stack.push_async_callback(leaders.close)
        accounts, probes = Accounts(processes), Probes(topology, processes)
        homes = Homes(directory=directory, database=database, topology=topology, copier=copier)
        homed = copier.wake if copier else nobody_hears
        registration = Registration(directory=directory, accounts=accounts, topology=topology, homed=homed)
        calls = MoveCalls(topology=topology, channels=leaders)
        moves = Moves(store=MoveStore(database), directory=directory, accounts=accounts, topology=topology, calls=calls)
        service = RouterService(
            registration=registration,
            homes=homes,
            cells=cells,
            follower=follower,
            topology=topology,
            moves=moves,
        )
        registry = router_registry(topology, database)
        forwarder = Forwarder(directory=homes, topology=topology, channels=leaders)
        stack.push_async_callback(forwarder.homes.close)
        tracing = build_tracing(settings, name=NAME)
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        guard = ProxyingGuard(
            POLICIES,
            forwarder=forwarder,
            security=security,
            calls=CallMetrics(registry),
            streams_max=settings.streams_max,
            tracing=tracing,
        )
        host = GrpcHost(settings, name=NAME, guard=guard, certificates=tls)
        metrics = MetricsEndpoint(
            settings.metrics, registry, insecure_listen=settings.insecure_listen, unready=host.unready
        )
        metrics.start()
        stack.push_async_callback(metrics.stop)
        host.tells["metrics"] = str(metrics.address or "")
        services = [add_servicer(service, host.server)]
        tasks = (follower.background, probes.background, *([copier.background] if copier else []), *security.tasks)
        await stack.enter_async_context(running(*tasks))
        await host.start(services)
        yield host


async def serve(settings: RouterSettings) -> None:
    async with hosted(settings) as host:
        await host.run_until_signalled()


def main(argv: Sequence[str] | None = None) -> None:
    settings = load_settings_or_exit(RouterSettings, sys.argv[1:] if argv is None else argv, program=PROGRAM)
    configure_logging(settings.log_level)
    turn_level_by_signals(settings.log_level)
    run_process(serve(settings), program=PROGRAM, drain_grace_ms=settings.drain_grace_ms)


if __name__ == "__main__":
    main()
