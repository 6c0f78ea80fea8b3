"""Requests to a cell and their answers: the envelope around the domain's commands and states."""

from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from cells.domain.commands import Command
from cells.domain.record import Struct
from cells.domain.refusals import Refused
from cells.domain.results import Result
from cells.domain.time.hlc import Stamp


class Lane(StrEnum):
    """Timers, legs and saga progress are urgent: bids never starve them."""

    URGENT = "urgent"
    CLIENT = "client"


# Identifies a command: its sender, and the id that the sender has chosen.
CommandKey = tuple[str, UUID]

# The authority of the cell's own work: timers, the legs of its sagas, its audit.
BY_CELL = '{"by":"cell"}'


class Author(NamedTuple):
    """A principal, and its authority: the proof of its identity as canonical JSON; empty if there is none."""

    principal: str
    authority: str = ""


class CommandRequest(Struct, frozen=True, kw_only=True):
    """A command with its identity and circumstances."""

    # Chosen by the sender: it identifies nothing without `principal`.
    command_id: UUID
    # SHA-256 of (principal, method, canonical request); empty if the command's outcome is not stored under its id.
    fingerprint: bytes
    # The sender: a client, another cell for a saga of its own, or this cell.
    principal: str
    command: Command
    # The flow: the client's command_id, or the saga's id.
    correlation_id: UUID
    causation_id: UUID | None
    user_id: UUID | None
    # On the cell's monotonic clock; after it an undecided command is dropped.
    deadline_s: float | None
    lane: Lane
    size_bytes: int
    # The proof under which the command was sent, as canonical JSON (docs/log-format.md); empty if there is none.
    authority: str = ""

    @property
    def key(self) -> CommandKey:
        return self.principal, self.command_id


def request_of_cell(
    cell: str,
    command: Command,
    command_id: UUID,
    *,
    author: Author | None = None,
    fingerprint: bytes = b"",
    correlation_id: UUID | None = None,
    causation_id: UUID | None = None,
    user_id: UUID | None = None,
) -> CommandRequest:
    """A command that the cell sends itself, or for `author`: urgent, and without a deadline."""
    principal, authority = author or Author(f"peer/{cell}", BY_CELL)
    return CommandRequest(
        command_id=command_id,
        fingerprint=fingerprint,
        principal=principal,
        authority=authority,
        command=command,
        correlation_id=correlation_id or command_id,
        causation_id=causation_id,
        user_id=user_id,
        deadline_s=None,
        lane=Lane.URGENT,
        size_bytes=0,
    )


class CommandState(StrEnum):
    ACCEPTED = "ACCEPTED"
    REFUSED = "REFUSED"
    IN_PROGRESS = "IN_PROGRESS"


class Outcome(Struct, frozen=True, kw_only=True):
    """The outcome of a command. `Cell.execute` returns it if the command was accepted, and raises refusals."""

    command_id: UUID
    # The sender; empty if it was not stored yet.
    principal: str
    # IN_PROGRESS never leaves `Cell.execute` this way: there it is raised.
    state: CommandState = CommandState.ACCEPTED
    # A Result: which one follows from the command.
    result: Any = Result()
    refusal: Refused | None = None
    # The cell whose log has the position.
    cell: str
    position: int
    hlc: Stamp
    replayed: bool
    # The saga that it waits for.
    saga_id: UUID | None = None
    # Of a timer that came too early: when it is due.
    due_ms: int | None = None


S = TypeVar("S")


class Read(Struct, Generic[S], frozen=True, kw_only=True):
    """A state, the version of its stream, and a log position that it is at least as new as."""

    state: S
    stream_version: int
    position: int


class CaughtUp(NamedTuple):
    """All events that the log held when this was reached have been sent."""

    position: int


class Progress(NamedTuple):
    """All matching events up to this position have been sent."""

    position: int
