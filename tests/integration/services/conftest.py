"""Fixtures of the tests of RPCs."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.services_rig import Rig, serving


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with serving() as rig:
        yield rig
