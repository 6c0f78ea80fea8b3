"""Builds the parts that make, serve and check a cell's proofs, and that answer questions about its past."""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, Protocol

import grpc.aio

from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.accesses import AccessLog
from cells.audit.checks.alarms import LogAlarms
from cells.audit.checks.copies import Copies
from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter
from cells.audit.export.store import PostgresExport
from cells.audit.history.live_snapshots import LiveSnapshots
from cells.audit.history.lookups import PostgresHistoryLookups
from cells.audit.history.ports import BalanceLookups, HistoryLookups
from cells.audit.history.questions import History
from cells.audit.history.snapshots import SnapshotKey
from cells.audit.history.snapshotter import Snapshotter
from cells.audit.history.statement import StatementLookups, Statements
from cells.audit.history.stream_verification import StreamChecks
from cells.audit.history.trace import Finder, TraceLookups, TracePeers, Tracer
from cells.audit.history.trace_lookups import PostgresTraceLookups
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import CellKeys
from cells.audit.proofs.prover import Prover
from cells.audit.proofs.store import PostgresProofs
from cells.audit.reconcile.cuts import Clearing, CutPeers, LocalClearing
from cells.audit.reconcile.passes import Passes
from cells.audit.reconcile.rebuild import Reload
from cells.audit.reconcile.service import ReconciliationService, Signed
from cells.audit.reconcile.state_store import AuditStateStore
from cells.audit.reconcile.trial import TrialBalances, TrialLookups
from cells.audit.verify.note import VerifierKey, origin_of
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
from server.services.audit_parts import AuditParts, Books, Proofs
from server.shell.channels.client import Caller
from server.shell.files import require_writable
from server.shell.identity.principal import Principal, Role
from server.wire.audit import accesses_to_proto

FILE_NAME = "checkpoint.last"
LEADER_TIMEOUT_S = 5.0
UNKEYED = SnapshotKey()


class Lookups(HistoryLookups, BalanceLookups, StatementLookups, TrialLookups, Protocol):
    """All lookups of past state."""


# --- the past, and the tables --------------------------------------------------------------------------------------


def build_audit(
    cell: Cell, store: PostgresStore, peers: GrpcPeers, *, proofs: Proofs, books: Books, key: SnapshotKey
) -> tuple[AuditParts, tuple[Snapshotter, LiveSnapshots]]:
    lookups = PostgresHistoryLookups(store)
    parts = audit_of(cell, PostgresTraceLookups(store), lookups, AuditPeers(peers), proofs=proofs, books=books, key=key)
    live = LiveSnapshots(history=parts.history)
    return parts, (Snapshotter(history=parts.history, store=lookups, trial=parts.trial, live=live), live)


def build_books(
    settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers, *, reload: Reload, signed: Signed
) -> Books:
    passes = ChildPasses(dsn=settings.dsn, cell=settings.cell, owner_dsn=settings.migrate_dsn)
    asked = AuditPeers(peers)
    reconciliation = reconciliation_of(
        cell, store, passes, asked, reload=reload, replay_key=replay_key_of(settings), signed=signed
    )
    reconciliation.copies = Copies(cell=cell.name, store=store, peers=asked)
    reconciliation.every_s, reconciliation.full_every_s = settings.reconcile_s, settings.reconcile_full_s
    reconciliation.events_per_s = settings.reconcile_events_per_s
    return Books(reconciliation=reconciliation, local_clearing=LocalClearing(cell=cell, store=store))


def replay_key_of(settings: ServerSettings) -> bytes:
    keys = keys_of(settings)
    return keys.secret("replay") if keys is not None else b""


def reloading(cell: Cell, engine: SagaEngine, timers: Timers) -> Reload:
    """Loads anew what was built in memory from rows that were wrong."""

    async def reload(kinds: AbstractSet[Kind]) -> None:
        if kinds & {Kind.ACCOUNT, Kind.AUCTION}:
            await timers.reload()
        if Kind.SAGA in kinds and cell.leading:
            await engine.stop()
            await engine.start()

    return reload


def reconciliation_of(
    cell: Cell,
    store: PostgresStore,
    passes: Passes,
    peers: CutPeers,
    *,
    reload: Reload,
    replay_key: bytes = b"",
    signed: Signed = lambda: None,
) -> ReconciliationService:
    kept = AuditStateStore(store.of_leader(), replay_key)
    return ReconciliationService(
        cell=cell,
        passes=passes,
        clearing=Clearing(local_clearing=LocalClearing(cell=cell, store=store), peers=peers),
        held=kept,
        states_of=kept.states,
        reload=reload,
        signed=signed,
        replay_key=replay_key,
    )


def audit_of(
    cell: Cell,
    traces: TraceLookups,
    lookups: Lookups,
    peers: TracePeers,
    *,
    proofs: Proofs,
    books: Books,
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
        lookups=lookups,
        statements=Statements(history=history, lookups=lookups),
        trial=TrialBalances(history=history, lookups=lookups),
        stream_checks=StreamChecks(history=history),
        proofs=proofs,
        books=books,
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
        request = accesses_to_proto(accesses)
        try:
            await caller.call(stub.RecordAccesses, request, to=cell, timeout_s=LEADER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            # No leg goes to the own cell, which would find out that its processes are elsewhere by now.
            peers.locations.look_again(cell)
            raise PeerUnknown(f"{cell}: {error.code().name}: {error.details()}") from error

    return AccessLog(clock=writer.time.clock, record=record)


# --- proofs ---------------------------------------------------------------------------------------------------------


class ProofParts(NamedTuple):
    """The parts that sign, watch and prove the log of a cell."""

    checkpoint_signer: CheckpointSigner
    cosigning: Cosigning
    log_watch: LogWatch
    facade: Proofs


def build_proofs(settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers) -> ProofParts:
    """Raises SigningKeysInvalid, CheckpointFileInvalid, StateNotWritable."""
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
    source = PostgresExport(pool=store.reads)
    return ProofParts(
        checkpoint_signer=signer,
        cosigning=Cosigning(
            checkpoint_signer=signer,
            proofs=proofs,
            witnesses=GrpcWitnesses(cell=settings.cell, peers=AuditPeers(peers), wanted=settings.witnesses),
        ),
        log_watch=LogWatch(
            checkpoint_signer=signer,
            source=source,
            proofs=proofs,
            events_per_s=settings.log_watch_events_per_s,
            alarms=alarms,
        ),
        facade=Proofs(
            prover=Prover(cell=settings.cell, store=store, proofs=proofs),
            exporter=Exporter(
                cell=settings.cell,
                origin=origin_of(settings.cell),
                keys=[str(key.verifier) for key in (keys.log, keys.witness)] if keys is not None else [],
                source=source,
                proofs=proofs,
            ),
            witness=Witness(
                cell=settings.cell,
                key=keys.witness if keys is not None else None,
                proofs=proofs,
                clock=cell.time.clock,
                pinned=_pinned(settings.witnessed_keys_file),
                alarms=alarms,
            ),
            cosignatures=Cosignatures(
                cell=settings.cell,
                keys=outside_witnesses(settings.witness_keys_file),
                proofs=proofs,
                clock=cell.time.clock,
            ),
        ),
    )


def head_seal(settings: ServerSettings) -> HeadSeal | None:
    """None if the cell has no keys. Raises SigningKeysInvalid."""
    keys = keys_of(settings)
    if keys is None:
        return None
    outcomes = OutcomeSeal(keys.secret("replay"))
    return HeadSeal(cell=settings.cell, key=keys.secret("head"), outcomes=outcomes, accepted=settings.accept_head)


def _pinned(path: Path | None) -> dict[str, VerifierKey]:
    return {key.name: key for key in verifier_keys(path)} if path is not None else {}


def checkpoint_file_of(settings: ServerSettings, keys: CellKeys) -> CheckpointFile:
    """The loaded checkpoint file. Raises CheckpointFileInvalid."""
    key_file = settings.checkpoint_key_file
    beside = key_file.parent if key_file is not None else settings.data or Path()
    folder = settings.state_dir or settings.data or beside
    checkpoint_file = CheckpointFile(folder / f"{settings.cell}.{FILE_NAME}", keys.log.verifier, old=beside / FILE_NAME)
    checkpoint_file.load()
    return checkpoint_file


def kept_checkpoint_file(settings: ServerSettings, keys: CellKeys, time: CellTime) -> CheckpointFile:
    """Raises CheckpointFileInvalid, StateNotWritable."""
    checkpoint_file = checkpoint_file_of(settings, keys)
    require_writable(checkpoint_file.path.parent, "the last checkpoint that the cell has signed")
    last = checkpoint_file.last()
    if last is not None:
        time.remember(last.size)
    return checkpoint_file


async def check_checkpoint_file(signer: CheckpointSigner, store: PostgresStore) -> None:
    """Raises LogShorter."""
    if isinstance(signer.checkpoint_file, CheckpointFile):
        signer.checkpoint_file.check((await store.head()).position)
