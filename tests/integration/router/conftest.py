"""A router's database, its fake cells and a client. A module names other cells in CELLS, by name and region."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.router.rig import Client, FakeCell, cells, router


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> str:
    """A test before may have stopped the server."""
    await postgres.start()
    name = f"router_{uuid4().hex}"
    await postgres.ensure_database(name)
    return postgres.dsn(name)


@pytest.fixture
async def fakes(request: pytest.FixtureRequest) -> AsyncIterator[list[FakeCell]]:
    async with cells(*getattr(request.module, "CELLS", ("eu-west=eu", "us-east=us"))) as running:
        yield running


@pytest.fixture
async def client(dsn: str, fakes: list[FakeCell]) -> AsyncIterator[Client]:
    async with router(dsn, fakes) as running:
        yield running
