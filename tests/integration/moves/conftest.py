"""Fixtures of the tests of moves."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.moves.moves_rig import check_pairs
from tests.saga_world import World, world


@pytest.fixture(autouse=True)
def _soon(quick_probes: None) -> None:
    """In all of them."""


@pytest.fixture
async def town() -> AsyncIterator[World]:
    """At the end nothing is under way, and the books of every pair of cells are right."""
    async with world() as here:
        yield here
        here.cable.cut.clear()
        await here.settled()
        here.books.check_conserved()
        check_pairs(here)
