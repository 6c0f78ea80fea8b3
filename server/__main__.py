"""One cell's process: `python -m server`. It serves the cell that server/process/cell.py builds."""

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from cells.background import Background, in_background, running
from cells.store.postgres import PostgresStore
from cells.writer.leadership import Leadership
from server.audit.build import check_checkpoint_file, head_seal
from server.process.cell import Parts, build_cell, open_store
from server.process.clock import CellClock
from server.process.embedded import database_of
from server.process.flows import sagas_of
from server.process.machine import SOUND, Machine
from server.process.metrics import cell_registry, watch_metrics
from server.process.policies import QUEUED, policies_of
from server.process.settings import ServerSettings
from server.services.auctions import AuctionServicer
from server.services.audit import AuditServicer
from server.services.contacts import ContactServicer
from server.services.events import EventServicer
from server.services.ledger import LedgerServicer
from server.services.moves import MoveServicer
from server.services.operations import OperationsServicer
from server.services.sagas import SagaServicer
from server.services.settlement import SettlementServicer
from server.shell.calls.guard import CallGuard
from server.shell.channels.client import cell_channels
from server.shell.channels.forwarding import LeaderForwarder
from server.shell.hosting.failures import reaching
from server.shell.hosting.host import GrpcHost, add_servicer
from server.shell.hosting.process import run_process
from server.shell.hosting.security import build_security
from server.shell.observability.logging import configure_logging, turn_level_by_signals
from server.shell.observability.metrics import CallMetrics, LoopCollector, MetricsEndpoint
from server.shell.observability.tracing import build_tracing
from server.shell.postgres import database
from server.shell.settings.host import load_settings_or_exit

log = structlog.get_logger()

POLL_S = 0.05
# Most calls end sooner; calls that have begun get the drain's grace.
HAND_OVER_S = 1.0
# How many more objects are made than freed before Python looks for cycles: a few batches' worth.
GARBAGE_THRESHOLD = 50_000

# Legs must not wait behind bids to be accepted.
LANES = frozenset({"cellbook.v1.SettlementService"})


def add_services(host: GrpcHost, parts: Parts) -> list[str]:
    """Returns their full names."""
    cell, vault, clock, history = parts.cell, parts.vault, parts.cell.time.clock, parts.audit.history
    confirmations = None if parts.mail_sender is None else parts.mail_sender.outbox
    servicers = (
        LedgerServicer(cell, clock, history, parts.signatures),
        AuctionServicer(cell, clock, history),
        SettlementServicer(cell, clock),
        SagaServicer(cell, parts.engine, history),
        EventServicer(cell, history),
        AuditServicer(parts.audit),
        ContactServicer(cell, vault, confirmations),
        MoveServicer(cell, clock, parts.handover),
        OperationsServicer(cell, parts.steps, parts.audit, lambda: parts.leadership.standing_by),
    )
    return [add_servicer(each, host.server) for each in servicers]


async def serve(settings: ServerSettings, machine: Machine) -> None:
    """Runs the cell until a signal; then drains, steps down and closes, in this order."""
    async with database_of(settings.dsn, settings.data) as dsn:
        store = await open_store(settings.cell, dsn, settings.saga_engine, settings.migrate_dsn, head_seal(settings))
        try:
            await serve_cell(settings.model_copy(update={"dsn": dsn}), store, machine)
        finally:
            await store.close()


async def serve_cell(settings: ServerSettings, store: PostgresStore, machine: Machine) -> None:
    """Listens at once, then leads when it can. Raises the error that ends it unasked: CannotServe, or a bug."""
    security, tracing = build_security(settings, settings.cell), build_tracing(settings, name=settings.cell)
    parts = build_cell(settings, store, security, tracing, machine)
    cell, peers, vault = parts.cell, parts.peers, parts.vault
    with reaching("dsn", settings.dsn):
        await database.patiently(lambda: check_checkpoint_file(parts.audit.proofs.checkpoint_signer, store))
        if vault is not None:
            await database.patiently(vault.prepare)
    registry = cell_registry(cell, parts.steps, parts.mail_sender, parts.audit)
    calls, tls = CallMetrics(registry), security.certificates
    forwarder = LeaderForwarder(
        cell=settings.cell, locations=peers.locations, channels=cell_channels(tls), proven=tls is not None
    )
    guard = CallGuard(
        policies_of(settings.cell),
        clock=CellClock(time=cell.time),
        queued=QUEUED,
        check_room=cell.check_room,
        observe=calls.observe,
        tracing=tracing,
        sagas_of=sagas_of,
        identity=security.identity,
        throttle=security.throttle,
        denied=calls.denied,
        streams_max=settings.streams_max,
        to_leader=forwarder,
    )
    registry.register(LoopCollector(lambda: watch_metrics(guard)))
    host = GrpcHost(settings, name=settings.cell, guard=guard, lanes=LANES, certificates=tls)
    metrics = MetricsEndpoint(
        settings.metrics,
        registry,
        insecure_listen=settings.insecure_listen,
        unready=partial(unready, parts.leadership, host),
    )
    services = add_services(host, parts)
    async with contextlib.AsyncExitStack() as stack:
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        stack.push_async_callback(peers.close)
        stack.push_async_callback(forwarder.close)
        stack.push_async_callback(metrics.stop)
        metrics.start()
        await host.start(services, serving=False, ready=False)
        host.tells["metrics"] = str(metrics.address or "")
        # Last: a process that cannot be called does not lead.
        await stack.enter_async_context(led(parts, host))
        await stack.enter_async_context(running(*security.tasks))
        await host.run_until_signalled()


@contextlib.asynccontextmanager
async def led(parts: Parts, host: GrpcHost) -> AsyncIterator[None]:
    """Leads whenever it can, while this is entered. If that ends unasked, the error is raised and ends the process."""
    leadership, accesses = parts.leadership, parts.cell.accesses
    leading = asyncio.create_task(leadership.run())
    leading.add_done_callback(lambda _: None if host.ending else host.end())
    handing_over = asyncio.create_task(hand_over(leadership, host))
    accesses.background.start()
    try:
        async with running(Telling(leadership=leadership, host=host).background):
            yield
    finally:
        await accesses.stop()
        handing_over.cancel()
        leadership.stop()
        await asyncio.wait([leading])
    leading.result()


def unready(leadership: Leadership, host: GrpcHost) -> str:
    """Why this process can serve no command, itself or by forwarding it to the leader; empty: it can."""
    if leadership.leading or leadership.standing_by:
        return host.unready()
    return host.unready() or "it neither leads nor sees another process lead: is the database there?"


async def hand_over(leadership: Leadership, host: GrpcHost) -> None:
    """Hands over to the standby without waiting for calls that are still under way, for example on other cells.

    The standby then leads; these calls are answered from durable state, or end with the drain and are sent again.
    """
    await host.drained_for(HAND_OVER_S)
    leadership.stop()


@dataclass(slots=True, kw_only=True)
class Telling(Background):
    """Sets the health status to whether this process takes commands.

    Writes the ready file once its role is known: it leads, or stands by while another process leads.
    """

    leadership: Leadership
    host: GrpcHost
    _serving: bool = False
    _ready: bool = False

    @in_background("health", every_s=POLL_S)
    async def tell(self) -> None:
        if self.leadership.leading is not self._serving:
            self.host.set_serving(serving=self.leadership.leading)
            self._serving = self.leadership.leading
        if not self._ready and (self._serving or self.leadership.standing_by):
            await self.host.tell_ready()
            self._ready = True
            log.info("ready", leading=self._serving)


def collect_garbage_seldom() -> None:
    """Makes Python collect cycles seldom: a cell holds many small objects for long, and makes few cycles.

    Collecting as often as Python does by default costs a quarter of the write path. Objects from before the start are
    never scanned again.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])


def main(argv: Sequence[str] | None = None) -> None:
    run(load_settings_or_exit(ServerSettings, sys.argv[1:] if argv is None else argv, program="server"))


def run(settings: ServerSettings, machine: Machine = SOUND) -> None:
    configure_logging(settings.log_level)
    turn_level_by_signals(settings.log_level)
    structlog.contextvars.bind_contextvars(cell=settings.cell)
    collect_garbage_seldom()
    run_process(serve(settings, machine), program="server", drain_grace_ms=settings.drain_grace_ms)


if __name__ == "__main__":
    main()
