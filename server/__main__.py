"""One cell's process: `python -m server`. Everything is wired here and nowhere else."""

import asyncio
import contextlib
import gc
import random
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import structlog
import uvloop

from cellbook.v1 import auction_pb2, audit_pb2, contact_pb2, event_pb2, ledger_pb2, move_pb2, saga_pb2, settlement_pb2
from cellbook.v1.auction_pb2_grpc import add_AuctionServiceServicer_to_server
from cellbook.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from cellbook.v1.contact_pb2_grpc import add_ContactServiceServicer_to_server
from cellbook.v1.event_pb2_grpc import add_EventServiceServicer_to_server
from cellbook.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from cellbook.v1.move_pb2_grpc import add_MoveServiceServicer_to_server
from cellbook.v1.saga_pb2_grpc import add_SagaServiceServicer_to_server
from cellbook.v1.settlement_pb2_grpc import add_SettlementServiceServicer_to_server
from cells.audit.snapshots import snapshot_key
from cells.cell import Cell
from cells.celltime import CellTime
from cells.clocks import SystemClock, UuidV7Ids
from cells.domain.decision import Terms
from cells.domain.hlc import HybridLogicalClock
from cells.failpoints import FailingClock, Failpoints
from cells.head_seal import HeadSeal
from cells.ports import Clock
from cells.sagas.alarm import StuckAlarm
from cells.sagas.porter import Porter
from cells.sagas.steps import Steps
from cells.store import PostgresStore
from cells.timers import Timers
from cells.unusable import CANNOT_LEAD
from cells.writer import Writer
from server.audit import build_audit, build_books
from server.clock import CellClock
from server.contacts.erasures import ErasuresInvalid
from server.contacts.handover import Handover
from server.contacts.seals import KeyFileInvalid
from server.contacts.vault import Vault
from server.flows import sagas_of
from server.forwarder import build_forwarder
from server.keyfile import keys_of
from server.mail.build import build_courier, build_vault
from server.mail.confirmations import Confirmations
from server.mail.courier import Courier
from server.mail.nowhere import NoMail
from server.mail.outbox import Outbox
from server.metrics import cell_registry
from server.peers import GrpcPeers, RouterDirectory
from server.policies import QUEUED, policies_of
from server.proof_metrics import trouble
from server.proofs import PROOFS_CANNOT_START, add_proofs, check_memo, head_seal, tell_the_log
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
from server.settings import ServerSettings
from server.shell import database
from server.shell.client import Caller, places_of
from server.shell.config import SettingsInvalid, load_settings_or_exit
from server.shell.hosting import GrpcHost, closing_on_sigterm
from server.shell.interceptors import CallGuard
from server.shell.logging import LevelSignals, configure_logging
from server.shell.metrics import CallMetrics, MetricsEndpoint, MetricsFailed
from server.shell.postgres import EmbeddedPostgres
from server.shell.principal import Principal, Role
from server.shell.security import Security, SecurityInvalid, build_security
from server.shell.tracing import Tracing, build_tracing, nothing_outgoing

log = structlog.get_logger()

DATABASE = "cellbook"
CELL_ROLE = "cellbook_cell"
READ_CONNECTIONS_MAX = 8
# The writer looks up one thing at a time; the others are for the election, and for what starts with a leader.
LEADER_CONNECTIONS_MAX = 3
LOOK_S = 0.05
# Most calls end sooner; of the others those that have begun, by the grace of the drain.
HAND_OVER_S = 1.0
# Files that the settings name, and that an operator can mend.
_UNUSABLE = (KeyFileInvalid, ErasuresInvalid, SecurityInvalid)
# So many more objects made than freed before Python looks for cycles: some batches' worth.
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

# Legs are not to wait for bids to be accepted.
LANES = frozenset({"cellbook.v1.SettlementService"})


async def open_store(
    cell: str, dsn: str, saga_engine: str = "native", migrate_dsn: str = "", seal: HeadSeal | None = None
) -> PostgresStore:
    """The cell's event store in a database that is migrated first, by whom `migrate_dsn` logs in where it is given.

    Raises:
        ValueError: it is another cell's.
        SagasOfAnotherEngine: what is in flight there is not for this engine.
    """
    await database.migrate(migrate_dsn or dsn, "cells.sql")

    async def open_pool(what: str, size_max: int) -> database.Pool:
        return await database.open_pool(dsn, role=CELL_ROLE, application=f"cellbook/{cell}/{what}", size_max=size_max)

    store = PostgresStore(
        cell=cell,
        connect=lambda application: database.connect(dsn, role=CELL_ROLE, application=application),
        reads=await open_pool("reads", READ_CONNECTIONS_MAX),
        leads=await open_pool("leads", LEADER_CONNECTIONS_MAX),
        saga_engine=saga_engine,
        seal=seal,
    )
    await store.prepare()
    return store


class Parts(NamedTuple):
    cell: Cell
    steps: Steps
    peers: GrpcPeers
    vault: Vault | None
    courier: Courier | None
    audit: AuditParts
    handover: Handover


def build_cell(
    settings: ServerSettings, store: PostgresStore, security: Security, tracing: Tracing | None = None
) -> Parts:
    """The cell with its clock, writer, engine, timers and the way to the others."""
    failpoints = Failpoints(frozenset(filter(None, settings.failpoints.split(","))))
    clock = FailingClock(failpoints) if settings.failpoints else SystemClock()
    ids = UuidV7Ids(clock)
    time = _build_time(settings, clock)
    terms = Terms(
        settlement_timeout_ms=settings.settlement_timeout_ms,
        bid_valid_ms=settings.bid_valid_ms,
        transfer_valid_ms=settings.transfer_valid_ms,
        user_flows_max=settings.user_flows_max,
        move_valid_ms=settings.move_valid_ms,
        fee_bps=settings.fee_bps,
    )
    leads = store.of_leader()
    writer = Writer(store=leads, ids=ids, time=time, terms=terms, batch_max=settings.batch_max)
    caller = Caller(
        Principal(role=Role.PEER, name=settings.cell),
        CellClock(time=time),
        tracing.outgoing if tracing else nothing_outgoing,
    )
    places = places_of(security.certificates)
    directory = RouterDirectory(router=settings.router, places=places, caller=caller, static=settings.peers)
    peers = GrpcPeers(static=settings.peers, directory=directory, places=places, caller=caller)
    vault, outbox = build_vault(settings, store.reads), Outbox(pool=store.reads)
    courier = build_courier(settings, outbox, vault, clock)
    handover = Handover(cell=settings.cell, vault=vault, peers=peers)
    cell = Cell(
        name=settings.cell,
        store=store,
        time=time,
        writer=writer,
        directory=directory,
        notifier=outbox if settings.smtp else NoMail(),
        courier=courier,
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
        porter=Porter(cell=settings.cell, store=store, peers=peers),
        failpoints=failpoints,
    )
    if tracing is not None:
        steps.traced = tracing.leg
    cell.engine = build_engine(settings, leads, steps)
    cell.timers = Timers(cell=settings.cell, store=leads, clock=clock, ids=ids, execute=cell.execute)
    cell.alarm = StuckAlarm(engine=cell.engine, clock=clock)
    proofs, books = add_proofs(settings, cell, store, peers), build_books(settings, cell, store, peers, ids)
    tell_the_log(cell, books.desk)
    key = snapshot_key(keys_of(settings))
    audit = build_audit(cell, store, peers, proofs=proofs, books=books, key=key)
    return Parts(cell, steps, peers, vault, courier, audit, handover)


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
    confirmations = None if parts.courier is None else Confirmations(parts.courier.outbox)
    add_LedgerServiceServicer_to_server(LedgerServicer(cell, clock, parts.audit.history), host.server)
    add_AuctionServiceServicer_to_server(AuctionServicer(cell, clock, parts.audit.history), host.server)
    add_SettlementServiceServicer_to_server(SettlementServicer(cell, clock), host.server)
    add_SagaServiceServicer_to_server(SagaServicer(cell, clock, parts.audit.history), host.server)
    add_EventServiceServicer_to_server(EventServicer(cell), host.server)
    add_AuditServiceServicer_to_server(AuditServicer(parts.audit), host.server)
    add_ContactServiceServicer_to_server(ContactServicer(cell, vault, confirmations), host.server)
    add_MoveServiceServicer_to_server(MoveServicer(cell, clock, parts.handover), host.server)


async def serve(settings: ServerSettings) -> None:
    """Runs the cell until a signal; then drains, steps down and closes, in this order."""
    postgres = None
    dsn = settings.dsn
    if not dsn and settings.data is not None:
        postgres = EmbeddedPostgres(settings.data)
        await postgres.start()
        await postgres.ensure_database(DATABASE)
        dsn = postgres.dsn(DATABASE)
    try:
        store = await open_store(settings.cell, dsn, settings.saga_engine, settings.migrate_dsn, head_seal(settings))
        try:
            await serve_cell(settings.model_copy(update={"dsn": dsn}), store)
        finally:
            await store.close()
    finally:
        if postgres is not None:
            await postgres.stop()


async def serve_cell(settings: ServerSettings, store: PostgresStore) -> None:
    """Listens at once, leading or not. Raises what ends the cell's life unasked: only a bug does."""
    security, tracing = build_security(settings, settings.cell), build_tracing(settings, name=settings.cell)
    parts = build_cell(settings, store, security, tracing)
    cell, steps, peers, vault, courier, *_ = parts
    await check_memo(cell)
    if vault is not None:
        await vault.prepare()
    registry = cell_registry(cell, steps, courier)
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
    leading = asyncio.create_task(cell.run())
    following = asyncio.create_task(follow_leadership(cell, host))
    handing_over = asyncio.create_task(hand_over(cell, host))
    for task in (leading, following):
        task.add_done_callback(lambda _: None if host.ending else host.end())
    try:
        metrics.start()
        await host.start(SERVICES, serving=False, ready=False)
        host.tells["metrics"] = str(metrics.address or "")
        async with security.running():
            await host.run_until_signalled()
    finally:
        following.cancel()
        handing_over.cancel()
        cell.stop()
        await asyncio.wait([leading, following])
        await metrics.stop()
        await forwarder.close()
        await peers.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    leading.result()
    with contextlib.suppress(asyncio.CancelledError):
        following.result()


def unready(cell: Cell, host: GrpcHost) -> str:
    """Why this process can serve no command, by itself or by forwarding it to the leader; empty: it can."""
    if cell.leading or cell.standing_by:
        return host.unready()
    return host.unready() or "it neither leads nor sees another process lead: is the database there?"


async def hand_over(cell: Cell, host: GrpcHost) -> None:
    """Calls that are still under way, as they wait for other cells say, do not keep the standby waiting.

    It leads then, and they are answered by what is durable, or end with the drain and are sent again.
    """
    await host.drained_for(HAND_OVER_S)
    cell.stop()


async def follow_leadership(cell: Cell, host: GrpcHost) -> None:
    """Health says whether this process takes commands.

    The ready file comes once its part is known: it leads, or it stands by while another one does.
    """
    serving, ready = False, False
    while True:
        await asyncio.sleep(LOOK_S)
        if host.address is None:
            continue
        if cell.leading is not serving:
            serving = cell.leading
            host.set_serving(serving=serving)
        if not ready and (serving or cell.standing_by):
            ready = True
            await host.tell_ready()
            log.info("ready", leading=serving)


def collect_garbage_seldom() -> None:
    """A cell holds many small objects for long and makes few cycles: looked through as often as Python does by default,

    they cost a quarter of the write path. What is there before the start stays: it is never looked through again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])


def main(argv: Sequence[str] | None = None) -> None:
    settings = load_settings_or_exit(ServerSettings, sys.argv[1:] if argv is None else argv, program="server")
    configure_logging(settings.log_level)
    LevelSignals(settings.log_level).listen()
    structlog.contextvars.bind_contextvars(cell=settings.cell)
    collect_garbage_seldom()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(closing_on_sigterm(serve(settings)))
    except (
        *CANNOT_LEAD,
        SettingsInvalid,
        MetricsFailed,
        *_UNUSABLE,
        *PROOFS_CANNOT_START,
    ) as refusal:
        sys.exit(f"server: {refusal}")


if __name__ == "__main__":
    main()
