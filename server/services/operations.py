"""OperationsService."""

from collections.abc import Callable
from importlib.metadata import version

from cellbook.v1 import operations_pb2 as pb
from cellbook.v1.operations_pb2_grpc import OperationsServiceServicer
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell
from cells.sagas.steps import Steps
from cells.store.ports import StoreError
from server.audit.build import ProofParts
from server.audit.metrics import trouble
from server.services.audit_parts import Context
from server.wire import operations as wire

VERSION = version("cellbook")


class OperationsServicer(OperationsServiceServicer):
    """`standing_by`: whether this process sees another one lead."""

    def __init__(
        self,
        cell: Cell,
        steps: Steps,
        proofs: ProofParts,
        reconciliation: ReconciliationService,
        standing_by: Callable[[], bool],
    ) -> None:
        self._cell = cell
        self._steps = steps
        self._proofs = proofs
        self._reconciliation = reconciliation
        self._standing_by = standing_by

    async def GetCellStatus(self, _request: pb.GetCellStatusRequest, _context: Context) -> pb.GetCellStatusResponse:
        cell, time, signer = self._cell, self._cell.time, self._proofs.checkpoint_signer
        epoch, position, problems = cell.writer.epoch, time.durable_position, [trouble(time, self._proofs)]
        balances = []
        try:
            head = await cell.store.head()
            epoch, position = head.epoch, head.position
            balances = await self._reconciliation.clearing.balances()
        except StoreError as error:
            # The process is there, and can tell so.
            problems.append(f"its database: {error}")
        counts = self._steps.executions.counts(time.clock)
        return pb.GetCellStatusResponse(
            cell=cell.name,
            role=wire.role_to_proto(leading=cell.leading, standing_by=self._standing_by()),
            version=VERSION,
            trouble="; ".join(filter(None, problems)),
            time_ms=time.clock.wall_ms(),
            clock_ahead_ms=time.ahead_ms,
            epoch=epoch,
            position=position,
            commit_age_ms=wire.ms(cell.tally.age_s),
            events=cell.tally.events,
            commands=cell.tally.commands,
            queue=wire.queue_to_proto(cell.writer.queue),
            peers=wire.peers_to_proto(time, self._steps.breakers, counts.waiting, balances, self._proofs.cosigning),
            sagas=wire.sagas_to_proto(counts),
            reconciliation=wire.reconciliation_to_proto(self._reconciliation, cell.writer.cache.held),
            signing=wire.signing_to_proto(signer),
        )
