"""What a hostile cell sends, over gRPC, as the peer eu-west or as a third cell."""

from collections.abc import Awaitable
from uuid import UUID

from cellbook.v1 import settlement_pb2
from cells.domain.account.balance import Balance
from cells.domain.commands import LegAction
from cells.domain.moves.commands import ArriveUser
from cells.domain.values import LegId, Money
from cells.store.ports import LegCall
from server.wire.legs import leg_to_proto
from tests.integration.services_rig import PEER, THERE, Pairs, Rig

THIRD = "ap-tokyo"
THIRD_PEER = (("cellbook-principal", f"peer/{THIRD}"),)
SAGA = UUID(int=9)
USD = Money("USD", 20_000)


def leg_of(
    rig: Rig, action: LegAction, name: str, *, saga_id: UUID = SAGA, orchestrator: str = THERE
) -> settlement_pb2.Leg:
    leg_id = LegId(saga_id, name, 1)
    call = LegCall(leg_id=leg_id, action=action, orchestrator=orchestrator, causation_id=rig.ben, user_id=rig.ann)
    return leg_to_proto(call)


def apply(rig: Rig, leg: settlement_pb2.Leg, by: Pairs = PEER) -> Awaitable[settlement_pb2.ApplyLegResponse]:
    return rig.ask("ApplyLeg", leg=leg, by=by)


def undo(rig: Rig, leg: settlement_pb2.Leg, by: Pairs = PEER) -> Awaitable[settlement_pb2.CompensateLegResponse]:
    return rig.ask("CompensateLeg", leg=leg, by=by)


def arrival(user_id: UUID, *, from_cell: str = THERE, epoch: int = 2) -> ArriveUser:
    balances = {"USD": Balance(available_minor=7)}
    return ArriveUser(user_id=user_id, from_cell=from_cell, epoch=epoch, balances=balances)
