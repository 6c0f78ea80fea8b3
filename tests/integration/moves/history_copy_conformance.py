"""What every store must do with what users who move bring along, a part of the conformance suite."""

import json
from datetime import timedelta
from hashlib import sha256
from uuid import UUID, uuid4

from cells.domain.account.barrier import foreign_barrier_id
from cells.domain.events import Deposited, FundsReleased, Withdrawn
from cells.domain.sagas.leg import LegBarrier, LegMark, LegResult, UsedReference
from cells.domain.values import Direction, Kind, LegId, LegTag, Ref, carried_kind, reference_ref
from cells.encoding import codec
from cells.moves.user_bundle import HistoryCopy, MovedEvent, MovedPlace
from cells.store.outcomes import outcome_place
from cells.store.ports import OutcomeRow, Versioned
from tests.integration.rows import NOW, event_row, outcome_row
from tests.integration.store.store_conformance import Stores, append_all


def outcome(user_id: UUID | None = None, command_id: UUID | None = None, text: str = '{"accepted":{}}') -> OutcomeRow:
    return outcome_row(command_id, outcome=text, position=7, user_id=user_id)


class HistoryCopyConformance:
    async def test_brought_events_are_kept_as_they_are(self, stores: Stores) -> None:
        """By cell and position, page by page; brought twice they are there once."""
        user = uuid4()
        rows = [event_row(position, aggregate_id=user, stream_version=position) for position in range(1, 6)]
        taken = Withdrawn(currency="USD", amount_minor=1, external_reference="é\U0001f600 \\u0000 x")
        events = [
            *(MovedEvent("us-east", row) for row in rows),
            MovedEvent("eu-west", event_row(9, taken, aggregate_id=user, stream_version=1)),
        ]
        for some in (events[:4], events[2:]):
            await stores.one.stage(user, some, [])
        assert await stores.other.held(user) == {"us-east": 5, "eu-west": 1}
        assert await stores.other.held(uuid4()) == {}
        found: list[MovedEvent] = []
        while True:
            after = MovedPlace(found[-1].cell, found[-1].row.position) if found else None
            page = await stores.one.moved_events(user, after=after, limit=4)
            found += page
            if len(page) < 4:
                break
        assert found == [events[5], *events[:5]]

    async def test_what_copied_events_mark_is_found(self, stores: Stores) -> None:
        """A leg that was taken or undone, by its effect, and a reference; until what marks them is dropped."""
        user, freed = uuid4(), FundsReleased(hold_id=uuid4(), currency="USD", amount_minor=0, bid_id=uuid4())
        leg_id = LegId(uuid4(), "release", 1)
        barrier = foreign_barrier_id(leg_id, "ap-tokyo", f"{user}/{freed.hold_id}/{freed.bid_id}")
        rows = [event_row(1, freed, aggregate_id=user)]
        for version, direction in enumerate(Direction, start=2):
            metadata = codec.encode_metadata(1, uuid4(), "peer/ap-tokyo", LegTag(leg_id, direction, barrier))
            rows.append(event_row(version, freed, aggregate_id=user, stream_version=version, metadata=metadata))
        deposited = Deposited(currency="USD", amount_minor=1, external_reference="bank 1")
        rows.append(event_row(9, deposited, aggregate_id=user, stream_version=4))
        for _ in range(2):
            await stores.one.stage(user, [MovedEvent("us-east", row) for row in rows], [])
        leg, reference = Ref(Kind.LEG, barrier), reference_ref(carried_kind("deposit", user), "bank 1")
        strange = reference_ref("deposit", "bank 1")
        marks = [LegMark(LegResult.APPLIED, rows[1].event_id), LegMark(LegResult.UNDONE, rows[2].event_id)]
        assert await stores.other.load([leg, reference, strange]) == {
            leg: Versioned(LegBarrier(action=marks[0], compensation=marks[1]), 0),
            reference: Versioned(UsedReference(position=9), 0),
        }
        await stores.one.give_up(user)
        await stores.one.drop_staged(user, idle_s=60, at_most=100)
        assert await stores.other.load([leg, reference]) == {}

    async def test_a_chain_binds_each_copy(self, stores: Stores) -> None:
        """Over the leaf hashes in order, whatever the parts in which they come."""
        user, chain = uuid4(), b""
        rows = [event_row(position, aggregate_id=user, stream_version=position) for position in range(1, 8)]
        for first, last in ((0, 3), (2, 5), (5, 7)):
            await stores.one.stage(user, [MovedEvent("us-east", row) for row in rows[first:last]], [])
        await stores.one.stage(user, [MovedEvent("eu-west", event_row(9, aggregate_id=user))], [])
        for row in rows:
            chain = sha256(chain + row.leaf_hash).digest()
        copies = await stores.other.copies(user)
        assert copies["us-east"] == HistoryCopy(7, chain)
        assert copies["eu-west"].events == 1

    async def test_brought_outcomes_answer_as_those_that_were_reached_here(self, stores: Stores) -> None:
        """What is known here already stays as it is; what a user has brought is found again for the next move."""
        user, own = uuid4(), outcome()
        await append_all(stores.one, outcomes=[own])
        brought = [
            outcome()._replace(cell="us-east", position=2**40),
            outcome(command_id=own.command_id, text='{"accepted":{"other":"1"}}'),
        ]
        for _ in range(2):
            await stores.one.stage(user, [], brought)
        (kept,) = await stores.other.outcomes([own.command_id])
        (known,) = await stores.other.outcomes([brought[0].command_id])
        assert kept.outcome == await _stored(stores, own)
        # The position is one of another cell's log, which may be longer than the one here.
        assert known._replace(recorded_at=NOW, outcome=brought[0].outcome) == brought[0]._replace(user_id=user)
        assert [row.command_id for row in await stores.one.outcomes_of(user, after=None, limit=9)] == [
            brought[0].command_id
        ]

    async def test_what_an_arrival_brings_in_its_own_commit_is_kept_unless_it_is_known(self, stores: Stores) -> None:
        """Of another batch, or of the same."""
        user, known, twin, brought = uuid4(), outcome(), outcome(), outcome()._replace(cell="us-east")
        await append_all(stores.one, outcomes=[known])
        other = '{"accepted":{"other":"1"}}'
        again = [row._replace(outcome=other, cell="us-east") for row in (known, twin)]
        rows = [row._replace(user_id=user) for row in (*again, brought)]
        await append_all(stores.one, outcomes=[twin], brought_outcomes=rows)
        for row in (known, twin, brought):
            (kept,) = await stores.other.outcomes([row.command_id])
            assert (json.loads(kept.outcome), kept.cell) == ({"accepted": {}}, row.cell)

    async def test_outcomes_since_a_moment_are_found_among_all(self, stores: Stores) -> None:
        """In pages, by id and sender, as the others."""
        user = uuid4()
        old, new = [
            [outcome(user)._replace(recorded_at=at) for _ in range(4)] for at in (NOW, NOW + timedelta(seconds=2))
        ]
        await append_all(stores.one, outcomes=[*old, *new])
        places = sorted(map(outcome_place, new))
        since = NOW + timedelta(seconds=1)
        first = await stores.one.outcomes_of(user, after=None, limit=3, since=since)
        rest = await stores.one.outcomes_of(user, after=outcome_place(first[-1]), limit=3, since=since)
        assert [outcome_place(row) for row in (*first, *rest)] == places

    async def test_outcomes_of_a_user_are_found_page_by_page(self, stores: Stores) -> None:
        """Those that say whose they are, and no other's."""
        user = uuid4()
        rows = [outcome(user) for _ in range(5)]
        await append_all(stores.one, outcomes=[*rows, outcome(uuid4()), outcome()])
        # One id of two senders, at the end of a page; and one that an event of the account tells of.
        twin = sorted(rows, key=outcome_place)[2]._replace(principal="user/twin")
        await append_all(stores.one, outcomes=[twin, outcome(user)._replace(in_stream=True)])
        places = sorted(map(outcome_place, [*rows, twin]))
        first = await stores.one.outcomes_of(user, after=None, limit=3)
        rest = await stores.one.outcomes_of(user, after=outcome_place(first[-1]), limit=4)
        assert [outcome_place(row) for row in (*first, *rest)] == places


async def _stored(stores: Stores, row: OutcomeRow) -> str:
    (stored,) = await stores.one.outcomes([row.command_id])
    return stored.outcome
