"""Assembles the audit of a cell."""

from typing import Protocol

from cells.audit.check_stream import StreamChecks
from cells.audit.copies import Copies
from cells.audit.cuts import Clearing, CutPeers, Ledge
from cells.audit.desk import AuditDesk
from cells.audit.history import History
from cells.audit.history_lookups import PostgresHistoryLookups
from cells.audit.history_ports import BalanceLookups, HistoryLookups
from cells.audit.kept import Kept
from cells.audit.passes import Passes
from cells.audit.proofs import Proofs
from cells.audit.snapshots import SnapshotKey
from cells.audit.snapshotter import Snapshotter
from cells.audit.statement import StatementLookups, Statements
from cells.audit.trace import Finder, TraceLookups, TracePeers, Tracer
from cells.audit.trace_lookups import PostgresTraceLookups
from cells.audit.trial import TrialBalances, TrialLookups
from cells.cell import Cell
from cells.ports import Ids
from cells.store import PostgresStore
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
    desk = desk_of(cell, store, passes, asked, ids, replay_key=replay_key)
    desk.copies = Copies(cell=cell.name, store=store, peers=asked)
    desk.every_s, desk.full_every_s = settings.reconcile_s, settings.reconcile_full_s
    desk.events_per_s = settings.reconcile_events_per_s
    add_access_log(cell, desk, peers)
    return Books(desk=desk, ledge=Ledge(cell=cell, store=store))


def desk_of(
    cell: Cell, store: PostgresStore, passes: Passes, peers: CutPeers, ids: Ids, *, replay_key: bytes = b""
) -> AuditDesk:
    """Registers the desk with the cell."""
    # Loaded before the election, so that reading delays no leader.
    kept = Kept(store.of_leader(), replay_key)
    desk = AuditDesk(
        cell=cell,
        passes=passes,
        clearing=Clearing(ledge=Ledge(cell=cell, store=store), peers=peers),
        held=kept,
        states_of=kept.states,
        ids=ids,
        replay_key=replay_key,
    )
    cell.audit = desk
    return desk


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
