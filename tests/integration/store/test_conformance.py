"""Both stores do what every store must; the one in memory also fails as a test tells it to."""

from collections.abc import AsyncIterator

import pytest

from cells.store.ports import CommitUnknown, StoreUnavailable
from tests.doubles.store import Fault, MemoryStore
from tests.integration.database import opened
from tests.integration.moves.history_copy_conformance import HistoryCopyConformance
from tests.integration.rows import batch_on, event_row
from tests.integration.store.outcomes_conformance import OutcomesConformance
from tests.integration.store.saga_list_conformance import SagaListConformance
from tests.integration.store.store_conformance import StoreConformance, Stores


class Conformance(StoreConformance, SagaListConformance, HistoryCopyConformance, OutcomesConformance):
    """What every store must do."""


class TestMemoryStore(Conformance):
    """In memory."""

    @pytest.fixture
    def stores(self) -> Stores:
        store = MemoryStore("us-east")
        return Stores(store, store)


class TestPostgresStore(Conformance):
    """On a real server."""

    @pytest.fixture
    async def stores(self, cell_dsn: str) -> AsyncIterator[Stores]:
        async with opened(cell_dsn) as one, opened(cell_dsn) as other:
            yield Stores(one, other)


@pytest.mark.parametrize(
    ("fault", "error", "written"),
    [
        (Fault.UNAVAILABLE, StoreUnavailable, False),
        (Fault.COMMITTED, CommitUnknown, True),
        (Fault.NOT_COMMITTED, CommitUnknown, False),
    ],
)
async def test_a_fault_fails_one_append(fault: Fault, error: type[Exception], *, written: bool) -> None:
    """As a database would: nothing written, or nobody knows. A beat passes, and so does what comes after."""
    store = MemoryStore("us-east")
    head = await store.claim()
    store.fail_next(fault)
    await store.append(batch_on(head))
    with pytest.raises(error):
        await store.append(batch_on(head, event_row(1)))
    head = await store.claim()
    assert head.position == written
    await store.append(batch_on(head, event_row(head.position + 1)))
    assert len(store.log) == written + 1
