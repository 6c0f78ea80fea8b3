"""OperationsService: what a process knows of its cell."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from cellbook.v1 import audit_pb2, types_pb2
from cellbook.v1 import operations_pb2 as pb
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.reconcile.cuts import ClearingBalance
from cells.audit.reconcile.service import ReconciliationService
from cells.audit.witness.cosigning import Cosigning
from cells.domain.sagas.saga import SagaState
from cells.sagas.circuit_breaker import CircuitBreaker
from cells.sagas.executions import SagaCounts
from cells.time.celltime import CellTime
from cells.writer.queue import CommandQueue
from server.wire.convert import to_proto

FINDINGS_SHOWN_MAX = 100


def ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000)


def role_to_proto(*, leading: bool, standing_by: bool) -> pb.ProcessRole.ValueType:
    if leading:
        return pb.PROCESS_ROLE_LEADS
    return pb.PROCESS_ROLE_STANDS_BY if standing_by else pb.PROCESS_ROLE_UNSPECIFIED


def queue_to_proto(queue: CommandQueue) -> pb.QueueStatus:
    return pb.QueueStatus(commands=len(queue), commands_max=queue.commands_max)


def peers_to_proto(
    time: CellTime,
    breakers: Mapping[str, CircuitBreaker],
    waiting: Mapping[str, int],
    balances: Sequence[ClearingBalance],
    cosigning: Cosigning,
) -> list[pb.PeerStatus]:
    clearing = defaultdict[str, list[types_pb2.Money]](list)
    for peer, currency, amount_minor in balances:
        clearing[peer].append(types_pb2.Money(currency=currency, amount_minor=amount_minor))
    names = {*time.known, *time.offsets_ms, *time.disputed, *breakers, *clearing, *cosigning.sizes} - {time.cell}
    return [
        pb.PeerStatus(
            cell=name,
            clock_offset_ms=time.offsets_ms.get(name),
            clock_refused=time.refused[name],
            silent_ms=ms(breakers[name].silent_s) if name in breakers else None,
            sagas_waiting=waiting.get(name, 0),
            position=time.known.get(name, 0),
            claimed_position=time.disputed.get(name, 0),
            clearing=clearing.get(name, ()),
            signed_size=cosigning.sizes.get(name, 0),
            witness_problem=cosigning.problems.get(name, ""),
        )
        for name in sorted(names)
    ]


def sagas_to_proto(counts: SagaCounts) -> pb.SagaCounts:
    running, committed, compensating = (
        counts.by_state[each] for each in (SagaState.RUNNING, SagaState.COMMITTED, SagaState.COMPENSATING)
    )
    return to_proto(pb.SagaCounts, counts, running=running, committed=committed, compensating=compensating)


def signing_to_proto(signer: CheckpointSigner) -> pb.SigningStatus:
    return pb.SigningStatus(size=signer.last.size if signer.last else 0, unsigned_ms=round(signer.unsigned_s * 1_000))


def reconciliation_to_proto(
    reconciliation: ReconciliationService, quarantined: Collection[object]
) -> pb.ReconciliationStatus:
    last = reconciliation.last
    findings = last.findings if last else []
    return pb.ReconciliationStatus(
        position=last.report.position if last else 0,
        age_ms=ms(reconciliation.age_s) if reconciliation.since_s is not None else None,
        finding_count=last.findings_count if last else 0,
        findings=[to_proto(audit_pb2.AuditFinding, each) for each in findings[:FINDINGS_SHOWN_MAX]],
        quarantined=len(quarantined),
    )
