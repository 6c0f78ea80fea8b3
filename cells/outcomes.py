"""What a command came to, as stored under its id: {"accepted": {}}, {"refused": {}} or {"in_progress": {}}."""

import json

from cells.codec import canonical
from cells.domain.decision import Decision, Ending
from cells.domain.hlc import Stamp
from cells.domain.refusals import CommandIdReused, Refused, refusal
from cells.ports import OutcomeRow
from cells.requests import CommandRequest, CommandState, CommandStatus, Outcome
from cells.schema import encoder

_result = encoder(dict[str, str])


def decided_outcome(decision: Decision) -> str:
    return f'{{"{"accepted" if decision.awaits_saga is None else "in_progress"}":{_result(decision.result)}}}'


def ended_outcome(ending: Ending) -> str:
    return f'{{"accepted":{_result(ending.result)}}}' if ending.refusal is None else refused_outcome(ending.refusal)


def refused_outcome(refused: Refused) -> str:
    return canonical({"refused": {"reason": refused.reason, "facts": refused.facts}})


def in_progress(row: OutcomeRow) -> bool:
    return "in_progress" in json.loads(row.outcome)


def status_of(row: OutcomeRow) -> CommandStatus:
    """What became of the command that a stored row tells of."""
    content = json.loads(row.outcome)
    refused = content.get("refused")
    state = CommandState.REFUSED if refused else CommandState.ACCEPTED
    return CommandStatus(
        command_id=row.command_id,
        state=CommandState.IN_PROGRESS if "in_progress" in content else state,
        result=content.get("accepted") or content.get("in_progress") or {},
        refusal=refusal(refused["reason"], refused["facts"]) if refused else None,
        position=row.position,
        hlc=Stamp(row.hlc_physical, row.hlc_logical),
    )


def stored_answer(row: OutcomeRow, request: CommandRequest) -> Outcome | Refused:
    """What a command that was done before is answered with; its fingerprint is checked first of all."""
    if row.fingerprint != request.fingerprint:
        return CommandIdReused(command_id=str(request.command_id))
    status = status_of(row)
    if status.refusal is not None:
        return status.refusal
    return Outcome(
        command_id=status.command_id,
        result=status.result,
        position=status.position,
        hlc=status.hlc,
        replayed=True,
        state=status.state,
    )
