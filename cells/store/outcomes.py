"""The outcome of a command as stored under its id: {"accepted": {}}, {"refused": {}} or {"in_progress": {}}."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from cells.domain.commands import ApplyLeg, Command, CompensateLeg
from cells.domain.decision import Decision, Ending
from cells.domain.moves.commands import ArriveUser
from cells.domain.refusals import CommandIdReused, Refused, refusal
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.move import moved_result
from cells.domain.time.hlc import Stamp
from cells.encoding.codec import canonical
from cells.encoding.schema import encoder
from cells.requests import CommandKey, CommandRequest, CommandState, CommandStatus, Outcome
from cells.store.ports import OutcomeRow

_result = encoder(dict[str, str])


class OutcomePlace(NamedTuple):
    """The position of an outcome in a list."""

    command_id: UUID
    principal: str


# Before all others.
NO_OUTCOME = OutcomePlace(UUID(int=0), "")


def outcome_place(row: OutcomeRow) -> OutcomePlace:
    return OutcomePlace(row.command_id, row.principal)


def decided_outcome(decision: Decision) -> str:
    return f'{{"{"accepted" if decision.awaits_saga is None else "in_progress"}":{_result(decision.result)}}}'


def ended_outcome(ending: Ending) -> str:
    return f'{{"accepted":{_result(ending.result)}}}' if ending.refusal is None else refused_outcome(ending.refusal)


def refused_outcome(refused: Refused) -> str:
    return canonical({"refused": {"reason": refused.reason, "facts": refused.facts}})


def begun_elsewhere(command: Command, arrived: Outcome, mark: LegMark | None) -> OutcomeRow | None:
    """The result of a move, which the new home stores under the command that began it at the old one.

    It does not matter which leg reports the arrival: the arrival itself, or one that tries to undo it too late.
    """
    if not isinstance(command, ApplyLeg | CompensateLeg) or not isinstance(command.action, ArriveUser):
        return None
    action = command.action
    if action.begun_by is None or mark is None or mark.result is not LegResult.APPLIED:
        return None
    result = moved_result(arrived.cell, action.epoch, command.leg_id.saga_id)
    return OutcomeRow(
        action.begun_by.command_id,
        action.begun_by.fingerprint,
        f'{{"accepted":{_result(result)}}}',
        arrived.position,
        *arrived.hlc,
        datetime.fromtimestamp(arrived.hlc.physical_ms / 1_000, UTC),
        action.user_id,
        action.begun_by.principal,
        cell=arrived.cell,
    )


def in_progress(row: OutcomeRow) -> bool:
    return "in_progress" in json.loads(row.outcome)


def by_key(rows: Iterable[OutcomeRow]) -> dict[CommandKey, OutcomeRow]:
    return {(row.principal, row.command_id): row for row in rows}


def row_for(key: CommandKey, user_id: UUID | None, known: Mapping[CommandKey, OutcomeRow]) -> OutcomeRow | None:
    """The row of a command; or one from before senders were stored, which is identified by its fingerprint.

    Rows that a user has brought along from another cell answer only the commands of that user.
    """
    rows = (known.get(key), known.get(("", key[1])))
    return next((row for row in rows if row and (row.cell is None or row.user_id == user_id)), None)


def status_of(row: OutcomeRow, here: str) -> CommandStatus:
    """The status of the command whose row is stored in the cell `here`."""
    content = json.loads(row.outcome)
    refused = content.get("refused")
    state = CommandState.REFUSED if refused else CommandState.ACCEPTED
    return CommandStatus(
        command_id=row.command_id,
        principal=row.principal,
        state=CommandState.IN_PROGRESS if "in_progress" in content else state,
        result=content.get("accepted") or content.get("in_progress") or {},
        refusal=refusal(refused["reason"], refused["facts"]) if refused else None,
        cell=row.cell or here,
        position=row.position,
        hlc=Stamp(row.hlc_physical, row.hlc_logical),
    )


def stored_answer(row: OutcomeRow, request: CommandRequest, here: str) -> Outcome | Refused:
    """The answer to a command that was executed before; its fingerprint is checked first."""
    if row.fingerprint != request.fingerprint:
        return CommandIdReused(command_id=str(request.command_id))
    status = status_of(row, here)
    if status.refusal is not None:
        return status.refusal
    return Outcome(
        command_id=status.command_id,
        result=status.result,
        cell=status.cell,
        position=status.position,
        hlc=status.hlc,
        replayed=True,
        state=status.state,
        saga_id=row.saga_id,
    )
