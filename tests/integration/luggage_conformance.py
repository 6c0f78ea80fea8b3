"""What every store must do with what users who move bring along, a part of the conformance suite."""

from uuid import UUID, uuid4

from cells.baggage import MovedEvent, MovedPlace
from cells.domain.events import Withdrawn
from cells.ports import OutcomeRow
from tests.integration.rows import NOW, event_row
from tests.integration.store_conformance import Stores, append_all


def outcome(user_id: UUID | None = None, command_id: UUID | None = None, text: str = '{"accepted":{}}') -> OutcomeRow:
    return OutcomeRow(command_id or uuid4(), bytes(32), text, 7, 1, 2, NOW, user_id)


class LuggageConformance:
    async def test_brought_events_are_kept_as_they_are(self, stores: Stores) -> None:
        """By cell and position, page by page, of the types that are asked for; brought twice they are there once."""
        user = uuid4()
        rows = [event_row(position, aggregate_id=user, stream_version=position) for position in range(1, 6)]
        taken = Withdrawn(currency="USD", amount_minor=1, external_reference="é\U0001f600 \\u0000 x")
        events = [
            *(MovedEvent("us-east", row) for row in rows),
            MovedEvent("eu-west", event_row(9, taken, aggregate_id=user, stream_version=1)),
        ]
        for some in (events[:4], events[2:]):
            await stores.one.stow(user, some, [])
        assert await stores.other.moved_counts(user) == {"us-east": 5, "eu-west": 1}
        assert await stores.other.moved_counts(uuid4()) == {}
        found: list[MovedEvent] = []
        while True:
            after = MovedPlace(found[-1].cell, found[-1].row.position) if found else None
            page = await stores.one.moved_events(user, after=after, limit=4)
            found += page
            if len(page) < 4:
                break
        assert found == [events[5], *events[:5]]
        assert await stores.one.moved_events(user, event_types=("WITHDRAWN",), limit=9) == [events[5]]

    async def test_brought_outcomes_answer_as_those_that_were_reached_here(self, stores: Stores) -> None:
        """What is known here already stays as it is; what a user has brought is found again for the next move."""
        user, own = uuid4(), outcome()
        await append_all(stores.one, outcomes=[own])
        brought = [outcome(), outcome(command_id=own.command_id, text='{"accepted":{"other":"1"}}')]
        for _ in range(2):
            await stores.one.stow(user, [], brought)
        known = await stores.other.outcomes([row.command_id for row in brought])
        assert known[own.command_id].outcome == await _stored(stores, own)
        assert known[brought[0].command_id].fingerprint == brought[0].fingerprint
        assert known[brought[0].command_id].user_id == user
        assert [row.command_id for row in await stores.one.outcomes_of(user, after=None, limit=9)] == [
            brought[0].command_id
        ]

    async def test_outcomes_of_a_user_are_found_page_by_page(self, stores: Stores) -> None:
        """Those that say whose they are, and no other's."""
        user = uuid4()
        rows = [outcome(user) for _ in range(5)]
        await append_all(stores.one, outcomes=[*rows, outcome(uuid4()), outcome()])
        ids = sorted(row.command_id for row in rows)
        first = await stores.one.outcomes_of(user, after=None, limit=3)
        rest = await stores.one.outcomes_of(user, after=first[-1].command_id, limit=3)
        assert [row.command_id for row in (*first, *rest)] == ids


async def _stored(stores: Stores, row: OutcomeRow) -> str:
    return (await stores.one.outcomes([row.command_id]))[row.command_id].outcome
