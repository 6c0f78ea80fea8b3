"""A real Temporal server for tests: the development server, where there is one."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("temporalio", reason="needs the extra cellbook[temporal]")

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

BESIDE_PYTHON = str(Path(sys.executable).parent)


@asynccontextmanager
async def temporal_server() -> AsyncIterator[Client]:
    """Skips the test where there is no development server."""
    binary = shutil.which("temporal", path=BESIDE_PYTHON) or shutil.which("temporal")
    if binary is None:
        pytest.skip("no Temporal development server: `temporal` is neither in the environment nor on PATH")
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=binary) as server:
        yield server.client


def address_of(client: Client) -> str:
    return client.service_client.config.target_host
