"""The commands of one batch in their stages: decided, committing, durable."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from cells.domain.decision import Ending
from cells.domain.refusals import Refused, Unstorable
from cells.domain.work_refusals import HouseAccountFull
from cells.requests import Outcome
from cells.store.ports import Batch, OutcomeRow, Poisoned, StoreError
from cells.writer.batch_builder import BatchBuilder, Committed
from cells.writer.queue import Pending

# SQLSTATE numeric_value_out_of_range.
OUT_OF_RANGE = "22003"

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
class DecidedBatch:
    """The commands of one batch and the answers that they get once it is durable."""

    batch: BatchBuilder
    answers: list[tuple[Pending, Answer]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    # Answers of the previous group to commands that were sent to other cells.
    brought_ahead: Sequence[OutcomeRow] = ()


@dataclass(slots=True, kw_only=True)
class InFlightCommit:
    """A group whose transaction is under way."""

    group: DecidedBatch
    task: asyncio.Task[StoreError | None]


def has_rows(batch: Batch) -> bool:
    """Whether it is more than a beat."""
    return bool(batch.events or batch.outcomes or batch.brought_outcomes or batch.ended_outcomes)


def not_stored(group: DecidedBatch, failure: Poisoned) -> Refused:
    """The refusal of the only command of a group that the database cannot store."""
    if failure.sqlstate == OUT_OF_RANGE:
        # Nothing else is added up by the database.
        changes = sorted(group.batch.house_changes)
        return HouseAccountFull(accounts=", ".join(f"{account} ({currency})" for account, currency in changes))
    command_id = str(group.answers[0][0].request.command_id) if group.answers else ""
    return Unstorable(command_id=command_id, sqlstate=failure.sqlstate)
