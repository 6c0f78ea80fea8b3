"""Fixtures of the tests of faults."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.cluster import AUCTION_CELL
from tests.faults.matrix import Matrix, matrix


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    async with matrix(tmp_path_factory.mktemp("matrix")) as warm:
        yield warm


@pytest_asyncio.fixture(loop_scope="module")
async def here(cluster: Matrix) -> AsyncIterator[Matrix]:
    """The warm cluster, with nothing wrong in it, before and after."""
    yield cluster
    cluster.set(AUCTION_CELL)
    cluster.calm()
