"""Builds a cell from its settings: its store, and everything that works on it. The composition root."""

import random
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cells.audit.history.snapshots import snapshot_key
from cells.audit.reconcile.replay_state import AuditStateStore
from cells.cell import Cell
from cells.domain.decision import LedgerPolicy
from cells.domain.time.hlc import HybridLogicalClock
from cells.encoding.head_seal import HeadSeal
from cells.moves.history_exporter import HistoryExporter
from cells.sagas.alarm import StuckAlarm
from cells.sagas.engine import SagaEngine
from cells.sagas.executions import SagaExecutions
from cells.sagas.steps import Steps, untraced
from cells.store.ports import Clock, Ids
from cells.store.postgres import PostgresStore
from cells.time.celltime import CellTime
from cells.time.clocks import UuidV7Ids
from cells.writer.leadership import Leadership, Task
from cells.writer.timers import Timers
from cells.writer.writer import Writer
from server.audit.build import (
    access_log_of,
    build_audit,
    build_proofs,
    build_reconciliation,
    reloading,
)
from server.audit.keys import keys_of
from server.audit.signatures import CallerSignatures, signatures_of
from server.contacts.earlier_homes import EarlierHomes
from server.contacts.handover import Handover
from server.contacts.vault import Vault
from server.mail.build import build_mail_sender, build_vault
from server.mail.outbox import NullMailer, Outbox
from server.mail.sender import MailSender
from server.peers import GrpcPeers
from server.process.clock import CellClock
from server.process.machine import SOUND, Machine
from server.process.settings import ServerSettings
from server.sagas import build_engine
from server.services.audit_parts import AuditParts
from server.shell.channels.client import Caller, peer_channels
from server.shell.channels.location_cache import LocationCache
from server.shell.hosting.failures import reaching
from server.shell.hosting.security import Security
from server.shell.identity.principal import Principal, Role
from server.shell.observability.tracing import nothing_outgoing
from server.shell.postgres import database

if TYPE_CHECKING:
    from server.shell.calls.otel import OtelTracing

READ_CONNECTIONS_MAX = 8
# The writer looks up one thing at a time; the other connections are for the election and for a new leader's start.
LEADER_CONNECTIONS_MAX = 3


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
    return await database.connect(dsn, role=database.CELL_ROLE, application=application, command_timeout_s=None)


async def _opened(cell: str, dsn: str, saga_engine: str, seal: HeadSeal | None) -> PostgresStore:
    async def open_pool(what: str, size_max: int) -> database.Pool:
        name = f"cellbook/{cell}/{what}"
        return await database.open_pool(dsn, role=database.CELL_ROLE, application=name, size_max=size_max)

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
    leadership: Leadership
    steps: Steps
    engine: SagaEngine
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
    tracing: "OtelTracing | None" = None,
    machine: Machine = SOUND,
) -> Parts:
    """The cell, what runs it, and its connections to the other cells."""
    clock, failpoints = machine
    ids = UuidV7Ids(clock)
    time, executions, leads = _build_time(settings, clock), SagaExecutions(), store.of_leader()
    writer = Writer(
        store=leads, ids=ids, time=time, policy=_terms(settings), begun=executions.begun, batch_max=settings.batch_max
    )
    peers = _build_peers(settings, time, security, tracing)
    vault, outbox = build_vault(settings, store.reads), Outbox(pool=store.reads)
    handover = Handover(cell=settings.cell, vault=vault, peers=peers)
    cell = Cell(
        name=settings.cell,
        store=store,
        time=time,
        writer=writer,
        directory=peers,
        notifier=outbox if settings.smtp else NullMailer(),
        # The leader's connections: reading delays no leader.
        quarantine=AuditStateStore(leads),
        accesses=access_log_of(writer, peers),
        contacts=handover,
        failpoints=failpoints,
    )
    steps = _build_steps(cell, settings, peers, ids=ids, executions=executions, tracing=tracing)
    engine = build_engine(settings, leads, steps)
    timers = Timers(cell=settings.cell, store=leads, clock=clock, ids=ids, execute=cell.execute)
    proofs = build_proofs(settings, cell, store, peers)
    reload, signer = reloading(cell, engine, timers), proofs.checkpoint_signer
    reconciliation = build_reconciliation(settings, cell, store, peers, reload=reload, signed=lambda: signer.last)
    audit, snapshotters = build_audit(
        cell, store, peers, proofs=proofs, reconciliation=reconciliation, key=snapshot_key(keys_of(settings))
    )
    mail_sender = build_mail_sender(settings, outbox, vault, clock)
    elsewhere = [EarlierHomes(cell=settings.cell, vault=vault, peers=peers)] if vault is not None else []
    settling = (engine, timers, StuckAlarm(engine=engine, clock=clock), mail_sender, *elsewhere, cell.user_import)
    auditing = (*snapshotters, signer, proofs.cosigning, proofs.log_watch, reconciliation)
    tasks: list[Task] = [task for task in (*settling, *auditing) if task is not None]
    return Parts(
        cell=cell,
        leadership=Leadership(writer=writer, prepare=cell.load_quarantine, tasks=tasks),
        steps=steps,
        engine=engine,
        peers=peers,
        vault=vault,
        mail_sender=mail_sender,
        audit=audit,
        handover=handover,
        signatures=signatures_of(settings),
    )


def _build_steps(
    cell: Cell,
    settings: ServerSettings,
    peers: GrpcPeers,
    *,
    ids: Ids,
    executions: SagaExecutions,
    tracing: "OtelTracing | None",
) -> Steps:
    clock = cell.time.clock
    return Steps(
        cell=settings.cell,
        peers=peers,
        clock=clock,
        ids=ids,
        execute=cell.execute,
        random=random.Random(),  # noqa: S311 - jitter
        history_exporter=HistoryExporter(
            cell=settings.cell, store=cell.store, peers=peers, clock=clock, valid_ms=settings.move_valid_ms
        ),
        failpoints=cell.failpoints,
        executions=executions,
        traced=tracing.leg if tracing is not None else untraced,
    )


def _build_peers(
    settings: ServerSettings, time: CellTime, security: Security, tracing: "OtelTracing | None"
) -> GrpcPeers:
    caller = Caller(
        Principal(role=Role.PEER, name=settings.cell),
        CellClock(time=time),
        tracing.outgoing if tracing else nothing_outgoing,
    )
    locations = LocationCache(
        routers=(settings.router,) if settings.router else (),
        caller=caller,
        channels=peer_channels(security.certificates),
        static=settings.peers,
    )
    return GrpcPeers(locations=locations, caller=caller)


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
