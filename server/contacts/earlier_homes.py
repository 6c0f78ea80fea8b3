"""An erasure reaches every earlier home of the person: a backup that is restored there may still hold the contact.

The home asks each earlier home until it answers, and once a day from then on: if an earlier home loses its database
together with its file of erasures, it receives the erasure again within a day.
"""

from dataclasses import dataclass
from uuid import UUID

import grpc.aio
import structlog

from cellbook.v1 import move_pb2, move_pb2_grpc
from cells.background import LeaderTask, in_background
from cells.domain.audit.refusals import HomeNotVouched
from cells.domain.refusals import Refused, Unavailable
from cells.store.ports import PeerUnknown
from server.contacts.vault import SQL, Vault
from server.peers import GrpcPeers
from server.shell.calls.statuses import refusal_in

log = structlog.get_logger()

EVERY_S = 10.0
PAGE = 100
TIMEOUT_S = 3.0
AGAIN_S = 24 * 3_600.0
# After the earlier home has refused, because by its directory the user lives elsewhere.
AFTER_REFUSAL_S = 600.0


@dataclass(slots=True, kw_only=True)
class EarlierHomes(LeaderTask):
    """Runs in the process that leads."""

    cell: str
    vault: Vault
    peers: GrpcPeers

    @in_background("erasures_elsewhere", every_s=EVERY_S, outages=(Unavailable,))
    async def round(self) -> None:
        """Asks all that are due. A cell that does not answer is left for the next round. Raises Unavailable."""
        silent: list[str] = []
        while due := await self._due(silent):
            for user_id, cell in due:
                if cell not in silent and not await self._ask(user_id, cell):
                    silent.append(cell)

    async def _due(self, silent: list[str]) -> list[tuple[UUID, str]]:
        async with self.vault.transaction() as connection:
            rows = await connection.fetch(SQL["earlier_homes_to_ask"], self.cell, silent, PAGE)
        return [(row["user_id"], row["cell"]) for row in rows]

    async def _ask(self, user_id: UUID, cell: str) -> bool:
        """Whether the cell has answered."""
        again_s, request = AGAIN_S, move_pb2.EraseEarlierContactRequest(user_id=str(user_id))
        try:
            stub = move_pb2_grpc.MoveServiceStub(await self.peers.channel(cell))
            await self.peers.caller.call(stub.EraseEarlierContact, request, to=cell, timeout_s=TIMEOUT_S)
        except (PeerUnknown, Refused, grpc.aio.AioRpcError) as error:
            refused = refusal_in(error) if isinstance(error, grpc.aio.AioRpcError) else None
            log.warning("erasure_not_taken", peer=cell, problem=refused.message if refused else str(error))
            if not isinstance(refused, HomeNotVouched):
                return False
            again_s = AFTER_REFUSAL_S
        async with self.vault.transaction() as connection:
            await connection.execute(SQL["ask_again_in"], user_id, cell, again_s)
        return True
