"""Takes and undoes a leg of a saga in this cell, by the effect that the saga's declaration names.

The barrier comes first (after dtm): a duplicate gets the first answer, a compensation that comes before its action
only leaves a tombstone, and the action that comes after it is refused.
"""

from cells.domain import peer_rules
from cells.domain.account.barrier import (
    LegCommand,
    barrier_id,
    barrier_of,
    direction_of,
    require_sent_since_arrival,
)
from cells.domain.commands import ApplyLeg, CompensateLeg, RecordLeg
from cells.domain.decision import Context, Decision, UncommittedEvent, View
from cells.domain.events import AnyEvent
from cells.domain.refusals import LegCancelled
from cells.domain.sagas import saga_rules
from cells.domain.sagas.definition import EFFECTS, LegContext
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.saga_events import LegTombstoned
from cells.domain.values import Direction, Kind, LegTag, Ref

# Legs whose effect stays: their compensation only determines whether they have happened or never will.
PIVOTS = tuple(action for action, effect in EFFECTS.items() if effect.undo is None)


def take_leg(command: LegCommand, view: View, context: Context) -> Decision:
    """A leg's effect and, if this cell orchestrates the saga, its progress, in one decision."""
    peer_rules.require_askable(command, view, context)
    own = command.orchestrator == context.cell
    if isinstance(command, ApplyLeg):
        if own:
            saga_rules.require_in_time(command.leg_id, view, context)
        decision = apply_leg(command, view, context)
    else:
        decision = compensate_leg(command, view, context)
    if own and isinstance(mark := decision.result, LegMark):
        news = RecordLeg(leg_id=command.leg_id, direction=direction_of(command), mark=mark)
        progress = saga_rules.leg_taken(news, view, context)
        decision.extend(progress.uncommitted)
        decision.endings.extend(progress.endings)
    return decision


def apply_leg(command: ApplyLeg, view: View, context: Context) -> Decision:
    barrier = barrier_of(command, view, context.cell)
    if barrier.action is not None:
        return Decision(result=barrier.action)
    if barrier.compensation is not None:
        raise LegCancelled(leg=command.leg_id.leg, saga_id=str(command.leg_id.saga_id))
    require_sent_since_arrival(command, view)
    effect, at = EFFECTS[type(command.action)], LegContext(command.leg_id, view, context)
    event = effect.apply(command.action, at)
    decision = _taken(command, effect.ref(command.action), event, LegResult.APPLIED, context)
    if effect.further is not None:
        decision.extend(effect.further(command.action, at, decision.uncommitted[0].event_id))
    return decision


def compensate_leg(command: CompensateLeg, view: View, context: Context) -> Decision:
    barrier, action, effect = barrier_of(command, view, context.cell), command.action, EFFECTS[type(command.action)]
    if barrier.compensation is not None:
        return Decision(result=barrier.compensation)
    if barrier.action is not None and isinstance(action, PIVOTS):
        return Decision(result=barrier.action)
    if barrier.action is None and not (effect.undoes_untaken is not None and effect.undoes_untaken(action, view)):
        leg_id = command.leg_id
        tombstone = LegTombstoned(saga_id=leg_id.saga_id, leg=leg_id.leg, generation=leg_id.generation)
        ref = Ref(Kind.LEG, barrier_id(command, context.cell))
        return _taken(command, ref, tombstone, LegResult.TOMBSTONED, context)
    if effect.undo is None:
        message = f"{type(action).__name__} is not undone once applied"
        raise TypeError(message)
    at = LegContext(command.leg_id, view, context)
    decision = _taken(command, effect.ref(action), effect.undo(action, at), LegResult.UNDONE, context)
    if effect.further_undone is not None:
        decision.extend(effect.further_undone(action, at, decision.uncommitted[0].event_id))
    return decision


def _taken(command: LegCommand, ref: Ref, event: AnyEvent, result: LegResult, context: Context) -> Decision:
    """The leg's own event, marked with the leg, and the answer."""
    direction: Direction = direction_of(command)
    foreign_id = None if command.orchestrator == context.cell else barrier_id(command, context.cell)
    tag = LegTag(command.leg_id, direction, foreign_id)
    uncommitted = UncommittedEvent(event_id=context.new_event_id(), aggregate=ref, event=event, leg=tag)
    return Decision(uncommitted=[uncommitted], result=LegMark(result, uncommitted.event_id))
