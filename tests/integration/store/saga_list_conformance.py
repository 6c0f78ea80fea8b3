"""What every store must do with lists of sagas, a part of the conformance suite."""

from uuid import UUID

from cells.domain.record import replace
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import ReleaseFacts
from cells.store.ports import SagaFilter, SagaPlace, Store
from tests.doubles.saga_filter import lets
from tests.integration.rows import NOW_MS, projection_row, saga
from tests.integration.store.store_conformance import Stores, append_all

# How many of the twenty below each filter lets.
FILTERS = (
    (SagaFilter(), 20),
    (SagaFilter(states=(SagaState.RUNNING, SagaState.COMPLETED)), 8),
    (SagaFilter(kind=SagaKind.RELEASE), 20),
    (SagaFilter(kind=SagaKind.SETTLEMENT), 0),
    (SagaFilter(cell="ap-tokyo"), 1),
    (SagaFilter(cell="us-east"), 20),
    (SagaFilter(cell="us_east"), 0),
    (SagaFilter(started_from_ms=NOW_MS + 5), 10),
    (SagaFilter(started_from_ms=NOW_MS + 3, started_before_ms=NOW_MS + 5), 10),
    (SagaFilter(paused=True), 1),
    (SagaFilter(ids=frozenset()), 0),
)


class SagaListConformance:
    async def test_sagas_are_listed_oldest_first(self, stores: Stores) -> None:
        """Page by page, those that began together by id; every filter fills its pages."""
        sagas = [replace(saga(state), started_ms=NOW_MS + age) for state in SagaState for age in (5, 3, 3, 9)]
        sagas[1] = replace(sagas[1], paused=True)
        facts = sagas[2].facts
        assert isinstance(facts, ReleaseFacts)
        sagas[2] = replace(sagas[2], facts=replace(facts, bidder_cell="ap-tokyo"))
        rows = [projection_row(each) for each in sagas]
        await append_all(stores.one, projections=rows)
        by_id = {row.aggregate_id: each for row, each in zip(rows, sagas, strict=True)}
        for wanted, count in (*FILTERS, (SagaFilter(ids=frozenset([*by_id][3:9])), 6)):
            listed = sorted(
                (each.started_ms, saga_id) for saga_id, each in by_id.items() if lets(wanted, saga_id, each)
            )
            assert len(listed) == count
            assert await pages(stores.one, wanted) == [saga_id for _, saga_id in listed]


async def pages(store: Store, wanted: SagaFilter) -> list[UUID]:
    """The ids of a whole list, three at a time."""
    found: list[UUID] = []
    after = None
    while True:
        page = await store.list_sagas(wanted, after=after, limit=3)
        found += [each for each, _ in page]
        if len(page) < 3:
            return found
        state = page[-1][1].state
        assert isinstance(state, Saga)
        after = SagaPlace(state.started_ms, page[-1][0])
