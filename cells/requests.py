"""What a cell is asked and what it answers: the envelope around the domain's commands and states."""

from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from cells.domain.commands import Command
from cells.domain.hlc import Stamp
from cells.domain.record import Struct
from cells.domain.refusals import Refused


class Lane(StrEnum):
    """Timers, legs and the progress of sagas are urgent: bids never starve them."""

    URGENT = "urgent"
    CLIENT = "client"


# What names a command: its sender, and the id that this one has chosen.
CommandKey = tuple[str, UUID]

# The authority of what the cell does by itself: timers, the legs of its sagas, its audit.
BY_CELL = '{"by":"cell"}'


class Author(NamedTuple):
    """A principal, and its authority: the proof of who it is, as canonical JSON; empty where there is none."""

    principal: str
    authority: str = ""


class CommandRequest(Struct, frozen=True, kw_only=True):
    """A command with its identity and circumstances."""

    # Chosen by the sender: it says nothing without `principal`.
    command_id: UUID
    # SHA-256 of (principal, method, canonical request); empty where the command's outcome is not stored under its id.
    fingerprint: bytes
    # Who sent it: a client, another cell for a saga of its own, or this cell.
    principal: str
    command: Command
    # The flow: the client's command_id, or the saga's id.
    correlation_id: UUID
    causation_id: UUID | None
    user_id: UUID | None
    # On the cell's monotonic clock; past it the command is dropped if it is not yet decided.
    deadline_s: float | None
    lane: Lane
    size_bytes: int
    # The proof under which the command was sent, as canonical JSON (docs/log-format.md); empty where there is none.
    authority: str = ""

    @property
    def key(self) -> CommandKey:
        return self.principal, self.command_id


class CommandState(StrEnum):
    ACCEPTED = "ACCEPTED"
    REFUSED = "REFUSED"
    IN_PROGRESS = "IN_PROGRESS"


class Outcome(Struct, frozen=True, kw_only=True):
    """The answer to an accepted command. Values of `result` are strings, amounts decimal."""

    command_id: UUID
    result: dict[str, str]
    # In the log of this cell.
    cell: str
    position: int
    hlc: Stamp
    replayed: bool
    # IN_PROGRESS never leaves `Cell.execute` this way: there it is raised.
    state: CommandState = CommandState.ACCEPTED
    # The saga that it waits for.
    saga_id: UUID | None = None


class CommandStatus(Struct, frozen=True, kw_only=True):
    """What became of a command."""

    command_id: UUID
    # Who sent it; empty where that was not stored yet.
    principal: str
    state: CommandState
    result: dict[str, str]
    refusal: Refused | None
    cell: str
    position: int
    hlc: Stamp


S = TypeVar("S")


class Read(Struct, Generic[S], frozen=True, kw_only=True):
    """A state, the version of its stream, and a position of the log that it is at least as new as."""

    state: S
    stream_version: int
    position: int


class CaughtUp(NamedTuple):
    """All that the log held when it was reached has been sent."""

    position: int


class Progress(NamedTuple):
    """All that is wanted up to this position has been sent."""

    position: int
