"""The commands of one batch in their stages: decided, committing, durable."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from cells.domain.decision import Ending
from cells.domain.refusals import Refused
from cells.open_batch import Committed, OpenBatch
from cells.ports import Batch, OutcomeRow, StoreError
from cells.queue import Pending
from cells.requests import Outcome

Answer = Outcome | Refused | Exception


@dataclass(frozen=True, slots=True)
class Commit:
    """Newly durable events and answers, for followers of the log within the process."""

    events: Sequence[Committed]
    endings: Sequence[Ending]
    # The number of commands that it answers, and the duration of the transaction; 0 if there was none.
    commands: int = 0
    write_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Group:
    """The commands of one batch and the answers that they get once it is durable."""

    batch: OpenBatch
    answers: list[tuple[Pending, Answer]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    # What the group that commits before this one answers commands with that were sent elsewhere.
    brought_ahead: Sequence[OutcomeRow] = ()


@dataclass(slots=True, kw_only=True)
class Flight:
    """A group whose transaction is under way."""

    group: Group
    task: asyncio.Task[StoreError | None]


def has_rows(batch: Batch) -> bool:
    """Whether it is more than a beat."""
    return bool(batch.events or batch.outcomes or batch.brought_outcomes or batch.ended_outcomes)


def first_id(pendings: Sequence[Pending]) -> str:
    return str(pendings[0].request.command_id) if pendings else ""
