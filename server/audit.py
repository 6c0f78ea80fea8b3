"""Assembles the audit of a cell."""

from typing import Protocol

from cells.audit.checks.copies import Copies
from cells.audit.history.lookups import PostgresHistoryLookups
from cells.audit.history.ports import BalanceLookups, HistoryLookups
from cells.audit.history.questions import History
from cells.audit.history.snapshots import SnapshotKey
from cells.audit.history.snapshotter import Snapshotter
from cells.audit.history.statement import StatementLookups, Statements
from cells.audit.history.stream_verification import StreamChecks
from cells.audit.history.trace import Finder, TraceLookups, TracePeers, Tracer
from cells.audit.history.trace_lookups import PostgresTraceLookups
from cells.audit.proofs.facade import Proofs
from cells.audit.reconcile.cuts import Clearing, CutPeers, LocalClearing
from cells.audit.reconcile.passes import Passes
from cells.audit.reconcile.service import ReconciliationService
from cells.audit.reconcile.state_store import AuditStateStore
from cells.audit.reconcile.trial import TrialBalances, TrialLookups
from cells.cell import Cell
from cells.store.ports import Ids
from cells.store.postgres import PostgresStore
from server.accesses import add_access_log
from server.audit_peers import AuditPeers
from server.audit_process import ChildPasses
from server.keyfile import keys_of
from server.peers import GrpcPeers
from server.services.audit_parts import AuditParts, Books
from server.settings import ServerSettings

UNKEYED = SnapshotKey()


class Lookups(HistoryLookups, BalanceLookups, StatementLookups, TrialLookups, Protocol):
    """All lookups of past state."""


def build_audit(
    cell: Cell, store: PostgresStore, peers: GrpcPeers, *, proofs: Proofs, books: Books, key: SnapshotKey
) -> AuditParts:
    """Also makes the cell keep snapshots."""
    lookups = PostgresHistoryLookups(store)
    parts = audit_of(cell, PostgresTraceLookups(store), lookups, AuditPeers(peers), proofs=proofs, books=books, key=key)
    cell.snapshots = Snapshotter(history=parts.history, store=lookups, trial=parts.trial)
    return parts


def build_books(settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers, ids: Ids) -> Books:
    """Also makes the cell compare its tables with its log periodically."""
    passes = ChildPasses(dsn=settings.dsn, cell=settings.cell, owner_dsn=settings.migrate_dsn)
    keys = keys_of(settings)
    replay_key = keys.secret("replay") if keys is not None else b""
    asked = AuditPeers(peers)
    reconciliation = reconciliation_of(cell, store, passes, asked, ids, replay_key=replay_key)
    reconciliation.copies = Copies(cell=cell.name, store=store, peers=asked)
    reconciliation.every_s, reconciliation.full_every_s = settings.reconcile_s, settings.reconcile_full_s
    reconciliation.events_per_s = settings.reconcile_events_per_s
    add_access_log(cell, reconciliation, peers)
    return Books(reconciliation=reconciliation, local_clearing=LocalClearing(cell=cell, store=store))


def reconciliation_of(
    cell: Cell, store: PostgresStore, passes: Passes, peers: CutPeers, ids: Ids, *, replay_key: bytes = b""
) -> ReconciliationService:
    """Registers the service with the cell."""
    # Loaded before the election, so that reading delays no leader.
    kept = AuditStateStore(store.of_leader(), replay_key)
    reconciliation = ReconciliationService(
        cell=cell,
        passes=passes,
        clearing=Clearing(local_clearing=LocalClearing(cell=cell, store=store), peers=peers),
        held=kept,
        states_of=kept.states,
        ids=ids,
        replay_key=replay_key,
    )
    cell.audit = reconciliation
    return reconciliation


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
        placed=cell.placed,
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
