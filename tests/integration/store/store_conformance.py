"""What every store must do, whatever it stores in. Subclassed once per adapter, which brings the `stores` fixture."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.events import PartyNotified
from cells.domain.sagas.leg import LegBarrier, LegMark, LegResult, UsedReference
from cells.domain.sagas.saga import SagaState
from cells.domain.values import Kind, Ref, reference_ref
from cells.encoding import codec
from cells.store.ports import (
    AccountEntryRow,
    ClearingEntryRow,
    EventFilter,
    EventRow,
    Fenced,
    Head,
    LegRow,
    Poisoned,
    ReferenceRow,
    Store,
    Timer,
)
from tests.integration.rows import (
    NOW_MS,
    account,
    asset,
    auction,
    batch_on,
    entry_row,
    event_row,
    outcome_row,
    projection_row,
    saga,
)

NASTY = 'quote " backslash \\ slash / tab \t newline \n bell \x07 del \x7f é 漢 😀 \u2028 \\u0000 ﻿'


class Stores(NamedTuple):
    """Two processes' views of one database."""

    one: Store
    other: Store


async def append_all(store: Store, *events: EventRow, **parts: Any) -> Head:  # noqa: ANN401
    """Claims, appends and tells the head afterwards."""
    await store.append(batch_on(await store.claim(), *events, **parts))
    return await store.head()


class HeadConformance:
    """Who may write, and where the log ends."""

    async def test_a_new_log_is_empty(self, stores: Stores) -> None:
        """Nobody has led, nothing was written."""
        head = await stores.one.head()
        assert (head.cell, head.epoch, head.position, head.hlc_bound_ms) == ("us-east", 0, 0, 0)
        assert (head.beat, head.vector_clock) == (0, {})
        assert await stores.one.events(from_position=1, limit=10) == []

    async def test_a_claim_raises_the_epoch(self, stores: Stores) -> None:
        """Each by one, and the head that it returns is the head that others see."""
        assert [(await stores.one.claim()).epoch, (await stores.other.claim()).epoch] == [1, 2]
        head = await stores.one.claim(expected_epoch=2)
        assert head == await stores.other.head()
        assert head.epoch == 3

    async def test_a_claim_of_another_epoch_is_fenced(self, stores: Stores) -> None:
        """Compare-and-set: of two that saw the same epoch only one leads, and the epoch stays."""
        seen = await stores.one.claim()
        await stores.other.claim(expected_epoch=seen.epoch)
        with pytest.raises(Fenced):
            await stores.one.claim(expected_epoch=seen.epoch)
        assert (await stores.one.head()).epoch == seen.epoch + 1

    async def test_a_batch_moves_the_head(self, stores: Stores) -> None:
        """Position, bound, beat, and the vector clock of the last event."""
        first = event_row(1, vector_clock='{"eu-west":7,"us-east":1}')
        claimed = await stores.one.claim()
        await stores.one.append(batch_on(claimed, first, event_row(2, vector_clock='{"eu-west":9,"us-east":2}')))
        head = await stores.other.head()
        assert (head.epoch, head.position, head.hlc_bound_ms) == (claimed.epoch, 2, NOW_MS + 1_000)
        assert head.beat == claimed.beat + 1
        assert head.vector_clock == {"eu-west": 9, "us-east": 2}

    async def test_an_empty_batch_is_a_beat(self, stores: Stores) -> None:
        """The beat rises, the position stays, and the clock's bound never goes back."""
        head = await append_all(stores.one, event_row(1))
        await stores.one.append(batch_on(head, hlc_bound_ms=5))
        beaten = await stores.one.head()
        assert (beaten.position, beaten.beat, beaten.hlc_bound_ms) == (1, head.beat + 1, head.hlc_bound_ms)

    async def test_the_last_batch_says_that_nobody_leads(self, stores: Stores) -> None:
        """A beat of 0, from which the next claim rises again."""
        claimed = await stores.one.claim()
        await stores.one.append(batch_on(claimed, hlc_bound_ms=NOW_MS + 1_000))
        await stores.one.append(batch_on(claimed, stepping_down=True, hlc_bound_ms=NOW_MS))
        # Its promise reaches no further than the stamps that it gave out.
        assert (await stores.one.head()).hlc_bound_ms == NOW_MS
        assert (await stores.other.head()).beat == 0
        assert (await stores.other.claim()).beat > 0

    async def test_a_deposed_writer_writes_nothing(self, stores: Stores) -> None:
        """Its epoch is over; not even its projections or outcomes get in."""
        old = await stores.one.claim()
        new = await stores.other.claim()
        outcome, projection = outcome_row(), projection_row(account())
        for batch in (batch_on(old), batch_on(old, event_row(1), outcomes=[outcome], projections=[projection])):
            with pytest.raises(Fenced):
                await stores.one.append(batch)
        assert await stores.other.head() == new
        assert not await stores.one.outcomes([outcome.command_id])
        assert await stores.one.load([Ref(Kind.ACCOUNT, projection.aggregate_id)]) == {}

    @pytest.mark.parametrize("before", [0, 2])
    async def test_positions_have_no_gap(self, stores: Stores, before: int) -> None:
        """A batch that goes on from elsewhere than the end of the log is fenced."""
        head = await append_all(stores.one, event_row(1))
        with pytest.raises(Fenced):
            await stores.one.append(batch_on(head, event_row(before + 1), position_before=before))
        await stores.one.append(batch_on(head, event_row(2)))
        assert (await stores.one.head()).position == 2


class EventConformance:
    """What was written comes back the very same."""

    async def test_events_come_back_as_they_were(self, stores: Stores) -> None:
        """Every column, with the JSON in canonical form: the stored hash is right for what is read."""
        notice = PartyNotified(auction="cells/us-east/auctions/x", notice=NASTY, status="SENT")
        rows = [
            event_row(1),
            event_row(2, notice, causation_id=uuid4(), user_id=uuid4(), vector_clock='{"eu-west":3,"us-east":2}'),
            event_row(3, metadata=codec.canonical({"v": 1, "principal": f"user/{NASTY}"}), hlc_logical=65_535),
        ]
        await append_all(stores.one, *rows)
        stored = await stores.other.events(from_position=1, limit=10)
        assert stored == rows
        assert [codec.leaf_hash(row) for row in stored] == [row.leaf_hash for row in rows]

    async def test_events_are_read_from_a_position(self, stores: Stores) -> None:
        """At most as many as asked for, in the order of the log."""
        await append_all(stores.one, *(event_row(position) for position in range(1, 8)))
        for first, limit, positions in ((0, 3, [1, 2, 3]), (5, 10, [5, 6, 7]), (8, 10, []), (2, 1, [2])):
            rows = await stores.one.events(from_position=first, limit=limit)
            assert [row.position for row in rows] == positions

    async def test_events_are_filtered(self, stores: Stores) -> None:
        """By each field, and by several at once, also from a position on."""
        stream, flow, user = uuid4(), uuid4(), uuid4()
        notice = PartyNotified(auction="a", notice="n", status="SENT")
        await append_all(
            stores.one,
            event_row(1, aggregate_id=stream),
            event_row(2, correlation_id=flow, user_id=user),
            event_row(3, notice, aggregate_id=stream, stream_version=2, correlation_id=flow),
            event_row(4, notice, user_id=user),
            event_row(5, aggregate_id=stream, stream_version=3, correlation_id=flow, user_id=user),
        )
        cases: list[tuple[EventFilter, list[int]]] = [
            (EventFilter(event_types=("PARTY_NOTIFIED",)), [3, 4]),
            (EventFilter(event_types=("PARTY_NOTIFIED", "DEPOSITED")), [1, 2, 3, 4, 5]),
            (EventFilter(event_types=("BID_PLACED",)), []),
            (EventFilter(aggregate_id=stream), [1, 3, 5]),
            (EventFilter(correlation_id=flow), [2, 3, 5]),
            (EventFilter(user_id=user), [2, 4, 5]),
            (EventFilter(aggregate_id=stream, correlation_id=flow), [3, 5]),
            (EventFilter(correlation_id=flow, user_id=user, event_types=("DEPOSITED",)), [2, 5]),
            (EventFilter(aggregate_id=stream, correlation_id=flow, user_id=user), [5]),
            (EventFilter(aggregate_id=uuid4()), []),
        ]
        for wanted, positions in cases:
            for first in (1, 3):
                rows = await stores.one.events(from_position=first, limit=10, event_filter=wanted)
                assert [row.position for row in rows] == [each for each in positions if each >= first], wanted
            rows = await stores.one.events(from_position=2, until_position=4, limit=10, event_filter=wanted)
            assert [row.position for row in rows] == [each for each in positions if 2 <= each <= 4], wanted


class StateConformance:
    """Projections, barriers, references and outcomes."""

    async def test_states_are_loaded_by_kind(self, stores: Stores) -> None:
        """Each with its version, several kinds at once; what does not exist is left out."""
        rows = [
            projection_row(account(hold=5), version=3),
            projection_row(asset(), version=4),
            projection_row(auction(escrow=7), version=5),
            projection_row(saga(), version=6),
        ]
        await append_all(stores.one, projections=rows)
        refs = [Ref(row.kind, row.aggregate_id) for row in rows]
        loaded = await stores.other.load([*refs, *(Ref(kind, uuid4()) for kind in Kind)])
        assert loaded == {
            ref: (codec.decode_state(row.kind, row.state), row.stream_version)
            for ref, row in zip(refs, rows, strict=True)
        }
        assert await stores.one.load([]) == {}

    async def test_an_id_is_of_its_kind(self, stores: Stores) -> None:
        """The id of an account finds no asset."""
        row = projection_row(account())
        await append_all(stores.one, projections=[row])
        assert await stores.one.load([Ref(Kind.ASSET, row.aggregate_id)]) == {}

    async def test_a_state_is_replaced(self, stores: Stores) -> None:
        """The row of an aggregate is the last one written."""
        user_id = uuid4()
        for version, available in ((1, 10), (2, 20)):
            await append_all(stores.one, projections=[projection_row(account(available=available), user_id, version)])
        ref = Ref(Kind.ACCOUNT, user_id)
        assert await stores.one.load([ref]) == {ref: (account(available=20), 2)}

    async def test_the_barrier_is_put_together(self, stores: Stores) -> None:
        """From the marks of a leg's action and compensation, whichever there are."""
        acted, tombstoned, undone = uuid4(), uuid4(), uuid4()
        events = [uuid4() for _ in range(4)]
        legs = [
            LegRow(acted, "action", "APPLIED", events[0], 1),
            LegRow(tombstoned, "compensation", "TOMBSTONED", events[1], 1),
            LegRow(undone, "action", "APPLIED", events[2], 1),
            LegRow(undone, "compensation", "UNDONE", events[3], 1),
        ]
        await append_all(stores.one, legs=legs)
        loaded = await stores.other.load([Ref(Kind.LEG, each) for each in (acted, tombstoned, undone, uuid4())])
        assert {ref.id: entry.state for ref, entry in loaded.items()} == {
            acted: LegBarrier(action=LegMark(LegResult.APPLIED, events[0])),
            tombstoned: LegBarrier(compensation=LegMark(LegResult.TOMBSTONED, events[1])),
            undone: LegBarrier(
                action=LegMark(LegResult.APPLIED, events[2]), compensation=LegMark(LegResult.UNDONE, events[3])
            ),
        }

    async def test_a_used_reference_is_found(self, stores: Stores) -> None:
        """With the position at which it was used."""
        ref = reference_ref("deposit", NASTY)
        await append_all(stores.one, references=[ReferenceRow(ref.id, "deposit", NASTY, 12)])
        loaded = await stores.one.load([ref, reference_ref("withdrawal", NASTY)])
        assert loaded == {ref: (UsedReference(position=12), 0)}

    async def test_states_are_listed(self, stores: Stores) -> None:
        """By id, page by page, of the states asked for or of any."""
        states = [AuctionState.ACTIVE, AuctionState.SETTLED, AuctionState.UNSOLD, AuctionState.ACTIVE] * 3
        rows = sorted(projection_row(auction(state=state)) for state in states)
        await append_all(stores.one, projections=rows)
        for wanted in ([], ["ACTIVE"], ["SETTLED", "UNSOLD"], ["CANCELLED"], ["ACTIVE", "ACTIVE"]):
            expected = [row.aggregate_id for row in rows if not wanted or status_of(row) in wanted]
            assert await pages(stores.one, Kind.AUCTION, wanted) == expected

    async def test_sagas_are_listed(self, stores: Stores) -> None:
        """With their states and versions."""
        running, ended = projection_row(saga(), version=4), projection_row(saga(SagaState.COMPLETED))
        await append_all(stores.one, projections=[running, ended])
        listed = await stores.one.list_states(Kind.SAGA, states=["RUNNING", "COMMITTED"], after=None, limit=9)
        assert [(each, entry.stream_version) for each, entry in listed] == [(running.aggregate_id, 4)]
        assert codec.encode_state(listed[0][1].state) == running.state
        assert len(await stores.one.list_states(Kind.SAGA, states=[], after=None, limit=9)) == 2

    async def test_timers_are_what_falls_due(self, stores: Stores) -> None:
        """Active auctions and holds that expire; nothing else."""
        active, ended = auction(end_time_ms=50), auction(state=AuctionState.SETTLED)
        expiring, lasting = account(hold=5, expire_time_ms=70), account(hold=5)
        rows = [projection_row(state) for state in (active, ended, expiring, lasting, account())]
        await append_all(stores.one, projections=rows)
        assert sorted(await stores.one.timers()) == [
            Timer(50, Kind.AUCTION, rows[0].aggregate_id, None),
            Timer(70, Kind.ACCOUNT, rows[2].aggregate_id, next(iter(expiring.holds))),
        ]


TWIN = uuid4()
Parts = dict[str, list[Any]]
# What cannot be stored: the SQLSTATE, what was stored before, and what is then bad.
POISON: list[tuple[str, Parts, Parts]] = [
    ("23505", {"events": [event_row(1, event_id=TWIN)]}, {"events": [event_row(2, event_id=TWIN)]}),
    ("23505", {"events": [event_row(1, aggregate_id=TWIN)]}, {"events": [event_row(2, aggregate_id=TWIN)]}),
    ("23505", {}, {"events": [event_row(1, aggregate_id=TWIN), event_row(2, aggregate_id=TWIN)]}),
    *(
        ("23505", {part: [row]}, {part: [row]})
        for part, row in {
            "legs": LegRow(TWIN, "action", "APPLIED", TWIN, 1),
            "references": ReferenceRow(TWIN, "deposit", "r", 1),
            "outcomes": outcome_row(),
        }.items()
    ),
    ("23514", {}, {"account_entries": [entry_row(1, after=-1)]}),
    ("23514", {}, {"projections": [projection_row(account(available=-1))]}),
    ("23514", {}, {"projections": [projection_row(account(hold=-1))]}),
    ("23514", {}, {"projections": [projection_row(auction(escrow=-1))]}),
    ("22000", {}, {"account_entries": [entry_row(1, change=2**63)]}),
    ("22000", {}, {"references": [ReferenceRow(TWIN, "deposit", "\ud800", 1)]}),
    ("22021", {}, {"references": [ReferenceRow(TWIN, "deposit", "a\x00b", 1)]}),
    ("22P05", {}, {"events": [event_row(1, payload='{"x":"\\u0000"}')]}),
    ("22P05", {}, {"outcomes": [outcome_row(outcome='{"x":"\\\\\\u0000"}')]}),
]


class PoisonConformance:
    """What cannot be stored is told apart from a database that cannot store just now."""

    @pytest.mark.parametrize(("sqlstate", "before", "bad"), POISON)
    async def test_what_cannot_be_stored_poisons_its_batch(
        self, stores: Stores, sqlstate: str, before: Parts, bad: Parts
    ) -> None:
        """By its SQLSTATE; nothing of the batch is written, and the store goes on."""
        head = await append_all(stores.one, **before)
        neighbour = projection_row(asset())
        projections = [neighbour, *bad.get("projections", [])]
        with pytest.raises(Poisoned) as poisoned:
            await stores.one.append(batch_on(head, **{**bad, "projections": projections}))
        assert poisoned.value.sqlstate == sqlstate
        assert await stores.other.head() == head
        assert await stores.one.load([Ref(neighbour.kind, neighbour.aggregate_id)]) == {}
        await stores.one.append(batch_on(head, event_row(head.position + 1)))

    async def test_a_sum_past_64_bits_poisons(self, stores: Stores) -> None:
        """The house's balance has a bound too, and stays what it was."""
        key = ("fees", "USD")
        head = await append_all(stores.one, house_changes={key: 2**63 - 1})
        with pytest.raises(Poisoned) as poisoned:
            await stores.one.append(batch_on(head, house_changes={key: 1}))
        assert poisoned.value.sqlstate == "22003"
        await stores.one.append(batch_on(head, house_changes={key: 1 - 2**63}))

    async def test_text_that_only_looks_bad_is_stored(self, stores: Stores) -> None:
        """A backslash and the letters u0000 are no NUL."""
        looks = PartyNotified(auction="\\u0000", notice="\\\\u0000", status="SENT")
        row = event_row(1, looks)
        await append_all(stores.one, row, outcomes=[outcome_row(outcome='{"x":"\\\\u0000"}')])
        assert await stores.one.events(from_position=1, limit=1) == [row]


class StoreConformance(HeadConformance, EventConformance, StateConformance, PoisonConformance):
    """All of it, and that every part of a batch has its place."""

    async def test_a_batch_may_hold_everything(self, stores: Stores) -> None:
        """All parts at once, in one transaction."""
        user_id, transfer = uuid4(), uuid4()
        head = await append_all(
            stores.one,
            event_row(1, aggregate_id=user_id),
            account_entries=[AccountEntryRow(user_id, "USD", 1, 2**63 - 1, 0, 0, 2**63 - 1, 0, 0)],
            clearing_entries=[ClearingEntryRow(transfer, 1, "eu-west", "USD", -5)],
            legs=[LegRow(uuid4(), "action", "APPLIED", uuid4(), 1)],
            references=[ReferenceRow(uuid4(), "deposit", "r", 1)],
            outcomes=[outcome_row()],
            projections=[projection_row(state) for state in (account(), asset(), auction(), saga())],
            house_changes={("external", "USD"): -5, ("clearing/eu-west", "USD"): 5},
        )
        assert head.position == 1


def same_json(row: Any) -> tuple[object, ...]:  # noqa: ANN401 - an OutcomeRow
    return tuple(row._replace(outcome=codec.recanonical(row.outcome)))


def status_of(row: Any) -> str:  # noqa: ANN401 - a ProjectionRow
    state = codec.decode_state(row.kind, row.state)
    return str(state.state)  # type: ignore[union-attr]


async def pages(store: Store, kind: Kind, states: Sequence[str]) -> list[UUID]:
    """The ids of a whole list, two at a time."""
    found: list[UUID] = []
    while True:
        page = await store.list_states(kind, states=states, after=found[-1] if found else None, limit=2)
        found += [each for each, _ in page]
        if len(page) < 2:
            return found
