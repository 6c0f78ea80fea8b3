"""The start of a saga: in the commit of its cause, with its first leg if that is taken at once."""

from uuid import UUID

from cells.domain.decision import Context, UncommittedEvent, View
from cells.domain.events import AnyEvent
from cells.domain.refusals import TooManyFlows, TooManyReleases
from cells.domain.sagas.definition import SAGAS, version_of
from cells.domain.sagas.saga_events import SagaFacts, SagaLegCompleted, SagaStarted
from cells.domain.values import Direction, Kind, LegId, LegTag, Ref


def require_room_for_flow(user_id: UUID, view: View, context: Context) -> None:
    """One user may have only a limited number of open sagas. Raises TooManyFlows."""
    open_count, most = view.open_flows(user_id), context.policy.user_flows_max
    if open_count >= most:
        raise TooManyFlows(user_id=str(user_id), open_count=open_count, most=most)


def require_room_for_release(cell: str, view: View, context: Context) -> None:
    """A cell that does not let its outbid bids be released may not pile them up here. Raises TooManyReleases."""
    open_count, most = view.open_flows(cell), context.policy.cell_releases_max
    if open_count >= most:
        raise TooManyReleases(cell=cell, open_count=open_count, most=most)


def started(
    facts: SagaFacts, saga_id: UUID, context: Context, *, deadline_ms: int | None, caused_by: UUID | None = None
) -> UncommittedEvent:
    version = version_of(SAGAS[type(facts)].kind)
    event = SagaStarted(facts=facts, deadline_ms=deadline_ms, started_ms=context.now_ms, saga_version=version)
    return _of_saga(context, saga_id, Ref(Kind.SAGA, saga_id), event, caused_by)


def started_with(
    facts: SagaFacts, saga_id: UUID, context: Context, *, deadline_ms: int, leg: str, aggregate: Ref, effect: AnyEvent
) -> list[UncommittedEvent]:
    """The start, with the first leg's effect in the stream of `aggregate`, which needs no other cell."""
    start = started(facts, saga_id, context, deadline_ms=deadline_ms)
    tag = LegTag(LegId(saga_id, leg, 1), Direction.ACTION)
    taken = _of_saga(context, saga_id, aggregate, effect, start.event_id, leg=tag)
    done = SagaLegCompleted(leg=leg, generation=tag.leg_id.generation, effect_id=taken.event_id)
    return [start, taken, _of_saga(context, saga_id, start.aggregate, done, taken.event_id)]


def _of_saga(
    context: Context,
    saga_id: UUID,
    aggregate: Ref,
    event: AnyEvent,
    caused_by: UUID | None,
    *,
    leg: LegTag | None = None,
) -> UncommittedEvent:
    """An event that belongs to a saga's flow, whatever command began it."""
    return UncommittedEvent(
        event_id=context.new_event_id(),
        aggregate=aggregate,
        event=event,
        caused_by=caused_by,
        leg=leg,
        correlation_id=saga_id,
    )
