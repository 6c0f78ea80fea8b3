"""A notice to a person, wherever they live. Nothing waits for it."""

from cells.domain.commands import NotifyParty
from cells.domain.decision import account_of
from cells.domain.events import PartyNotified
from cells.domain.sagas.definition import Effect, LegContext, LegSpec, SagaDefinition, SagaKind
from cells.domain.sagas.saga_events import NoticeFacts


def _notified(action: NotifyParty, at: LegContext) -> PartyNotified:
    account_of(at.view, action.user_id)
    return PartyNotified(auction=action.auction, notice=action.notice, status=action.status)


NOTIFY = Effect(action=NotifyParty, apply=_notified, foreign=True, claims="auction")

NOTICE = SagaDefinition(
    kind=SagaKind.NOTICE,
    title="notice, to either party of a settlement that has failed",
    facts=NoticeFacts,
    versions={1: (LegSpec(leg="notify", at="user_cell", effect=NOTIFY, pivot=True, best_effort=True),)},
    party="user_id",
)
