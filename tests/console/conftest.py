"""One cluster and one browser for all tests of the console in a process."""

from collections.abc import Iterator

import pytest

from tests.console.rig import Rig, running


@pytest.fixture(scope="package")
def rig() -> Iterator[Rig]:
    with running() as rig:
        yield rig
