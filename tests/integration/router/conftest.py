"""A router's database, its fake cells and a client. A module names other cells in CELLS, by name and region."""

from collections.abc import AsyncIterator

import pytest

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import another, migrated
from tests.integration.router.rig import Client, FakeCell, cells, router


@pytest.fixture(scope="session")
def router_template(cluster: EmbeddedPostgres) -> str:
    """The name of a database that has every migration of a router and no rows."""
    return migrated(cluster, "router_template", "router.sql")


@pytest.fixture
async def dsn(cluster: EmbeddedPostgres, router_template: str) -> AsyncIterator[str]:
    async with another(cluster, router_template) as made:
        yield made


@pytest.fixture
async def fakes(request: pytest.FixtureRequest) -> AsyncIterator[list[FakeCell]]:
    async with cells(*getattr(request.module, "CELLS", ("eu-west=eu", "us-east=us"))) as running:
        yield running


@pytest.fixture
async def client(dsn: str, fakes: list[FakeCell]) -> AsyncIterator[Client]:
    async with router(dsn, fakes) as running:
        yield running
