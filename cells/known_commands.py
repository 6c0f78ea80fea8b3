"""The outcome of a command, for callers with a right to it."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from cells.domain.refusals import CommandNotFound, NotLeading, Unavailable
from cells.domain.time.hlc import Stamp
from cells.requests import CommandRequest, CommandState, CommandStatus
from cells.store.outcomes import status_of
from cells.store.ports import OutcomeRow, Store, StoreError
from cells.writer.writer import Writer


class Asker(NamedTuple):
    """A caller of GetCommand: knowing an id gives no right to its outcome."""

    principal: str
    # The user itself, or the users that a delegate may act for.
    users: frozenset[UUID] = frozenset()
    # An auditor, or an operator.
    reads_all: bool = False

    def may_know(self, principal: str, user_id: UUID | None) -> bool:
        """Whether it may read a command that `principal` has sent for `user_id`."""
        return self.reads_all or principal == self.principal or user_id in self.users


@dataclass(frozen=True, slots=True)
class KnownCommands:
    store: Store
    writer: Writer

    async def status(self, command_id: UUID, asker: Asker, *, principal: str = "") -> CommandStatus:
        """The outcome of the command; if several senders used the id, the asker's own, or else the oldest.

        With `principal`: of the command from this sender.

        Raises:
            CommandNotFound: the asker may know of no such command, neither done nor under way.
            NotLeading: nothing was done yet, but another process may be about to do it.
            Unavailable
        """
        here = self.writer.time.cell
        # Searched first: a command that ends in the meantime is in the store.
        under_way = [
            self._in_progress(each)
            for each in self.writer.under_way(command_id)
            if asker.may_know(each.principal, each.user_id)
        ]
        try:
            rows = await self.store.outcomes([command_id])
        except StoreError as error:
            raise Unavailable(problem=str(error)) from error
        ended = [status_of(row, here) for row in sorted(rows, key=_age) if asker.may_know(row.principal, row.user_id)]
        known = [status for status in (*ended, *under_way) if principal in {"", status.principal}]
        if known:
            return min(known, key=lambda status: status.principal != asker.principal)
        if not self.writer.leading:
            raise NotLeading(cell=here)
        raise CommandNotFound(command_id=str(command_id), cell=here)

    def _in_progress(self, request: CommandRequest) -> CommandStatus:
        return CommandStatus(
            command_id=request.command_id,
            principal=request.principal,
            state=CommandState.IN_PROGRESS,
            result={},
            refusal=None,
            cell=self.writer.time.cell,
            position=self.writer.time.durable_position,
            hlc=Stamp(0, 0),
        )


def _age(row: OutcomeRow) -> tuple[float, str]:
    return row.recorded_at.timestamp(), row.principal
