"""The access log of a cell's process: reads by staff that it serves go into the log, whichever process leads."""

import grpc.aio

from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.accesses import AccessLog
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell
from cells.domain.audit.events import Access
from cells.domain.commands import RecordAccesses
from cells.store.ports import PeerUnknown
from server.peers import GrpcPeers
from server.shell.client import Caller
from server.shell.principal import Principal, Role
from server.wire.accesses import accesses_to_proto

LEADER_TIMEOUT_S = 5.0


def add_access_log(cell: Cell, reconciliation: ReconciliationService, peers: GrpcPeers) -> None:
    """`peers` also knows the cell's own processes, from the settings or the router."""
    # Without a clock: processes of one cell report nothing about their log to each other.
    caller = Caller(Principal(role=Role.PEER, name=cell.name))

    async def record(accesses: tuple[Access, ...]) -> None:
        if cell.leading:
            await reconciliation.record(RecordAccesses(accesses=accesses))
            return
        stub = AuditServiceStub(await peers.channel(cell.name))
        request = accesses_to_proto(accesses)
        try:
            await caller.call(stub.RecordAccesses, request, to=cell.name, timeout_s=LEADER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            # No leg goes to the own cell, which would find out that its processes are elsewhere by now.
            peers.look_again(cell.name)
            raise PeerUnknown(f"{cell.name}: {error.code().name}: {error.details()}") from error

    cell.accesses = AccessLog(clock=cell.time.clock, record=record)
