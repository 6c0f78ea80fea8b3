"""Builds the parts that make, serve and check a cell's proofs, and that answer questions about its past."""

from collections.abc import Set as AbstractSet
from pathlib import Path

import grpc.aio

from cellbook.v1.audit_pb2 import RecordAccessesRequest
from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.accesses import AccessLog
from cells.audit.checks.alarms import LogAlarms
from cells.audit.checks.copies import Copies
from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter
from cells.audit.history.lookups import PostgresHistoryLookups, PostgresTraceLookups
from cells.audit.history.ports import HistoryLookups
from cells.audit.history.questions import History
from cells.audit.history.snapshots import SnapshotKey
from cells.audit.history.snapshotter import LiveSnapshots, Snapshotter
from cells.audit.history.statement import Statements
from cells.audit.history.trace import Finder, TraceLookups, TracePeers, Tracer
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import CellKeys
from cells.audit.proofs.prover import Prover
from cells.audit.proofs.store import PostgresProofs
from cells.audit.reconcile.cuts import Clearing
from cells.audit.reconcile.replay_state import AuditStateStore
from cells.audit.reconcile.service import ReconciliationService, Reload, Signed
from cells.audit.reconcile.trial import TrialBalances
from cells.audit.verify.note import origin_of
from cells.audit.witness.cosigner import Cosignatures, Witness
from cells.audit.witness.cosigning import Cosigning
from cells.cell import Cell
from cells.domain.audit.events import Access
from cells.domain.commands import RecordAccesses
from cells.domain.values import Kind
from cells.encoding.head_seal import HeadSeal
from cells.encoding.outcome_seal import OutcomeSeal
from cells.sagas.engine import SagaEngine
from cells.store.ports import PeerUnknown
from cells.store.postgres import PostgresStore
from cells.time.celltime import CellTime
from cells.writer.timers import Timers
from cells.writer.writer import Writer
from server.audit.keys import keys_of, outside_witnesses, verifier_keys
from server.audit.memory import CheckpointFile
from server.audit.peers import AuditPeers, GrpcWitnesses
from server.audit.process import ChildPasses
from server.peers import GrpcPeers
from server.process.settings import ServerSettings
from server.services.audit_parts import AuditParts, Proofs
from server.shell.channels.client import Caller
from server.shell.files import require_writable
from server.shell.identity.principal import Principal, Role
from server.wire.convert import to_proto

FILE_NAME = "checkpoint.last"
LEADER_TIMEOUT_S = 5.0
UNKEYED = SnapshotKey()


# --- the past, and the tables --------------------------------------------------------------------------------------


def build_audit(
    cell: Cell,
    store: PostgresStore,
    peers: GrpcPeers,
    *,
    proofs: Proofs,
    reconciliation: ReconciliationService,
    key: SnapshotKey,
) -> tuple[AuditParts, tuple[Snapshotter, LiveSnapshots]]:
    lookups = PostgresHistoryLookups(store)
    traces, asked = PostgresTraceLookups(store), AuditPeers(peers)
    parts = audit_of(cell, traces, lookups, asked, proofs=proofs, reconciliation=reconciliation, key=key)
    live = LiveSnapshots(history=parts.history)
    return parts, (Snapshotter(history=parts.history, store=lookups, trial=parts.trial, live=live), live)


def build_reconciliation(
    settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers, *, reload: Reload, signed: Signed
) -> ReconciliationService:
    asked, keys = AuditPeers(peers), keys_of(settings)
    return ReconciliationService(
        cell=cell,
        passes=ChildPasses(dsn=settings.dsn, cell=settings.cell, owner_dsn=settings.migrate_dsn),
        clearing=Clearing(cell=cell, store=store, peers=asked),
        states=AuditStateStore(store.of_leader(), keys.secret("replay") if keys is not None else b""),
        reload=reload,
        signed=signed,
        copies=Copies(cell=cell.name, store=store, find=asked.find),
        every_s=settings.reconcile_s,
        full_every_s=settings.reconcile_full_s,
        events_per_s=settings.reconcile_events_per_s,
    )


def reloading(cell: Cell, engine: SagaEngine, timers: Timers) -> Reload:
    """Loads anew what was built in memory from rows that were wrong."""

    async def reload(kinds: AbstractSet[Kind]) -> None:
        if kinds & {Kind.ACCOUNT, Kind.AUCTION}:
            await timers.reload()
        if Kind.SAGA in kinds and cell.leading:
            await engine.stop()
            await engine.start()

    return reload


def audit_of(
    cell: Cell,
    traces: TraceLookups,
    lookups: HistoryLookups,
    peers: TracePeers,
    *,
    proofs: Proofs,
    reconciliation: ReconciliationService,
    key: SnapshotKey = UNKEYED,
) -> AuditParts:
    history = History(
        cell=cell.name,
        store=cell.store,
        time=cell.time,
        lookups=lookups,
        deciding=cell.writer.deciding.keys,
        placed=cell.routing.placed,
        key=key,
    )
    return AuditParts(
        cell=cell,
        tracer=Tracer(finder=Finder(cell.name, traces), peers=peers),
        history=history,
        statements=Statements(history=history),
        trial=TrialBalances(history=history),
        proofs=proofs,
        reconciliation=reconciliation,
    )


def access_log_of(writer: Writer, peers: GrpcPeers) -> AccessLog:
    """`peers` also knows the cell's own processes, from the settings or the router."""
    # Without a clock: processes of one cell report nothing about their log to each other.
    cell = writer.time.cell
    caller = Caller(Principal(role=Role.PEER, name=cell))

    async def record(accesses: tuple[Access, ...]) -> None:
        if writer.leading:
            await writer.record(RecordAccesses(accesses=accesses))
            return
        stub = AuditServiceStub(await peers.channel(cell))
        request = to_proto(RecordAccessesRequest, accesses=accesses)
        try:
            await caller.call(stub.RecordAccesses, request, to=cell, timeout_s=LEADER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            # No leg goes to the own cell, which would find out that its processes are elsewhere by now.
            peers.locations.look_again(cell)
            raise PeerUnknown(f"{cell}: {error.code().name}: {error.details()}") from error

    return AccessLog(clock=writer.time.clock, record=record)


# --- proofs ---------------------------------------------------------------------------------------------------------


def build_proofs(settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers) -> Proofs:
    """Raises CannotServe."""
    keys, proofs = keys_of(settings), PostgresProofs(pool=store.reads)
    signer = CheckpointSigner(
        store=proofs,
        time=cell.time,
        key=keys.log if keys is not None else None,
        checkpoint_file=kept_checkpoint_file(settings, keys, cell.time) if keys is not None else None,
        events_max=settings.checkpoint_events,
        pause_max_s=settings.checkpoint_ms / 1_000,
        accepted=settings.accept_head or 0,
        signed=lambda checkpoint: store.seal.signed(checkpoint.size) if store.seal is not None else None,
    )
    # A changed log, this cell's or another's, becomes an event in this cell's log.
    alarms = LogAlarms(record=cell.writer.record, time=cell.time)
    return Proofs(
        checkpoint_signer=signer,
        cosigning=Cosigning(
            checkpoint_signer=signer,
            proofs=proofs,
            witnesses=GrpcWitnesses(cell=settings.cell, peers=AuditPeers(peers), wanted=settings.witnesses),
        ),
        log_watch=LogWatch(
            checkpoint_signer=signer,
            proofs=proofs,
            events_per_s=settings.log_watch_events_per_s,
            alarms=alarms,
        ),
        prover=Prover(cell=settings.cell, store=store, proofs=proofs),
        exporter=Exporter(
            cell=settings.cell,
            origin=origin_of(settings.cell),
            keys=[str(key.verifier) for key in (keys.log, keys.witness)] if keys is not None else [],
            proofs=proofs,
        ),
        witness=Witness(
            cell=settings.cell,
            key=keys.witness if keys is not None else None,
            proofs=proofs,
            clock=cell.time.clock,
            pinned={key.name: key for key in verifier_keys(settings.witnessed_keys_file)},
            alarms=alarms,
        ),
        cosignatures=Cosignatures(
            cell=settings.cell,
            keys=outside_witnesses(settings.witness_keys_file),
            proofs=proofs,
            clock=cell.time.clock,
        ),
    )


def head_seal(settings: ServerSettings) -> HeadSeal | None:
    """None if the cell has no keys. Raises CannotServe."""
    keys = keys_of(settings)
    if keys is None:
        return None
    outcomes = OutcomeSeal(keys.secret("replay"))
    return HeadSeal(cell=settings.cell, key=keys.secret("head"), outcomes=outcomes, accepted=settings.accept_head)


def checkpoint_file_of(settings: ServerSettings, keys: CellKeys) -> CheckpointFile:
    """The loaded checkpoint file. Raises CannotServe."""
    key_file = settings.checkpoint_key_file
    beside = key_file.parent if key_file is not None else settings.data or Path()
    folder = settings.state_dir or settings.data or beside
    checkpoint_file = CheckpointFile(folder / f"{settings.cell}.{FILE_NAME}", keys.log.verifier, old=beside / FILE_NAME)
    checkpoint_file.load()
    return checkpoint_file


def kept_checkpoint_file(settings: ServerSettings, keys: CellKeys, time: CellTime) -> CheckpointFile:
    """Raises CannotServe."""
    checkpoint_file = checkpoint_file_of(settings, keys)
    require_writable(checkpoint_file.path.parent, "the last checkpoint that the cell has signed")
    last = checkpoint_file.last()
    if last is not None:
        time.remember(last.size)
    return checkpoint_file


async def check_checkpoint_file(signer: CheckpointSigner, store: PostgresStore) -> None:
    """Raises CannotServe."""
    if isinstance(signer.checkpoint_file, CheckpointFile):
        signer.checkpoint_file.check((await store.head()).position)
