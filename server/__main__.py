"""One cell's process: `python -m server`. This is the composition root: everything is wired here."""

import asyncio
import contextlib
import gc
import random
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import structlog

from cellbook.v1 import auction_pb2, audit_pb2, contact_pb2, event_pb2, ledger_pb2, move_pb2, saga_pb2, settlement_pb2
from cellbook.v1.auction_pb2_grpc import add_AuctionServiceServicer_to_server
from cellbook.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from cellbook.v1.contact_pb2_grpc import add_ContactServiceServicer_to_server
from cellbook.v1.event_pb2_grpc import add_EventServiceServicer_to_server
from cellbook.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from cellbook.v1.move_pb2_grpc import add_MoveServiceServicer_to_server
from cellbook.v1.saga_pb2_grpc import add_SagaServiceServicer_to_server
from cellbook.v1.settlement_pb2_grpc import add_SettlementServiceServicer_to_server
from cells.audit.history.snapshots import snapshot_key
from cells.background import BackgroundTask
from cells.cell import Cell
from cells.domain.decision import LedgerPolicy
from cells.domain.time.hlc import HybridLogicalClock
from cells.encoding.head_seal import HeadSeal
from cells.moves.history_exporter import HistoryExporter
from cells.sagas.alarm import StuckAlarm
from cells.sagas.steps import Steps
from cells.store.ports import Clock
from cells.store.postgres import PostgresStore
from cells.time.celltime import CellTime
from cells.time.clocks import UuidV7Ids
from cells.writer.timers import Timers
from cells.writer.writer import Writer
from server.audit.build import add_proofs, build_audit, build_books, check_checkpoint_file, head_seal, tell_the_log
from server.audit.keys import keys_of
from server.audit.metrics import trouble
from server.audit.signatures import CallerSignatures, signatures_of
from server.contacts.earlier_homes import EarlierHomes
from server.contacts.handover import Handover
from server.contacts.vault import Vault
from server.forwarder import build_forwarder
from server.mail.build import build_mail_sender, build_vault
from server.mail.confirmations import Confirmations
from server.mail.null_mailer import NullMailer
from server.mail.outbox import Outbox
from server.mail.sender import MailSender
from server.peers import GrpcPeers, RouterDirectory
from server.process.clock import CellClock
from server.process.embedded import database_of
from server.process.flows import sagas_of
from server.process.machine import SOUND, Machine
from server.process.metrics import cell_registry
from server.process.policies import QUEUED, policies_of
from server.process.settings import ServerSettings
from server.sagas import build_engine
from server.services.auctions import AuctionServicer
from server.services.audit import AuditServicer
from server.services.audit_parts import AuditParts
from server.services.contacts import ContactServicer
from server.services.events import EventServicer
from server.services.ledger import LedgerServicer
from server.services.moves import MoveServicer
from server.services.sagas import SagaServicer
from server.services.settlement import SettlementServicer
from server.shell.calls.guard import CallGuard
from server.shell.channels.client import Caller, places_of
from server.shell.hosting.failures import reaching
from server.shell.hosting.host import GrpcHost
from server.shell.hosting.process import run_process
from server.shell.identity.principal import Principal, Role
from server.shell.identity.security import Security, build_security
from server.shell.observability.logging import LevelSignals, configure_logging
from server.shell.observability.metrics import CallMetrics, MetricsEndpoint
from server.shell.observability.tracing import Tracing, build_tracing, nothing_outgoing
from server.shell.postgres import database
from server.shell.settings.host import load_settings_or_exit

log = structlog.get_logger()

CELL_ROLE = "cellbook_cell"
READ_CONNECTIONS_MAX = 8
# The writer looks up one thing at a time; the other connections are for the election and for a new leader's start.
LEADER_CONNECTIONS_MAX = 3
POLL_S = 0.05
# Most calls end sooner; calls that have begun get the drain's grace.
HAND_OVER_S = 1.0
# How many more objects are made than freed before Python looks for cycles: a few batches' worth.
GARBAGE_THRESHOLD = 50_000

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (ledger_pb2, "LedgerService"),
        (auction_pb2, "AuctionService"),
        (settlement_pb2, "SettlementService"),
        (saga_pb2, "SagaService"),
        (event_pb2, "EventService"),
        (audit_pb2, "AuditService"),
        (contact_pb2, "ContactService"),
        (move_pb2, "MoveService"),
    )
)

# Legs must not wait behind bids to be accepted.
LANES = frozenset({"cellbook.v1.SettlementService"})


async def open_store(
    cell: str, dsn: str, saga_engine: str = "native", migrate_dsn: str = "", seal: HeadSeal | None = None
) -> PostgresStore:
    """The cell's event store, in a database that is migrated first, with the login `migrate_dsn` if it is set.

    Raises:
        CannotServe: it cannot be used, or belongs to another cell or engine.
    """
    with reaching("migrate_dsn" if migrate_dsn else "dsn", migrate_dsn or dsn):
        await database.migrate(migrate_dsn or dsn, "cells.sql")
    with reaching("dsn", dsn):
        return await database.patiently(lambda: _opened(cell, dsn, saga_engine, seal))


async def connect_writer(dsn: str, application: str) -> database.Connection:
    return await database.connect(dsn, role=CELL_ROLE, application=application, command_timeout_s=None)


async def _opened(cell: str, dsn: str, saga_engine: str, seal: HeadSeal | None) -> PostgresStore:
    async def open_pool(what: str, size_max: int) -> database.Pool:
        return await database.open_pool(dsn, role=CELL_ROLE, application=f"cellbook/{cell}/{what}", size_max=size_max)

    store = PostgresStore(
        cell=cell,
        connect=partial(connect_writer, dsn),
        reads=await open_pool("reads", READ_CONNECTIONS_MAX),
        leads=await open_pool("leads", LEADER_CONNECTIONS_MAX),
        saga_engine=saga_engine,
        seal=seal,
        outcome_seal=seal.outcomes if seal is not None else None,
    )
    try:
        await store.prepare()
    except BaseException:
        await store.close()
        raise
    return store


class Parts(NamedTuple):
    cell: Cell
    steps: Steps
    peers: GrpcPeers
    vault: Vault | None
    mail_sender: MailSender | None
    audit: AuditParts
    handover: Handover
    signatures: CallerSignatures


def build_cell(
    settings: ServerSettings,
    store: PostgresStore,
    security: Security,
    tracing: Tracing | None = None,
    machine: Machine = SOUND,
) -> Parts:
    """The cell with its writer, engine, timers and connections to the other cells."""
    clock, failpoints = machine
    ids = UuidV7Ids(clock)
    time = _build_time(settings, clock)
    leads = store.of_leader()
    writer = Writer(store=leads, ids=ids, time=time, policy=_terms(settings), batch_max=settings.batch_max)
    caller = Caller(
        Principal(role=Role.PEER, name=settings.cell),
        CellClock(time=time),
        tracing.outgoing if tracing else nothing_outgoing,
    )
    places = places_of(security.certificates)
    directory = RouterDirectory(router=settings.router, places=places, caller=caller, static=settings.peers)
    peers = GrpcPeers(static=settings.peers, directory=directory, places=places, caller=caller)
    vault, outbox = build_vault(settings, store.reads), Outbox(pool=store.reads)
    mail_sender = build_mail_sender(settings, outbox, vault, clock)
    handover = Handover(cell=settings.cell, vault=vault, peers=peers)
    cell = Cell(
        name=settings.cell,
        store=store,
        time=time,
        writer=writer,
        directory=directory,
        notifier=outbox if settings.smtp else NullMailer(),
        mail_sender=mail_sender,
        earlier_homes=EarlierHomes(cell=settings.cell, vault=vault, peers=peers) if vault is not None else None,
        contacts=handover,
        failpoints=failpoints,
    )
    steps = Steps(
        cell=settings.cell,
        peers=peers,
        clock=clock,
        ids=ids,
        execute=cell.execute,
        random=random.Random(),  # noqa: S311 - jitter
        history_exporter=HistoryExporter(
            cell=settings.cell, store=store, peers=peers, clock=clock, valid_ms=settings.move_valid_ms
        ),
        failpoints=failpoints,
    )
    if tracing is not None:
        steps.traced = tracing.leg
    cell.engine = build_engine(settings, leads, steps)
    cell.timers = Timers(cell=settings.cell, store=leads, clock=clock, ids=ids, execute=cell.execute)
    cell.alarm = StuckAlarm(engine=cell.engine, clock=clock)
    proofs, books = add_proofs(settings, cell, store, peers), build_books(settings, cell, store, peers, ids)
    tell_the_log(cell, books.reconciliation)
    audit = build_audit(cell, store, peers, proofs=proofs, books=books, key=snapshot_key(keys_of(settings)))
    return Parts(cell, steps, peers, vault, mail_sender, audit, handover, signatures_of(settings))


def _terms(settings: ServerSettings) -> LedgerPolicy:
    return LedgerPolicy(
        settlement_timeout_ms=settings.settlement_timeout_ms,
        bid_valid_ms=settings.bid_valid_ms,
        transfer_valid_ms=settings.transfer_valid_ms,
        user_flows_max=settings.user_flows_max,
        move_valid_ms=settings.move_valid_ms,
        fee_bps=settings.fee_bps,
    )


def _build_time(settings: ServerSettings, clock: Clock) -> CellTime:
    return CellTime(
        cell=settings.cell,
        clock=clock,
        hlc=HybridLogicalClock(max_offset_ms=settings.max_offset_ms),
        accepted_position=settings.accepted_position,
        forgotten=frozenset(settings.forgotten_cells),
    )


def add_services(host: GrpcHost, parts: Parts) -> None:
    cell, vault, clock = parts.cell, parts.vault, parts.cell.time.clock
    confirmations = None if parts.mail_sender is None else Confirmations(parts.mail_sender.outbox)
    add_LedgerServiceServicer_to_server(LedgerServicer(cell, clock, parts.audit.history, parts.signatures), host.server)
    add_AuctionServiceServicer_to_server(AuctionServicer(cell, clock, parts.audit.history), host.server)
    add_SettlementServiceServicer_to_server(SettlementServicer(cell, clock), host.server)
    add_SagaServiceServicer_to_server(SagaServicer(cell, clock, parts.audit.history), host.server)
    add_EventServiceServicer_to_server(EventServicer(cell), host.server)
    add_AuditServiceServicer_to_server(AuditServicer(parts.audit), host.server)
    add_ContactServiceServicer_to_server(ContactServicer(cell, vault, confirmations), host.server)
    add_MoveServiceServicer_to_server(MoveServicer(cell, clock, parts.handover), host.server)


async def serve(settings: ServerSettings, machine: Machine) -> None:
    """Runs the cell until a signal; then drains, steps down and closes, in this order."""
    async with database_of(settings) as dsn:
        store = await open_store(settings.cell, dsn, settings.saga_engine, settings.migrate_dsn, head_seal(settings))
        try:
            await serve_cell(settings.model_copy(update={"dsn": dsn}), store, machine)
        finally:
            await store.close()


async def serve_cell(settings: ServerSettings, store: PostgresStore, machine: Machine) -> None:
    """Listens at once, then leads when it can. Raises the error that ends it unasked: CannotServe, or a bug."""
    security, tracing = build_security(settings, settings.cell), build_tracing(settings, name=settings.cell)
    parts = build_cell(settings, store, security, tracing, machine)
    cell, steps, peers, vault, mail_sender, *_ = parts
    with reaching("dsn", settings.dsn):
        await database.patiently(lambda: check_checkpoint_file(cell))
        if vault is not None:
            await database.patiently(vault.prepare)
    registry = cell_registry(cell, steps, mail_sender)
    calls, forwarder = CallMetrics(registry), build_forwarder(settings.cell, peers, security)
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
        trouble=partial(trouble, cell),
    )
    host = GrpcHost(settings, name=settings.cell, guard=guard, lanes=LANES, certificates=security.certificates)
    metrics = MetricsEndpoint(
        settings.metrics, registry, insecure_listen=settings.insecure_listen, unready=partial(unready, cell, host)
    )
    add_services(host, parts)
    async with contextlib.AsyncExitStack() as stack:
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        stack.push_async_callback(peers.close)
        stack.push_async_callback(forwarder.close)
        stack.push_async_callback(metrics.stop)
        metrics.start()
        await host.start(SERVICES, serving=False, ready=False)
        host.tells["metrics"] = str(metrics.address or "")
        # Last: a process that cannot be called does not lead.
        await stack.enter_async_context(led(cell, host))
        await stack.enter_async_context(security.running())
        await host.run_until_signalled()


@contextlib.asynccontextmanager
async def led(cell: Cell, host: GrpcHost) -> AsyncIterator[None]:
    """Leads whenever it can, while this is entered. If that ends unasked, the error is raised and ends the process."""
    leading = asyncio.create_task(cell.run())
    leading.add_done_callback(lambda _: None if host.ending else host.end())
    handing_over = asyncio.create_task(hand_over(cell, host))
    telling = Telling(cell=cell, host=host)
    telling.background.start()
    if cell.accesses is not None:
        cell.accesses.background.start()
    try:
        yield
    finally:
        await telling.background.stop()
        if cell.accesses is not None:
            await cell.accesses.stop()
        handing_over.cancel()
        cell.stop()
        await asyncio.wait([leading])
    leading.result()


def unready(cell: Cell, host: GrpcHost) -> str:
    """Why this process can serve no command, itself or by forwarding it to the leader; empty: it can."""
    if cell.leading or cell.standing_by:
        return host.unready()
    return host.unready() or "it neither leads nor sees another process lead: is the database there?"


async def hand_over(cell: Cell, host: GrpcHost) -> None:
    """Hands over to the standby without waiting for calls that are still under way, for example on other cells.

    The standby then leads; these calls are answered from durable state, or end with the drain and are sent again.
    """
    await host.drained_for(HAND_OVER_S)
    cell.stop()


@dataclass(slots=True, kw_only=True)
class Telling:
    """Sets the health status to whether this process takes commands.

    Writes the ready file once its role is known: it leads, or stands by while another process leads.
    """

    cell: Cell
    host: GrpcHost
    _serving: bool = False
    _ready: bool = False
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="health", work=self.tell, every_s=POLL_S)

    async def tell(self) -> None:
        if self.cell.leading is not self._serving:
            self.host.set_serving(serving=self.cell.leading)
            self._serving = self.cell.leading
        if not self._ready and (self._serving or self.cell.standing_by):
            await self.host.tell_ready()
            self._ready = True
            log.info("ready", leading=self._serving)


def collect_garbage_seldom() -> None:
    """Makes Python collect cycles seldom: a cell holds many small objects for long, and makes few cycles.

    Collecting as often as Python does by default costs a quarter of the write path. Objects from before the start are
    never scanned again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])


def main(argv: Sequence[str] | None = None) -> None:
    run(load_settings_or_exit(ServerSettings, sys.argv[1:] if argv is None else argv, program="server"))


def run(settings: ServerSettings, machine: Machine = SOUND) -> None:
    configure_logging(settings.log_level)
    LevelSignals(settings.log_level).listen()
    structlog.contextvars.bind_contextvars(cell=settings.cell)
    collect_garbage_seldom()
    run_process(serve(settings, machine), program="server", drain_grace_ms=settings.drain_grace_ms)


if __name__ == "__main__":
    main()
