"""Shared by servicers: the parts of an audit, and the record of reads by staff."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc.aio

from cells.audit.accesses import AccessLog
from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter
from cells.audit.history.questions import History
from cells.audit.history.statement import Statements
from cells.audit.history.trace import Tracer
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.prover import Prover
from cells.audit.reconcile.service import ReconciliationService
from cells.audit.reconcile.trial import TrialBalances
from cells.audit.witness.cosigner import Cosignatures, Witness
from cells.audit.witness.cosigning import Cosigning
from cells.cell import Cell
from cells.domain.commands import RecordAccesses
from server.shell.calls.call import Call, current_call
from server.shell.identity.principal import Role
from server.wire.requests import parse_author

Context = grpc.aio.ServicerContext[Any, Any]
# Their reads are recorded. Users read their own accounts, services show them to users, cells and routers move them.
STAFF = frozenset({Role.AUDITOR, Role.OPERATOR, Role.TREASURY, Role.SUPPORT, Role.DELEGATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    """The parts of a cell that sign, watch and prove its log, and cosign those of others."""

    checkpoint_signer: CheckpointSigner
    cosigning: Cosigning
    log_watch: LogWatch
    prover: Prover
    exporter: Exporter
    witness: Witness
    cosignatures: Cosignatures


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditParts:
    cell: Cell
    tracer: Tracer
    history: History
    trial: TrialBalances
    statements: Statements
    proofs: Proofs
    reconciliation: ReconciliationService


async def record_look(cell: Cell, subject: UUID, reason: str) -> None:
    """Records in the log one read of `subject`, before its answer. Raises Refused: it may not be recorded."""
    call = current_call()
    access = cell.accesses.access(str(call.principal), _rpc(call), str(subject), reason)
    await cell.writer.record(RecordAccesses(accesses=(access,)), parse_author(call))


def note_access(accesses: AccessLog, subject: UUID | int | None = None) -> None:
    """Records in the log a read of `subject`, an id or a position, or of all. Raises AccessLogFull."""
    call = current_call()
    if call.principal.role in STAFF:
        accesses.note(str(call.principal), _rpc(call), str(subject or ""))


def _rpc(call: Call) -> str:
    return call.method.rpartition("/")[2]
