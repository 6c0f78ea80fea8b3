"""People with a token of their own, who send commands and ask what became of them."""

from uuid import UUID

import grpc.aio

from cellbook.v1 import ledger_pb2
from cells.domain.refusals import CommandNotFound
from server.shell.calls.statuses import refusal_in
from tests.integration.services_rig import HERE, Pairs, Rig, new_id, usd

TIMEOUT_S = 10.0


def as_user(user_id: UUID) -> Pairs:
    return (("cellbook-principal", f"user/{user_id}"),)


async def asked(rig: Rig, command_id: str, principal: Pairs, *, of: str = "") -> ledger_pb2.GetCommandResponse | None:
    """What somebody is told; None: that there is no such command."""
    message = ledger_pb2.GetCommandRequest(command_id=command_id, principal=of)
    try:
        return await rig.ledger.GetCommand(message, metadata=principal, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        refused = refusal_in(error)
        assert isinstance(refused, CommandNotFound)
        assert refused.facts == {"command_id": command_id, "cell": HERE}
        return None


async def paid(rig: Rig, principal: Pairs, command_id: str = "", amount_minor: int = 5) -> str:
    """Ann pays ben."""
    command_id = command_id or new_id()
    message = ledger_pb2.TransferRequest(
        command_id=command_id, from_user_id=str(rig.ann), to_user_id=str(rig.ben), amount=usd(amount_minor)
    )
    await rig.ledger.Transfer(message, metadata=principal, timeout=TIMEOUT_S)
    return command_id
