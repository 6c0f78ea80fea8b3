"""The store in memory does what every store must, and fails the way a test tells it to."""

import pytest

from cells.store.ports import CommitUnknown, StoreUnavailable
from tests.doubles.store import Fault, MemoryStore
from tests.integration.moves.history_copy_conformance import HistoryCopyConformance
from tests.integration.outcomes_conformance import OutcomesConformance
from tests.integration.rows import batch_on, event_row
from tests.integration.saga_list_conformance import SagaListConformance
from tests.integration.store_conformance import StoreConformance, Stores


@pytest.fixture
def stores() -> Stores:
    store = MemoryStore("us-east")
    return Stores(store, store)


class TestMemoryStore(StoreConformance, SagaListConformance, HistoryCopyConformance, OutcomesConformance):
    """The conformance suite in memory."""


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
