"""AuditService, assembled from parts; each part has its RPCs in a file of its own."""

from server.services.accesses import AccessRpcs
from server.services.audit_parts import AuditParts
from server.services.books import BooksRpcs
from server.services.history import HistoryRpcs
from server.services.proofs import ProofRpcs
from server.services.statement import StatementRpcs
from server.services.trace import TraceRpcs


class AuditServicer(AccessRpcs, TraceRpcs, HistoryRpcs, StatementRpcs, ProofRpcs, BooksRpcs):
    def __init__(self, parts: AuditParts) -> None:
        self.parts = parts
