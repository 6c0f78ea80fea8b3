"""The outcome of a command as stored under its id: {"accepted": {}}, {"refused": {}} or {"in_progress": {}}."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from cells.domain.commands import ApplyLeg, Command, CompensateLeg
from cells.domain.decision import Decision, Ending
from cells.domain.moves.commands import ArriveUser
from cells.domain.record import fields_of
from cells.domain.refusals import CommandIdReused, Refused, Unavailable, refusal
from cells.domain.results import STORED, Result
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.move import move_result
from cells.domain.time.hlc import Stamp
from cells.encoding.codec import canonical
from cells.encoding.schema import decoder, encoder
from cells.requests import CommandKey, CommandRequest, CommandState, Outcome
from cells.store.ports import OutcomeRow

# A stored result does not name its type, and may lack or have fields of another version.
_RESULTS = [(frozenset(fields_of(kind)), decoder(kind)) for kind in STORED]


class OutcomePlace(NamedTuple):
    """The position of an outcome in a list."""

    command_id: UUID
    principal: str


# Before all others.
NO_OUTCOME = OutcomePlace(UUID(int=0), "")


def outcome_place(row: OutcomeRow) -> OutcomePlace:
    return OutcomePlace(row.command_id, row.principal)


def decided_outcome(decision: Decision) -> str:
    return f'{{"{"accepted" if decision.awaits_saga is None else "in_progress"}":{_text(decision.result)}}}'


def ended_outcome(ending: Ending) -> str:
    return f'{{"accepted":{_text(ending.result)}}}' if ending.refusal is None else refused_outcome(ending.refusal)


def _text(result: Result) -> str:
    return encoder(type(result))(result)


def _result_of(content: Mapping[str, Any]) -> Result:
    """The result whose fields these are; fields that none has are left out."""
    result: Result = next(read(content) for names, read in _RESULTS if names <= content.keys())
    return result


def refused_outcome(refused: Refused) -> str:
    return canonical({"refused": {"reason": refused.reason, "facts": refused.facts}})


def begun_elsewhere(command: Command, arrived: Outcome) -> OutcomeRow | None:
    """The result of a move, which the new home stores under the command that began it at the old one.

    It does not matter which leg reports the arrival: the arrival itself, or one that tries to undo it too late.
    """
    mark = arrived.result
    if not isinstance(mark, LegMark) or not isinstance(command, ApplyLeg | CompensateLeg):
        return None
    action = command.action
    if not isinstance(action, ArriveUser) or action.begun_by is None or mark.result is not LegResult.APPLIED:
        return None
    result = move_result(arrived.cell, action.epoch, command.leg_id.saga_id)
    return OutcomeRow(
        action.begun_by.command_id,
        action.begun_by.fingerprint,
        f'{{"accepted":{_text(result)}}}',
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


def outcome_of(row: OutcomeRow, here: str) -> Outcome:
    """The outcome of the command whose row is stored in the cell `here`.

    Raises:
        Unavailable: this program cannot read the row, which another cell may have brought.
    """
    try:
        ((key, content),) = json.loads(row.outcome).items()
        state = CommandState(key.upper())
        refused = refusal(content["reason"], content["facts"]) if state is CommandState.REFUSED else None
        result = _result_of(content) if refused is None else Result()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unavailable(problem=f"its stored outcome cannot be read: {error!r}") from error
    return Outcome(
        command_id=row.command_id,
        principal=row.principal,
        state=state,
        result=result,
        refusal=refused,
        cell=row.cell or here,
        position=row.position,
        hlc=Stamp(row.hlc_physical, row.hlc_logical),
        replayed=True,
        saga_id=row.saga_id,
    )


def stored_answer(row: OutcomeRow, request: CommandRequest, here: str) -> Outcome | Refused:
    """The answer to a command that was executed before; its fingerprint is checked first."""
    if row.fingerprint != request.fingerprint:
        return CommandIdReused(command_id=str(request.command_id))
    try:
        outcome = outcome_of(row, here)
    except Unavailable as unreadable:
        return unreadable
    return outcome.refusal or outcome
