"""One cluster and one browser for all tests of the console in a process."""

from collections.abc import Iterator

import pytest

from tests.console.auditor_rig import Books, play
from tests.console.rig import Rig, running


@pytest.fixture(scope="package")
def rig() -> Iterator[Rig]:
    with running() as rig:
        yield rig


@pytest.fixture(scope="package")
def books(rig: Rig) -> Books:
    """What the auditor's pages show."""
    return rig.played(play)
