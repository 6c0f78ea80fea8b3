"""OperationsService: what a process knows of its cell."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from cellbook.v1 import audit_pb2, types_pb2
from cellbook.v1 import operations_pb2 as pb
from cellbook.v1.operations_pb2_grpc import OperationsServiceServicer
from cells.audit.reconcile.cuts import ClearingBalance
from cells.cell import Cell
from cells.domain.sagas.saga import SagaState
from cells.sagas.executions import SagaCounts
from cells.sagas.steps import Steps
from cells.store.ports import StoreError
from server.audit.metrics import trouble
from server.services.audit_parts import AuditParts, Context
from server.wire.convert import to_proto

FINDINGS_SHOWN_MAX = 100
VERSION = version("cellbook")


@dataclass(frozen=True, slots=True)
class OperationsServicer(OperationsServiceServicer):
    """`standing_by`: whether this process sees another one lead."""

    cell: Cell
    steps: Steps
    audit: AuditParts
    standing_by: Callable[[], bool]

    async def GetCellStatus(self, _request: pb.GetCellStatusRequest, _context: Context) -> pb.GetCellStatusResponse:
        cell, time, signer = self.cell, self.cell.time, self.audit.proofs.checkpoint_signer
        epoch, position, problems = cell.writer.epoch, time.durable_position, [trouble(self.audit)]
        balances = []
        try:
            head = await cell.store.head()
            epoch, position = head.epoch, head.position
            balances = await self.audit.reconciliation.clearing.balances()
        except StoreError as error:
            # The process is there, and can tell so.
            problems.append(f"its database: {error}")
        role = pb.PROCESS_ROLE_STANDS_BY if self.standing_by() else pb.PROCESS_ROLE_UNSPECIFIED
        if cell.leading:
            role = pb.PROCESS_ROLE_LEADS
        queue, counts = cell.writer.queue, self.steps.executions.counts(time.clock)
        return pb.GetCellStatusResponse(
            cell=cell.name,
            role=role,
            version=VERSION,
            trouble="; ".join(filter(None, problems)),
            time_ms=time.clock.wall_ms(),
            clock_ahead_ms=time.ahead_ms,
            epoch=epoch,
            position=position,
            commit_age_ms=_ms(cell.tally.age_s),
            events=cell.tally.events,
            commands=cell.tally.commands,
            queue=pb.QueueStatus(commands=len(queue), commands_max=queue.commands_max),
            peers=self._peers(counts.waiting, balances),
            sagas=_sagas_to_proto(counts),
            reconciliation=self._reconciliation(),
            signing=pb.SigningStatus(
                size=signer.last.size if signer.last else 0, unsigned_ms=round(signer.unsigned_s * 1_000)
            ),
        )

    def _peers(self, waiting: Mapping[str, int], balances: Sequence[ClearingBalance]) -> list[pb.PeerStatus]:
        time, breakers, cosigning = self.cell.time, self.steps.breakers, self.audit.proofs.cosigning
        clearing = defaultdict[str, list[types_pb2.Money]](list)
        for peer, currency, amount_minor in balances:
            clearing[peer].append(types_pb2.Money(currency=currency, amount_minor=amount_minor))
        names = {*time.known, *time.offsets_ms, *time.disputed, *breakers, *clearing, *cosigning.sizes} - {time.cell}
        return [
            pb.PeerStatus(
                cell=name,
                clock_offset_ms=time.offsets_ms.get(name),
                clock_refused=time.refused[name],
                silent_ms=_ms(breakers[name].silent_s) if name in breakers else None,
                sagas_waiting=waiting.get(name, 0),
                position=time.known.get(name, 0),
                claimed_position=time.disputed.get(name, 0),
                clearing=clearing.get(name, ()),
                signed_size=cosigning.sizes.get(name, 0),
                witness_problem=cosigning.problems.get(name, ""),
            )
            for name in sorted(names)
        ]

    def _reconciliation(self) -> pb.ReconciliationStatus:
        reconciliation = self.audit.reconciliation
        last = reconciliation.last
        findings = last.findings if last else []
        return pb.ReconciliationStatus(
            position=last.report.position if last else 0,
            age_ms=_ms(reconciliation.age_s) if reconciliation.since_s is not None else None,
            finding_count=last.findings_count if last else 0,
            findings=[to_proto(audit_pb2.AuditFinding, each) for each in findings[:FINDINGS_SHOWN_MAX]],
            quarantined=len(self.cell.writer.cache.held),
        )


def _sagas_to_proto(counts: SagaCounts) -> pb.SagaCounts:
    running, committed, compensating = (
        counts.by_state[each] for each in (SagaState.RUNNING, SagaState.COMMITTED, SagaState.COMPENSATING)
    )
    return to_proto(pb.SagaCounts, counts, running=running, committed=committed, compensating=compensating)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000)
