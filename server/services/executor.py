"""What all servicers of commands have in common."""

from dataclasses import dataclass
from uuid import UUID

from cells.cell import Cell
from cells.domain.commands import Command
from cells.ports import Clock
from cells.requests import Outcome
from server.shell.call import current_call
from server.wire.common import Mutating, request_in


@dataclass(frozen=True, slots=True)
class Executor:
    cell: Cell
    clock: Clock

    async def execute(self, request: Mutating, command: Command, user_id: UUID | None) -> Outcome:
        """Has the cell execute the client's `command` on behalf of `user_id`. Raises Refused."""
        now_s = self.clock.monotonic_s()
        return await self.cell.execute(request_in(request, command, user_id=user_id, call=current_call(), now_s=now_s))
