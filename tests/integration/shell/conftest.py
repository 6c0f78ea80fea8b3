"""The host that most of these tests call."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.shell.shell_host import Shell, running


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running(tmp_path) as started:
        yield started
