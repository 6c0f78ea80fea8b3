"""Shared by all servicers of commands."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from cells.cell import Cell
from cells.domain.commands import Command
from cells.domain.refusals import Refused
from cells.requests import CommandRequest, Lane, Outcome
from cells.store.ports import Clock
from server.audit.signatures import NO_SIGNATURES, CallerSignatures
from server.shell.calls.call import current_call
from server.wire.batches import Item, Reader, parse_count, parse_requests
from server.wire.common import Mutating, parse_deadline, parse_request, parse_sender


@dataclass(frozen=True, slots=True)
class Executor:
    cell: Cell
    clock: Clock
    signatures: CallerSignatures = NO_SIGNATURES

    async def execute(
        self, request: Mutating, command: Command, user_id: UUID | None, *, lane: Lane = Lane.CLIENT
    ) -> Outcome:
        """Executes the client's `command` on behalf of `user_id`. Raises Refused."""
        sender = parse_sender(current_call(), self.clock.monotonic_s())
        authority_of = self.signatures.authority
        return await self.cell.execute(
            parse_request(request, command, user_id=user_id, sender=sender, lane=lane, authority_of=authority_of)
        )

    async def execute_all(self, items: Sequence[Item], read: Reader[Item], method: str) -> list[Outcome | Refused]:
        """The same for many items; `method` is the RPC for a single one. Raises Refused for all of them together."""
        call, now_s = current_call()._replace(method=method), self.clock.monotonic_s()
        # Checked before the items are read, so that an overloaded cell does not do this work for nothing.
        self.cell.check_room(str(call.principal), parse_count(items))
        read_all = partial(parse_requests, items, read, call=call, now_s=now_s, authority_of=self.signatures.authority)
        # A thousand signatures take a tenth of a second: other calls are served meanwhile.
        requests = await asyncio.to_thread(read_all) if self.signatures.expected else read_all()
        valid = [request for request in requests if isinstance(request, CommandRequest)]
        answers = iter(await self.cell.execute_all(valid, deadline_s=parse_deadline(call, now_s)))
        return [request if isinstance(request, Refused) else next(answers) for request in requests]
