"""The audit of a cell, put together."""

from typing import Protocol

from cells.audit.check_stream import StreamChecks
from cells.audit.history import BalanceLookups, History, HistoryLookups
from cells.audit.history_lookups import PostgresHistoryLookups
from cells.audit.proofs import Proofs
from cells.audit.snapshotter import Snapshotter
from cells.audit.statement import StatementLookups, Statements
from cells.audit.trace import Finder, TraceLookups, TracePeers, Tracer
from cells.audit.trace_lookups import PostgresTraceLookups
from cells.audit.trial import TrialBalances, TrialLookups
from cells.cell import Cell
from cells.store import PostgresStore
from server.audit_peers import AuditPeers
from server.peers import GrpcPeers
from server.services.audit_parts import AuditParts


class Lookups(HistoryLookups, BalanceLookups, StatementLookups, TrialLookups, Protocol):
    """All that is asked of the past."""


def build_audit(cell: Cell, store: PostgresStore, peers: GrpcPeers, proofs: Proofs) -> AuditParts:
    """Has the cell keep snapshots, too."""
    lookups = PostgresHistoryLookups(store)
    parts = audit_of(cell, PostgresTraceLookups(store), lookups, AuditPeers(peers), proofs)
    cell.snapshots = Snapshotter(history=parts.history, store=lookups, trial=parts.trial)
    return parts


def audit_of(cell: Cell, traces: TraceLookups, lookups: Lookups, peers: TracePeers, proofs: Proofs) -> AuditParts:
    history = History(
        cell=cell.name,
        store=cell.store,
        time=cell.time,
        lookups=lookups,
        deciding=cell.writer.deciding.keys,
        placed=cell.placed,
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
    )
