"""The store on PostgreSQL does what every store must."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.database import opened
from tests.integration.moves.history_copy_conformance import HistoryCopyConformance
from tests.integration.outcomes_conformance import OutcomesConformance
from tests.integration.saga_list_conformance import SagaListConformance
from tests.integration.store_conformance import StoreConformance, Stores


@pytest.fixture
async def stores(cell_dsn: str) -> AsyncIterator[Stores]:
    async with opened(cell_dsn) as one, opened(cell_dsn) as other:
        yield Stores(one, other)


class TestPostgresStore(StoreConformance, SagaListConformance, HistoryCopyConformance, OutcomesConformance):
    """The conformance suite on a real server."""
