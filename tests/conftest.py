"""What makes a run short: the order of the tests where several processes run them, files in memory, little garbage."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

from lab.member import Member
from tests import copies

# With the locals of each frame, as is structlog's default, one logged error takes seconds.
_PLAIN = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

IN_MEMORY = Path("/dev/shm")
# The databases of three workers take up to 6 GB, those of a cluster 1 GB.
ROOM_BYTES = 10 * 2**30
# As in a cell's process (server/__main__.py): collecting as often as by default takes a twelfth of a simulation.
GARBAGE_THRESHOLD = 50_000

# Their modules take minutes, the others seconds.
LONG = {"bench", "console", "e2e", "faults", "fuzz", "simulation"}
# These wait more than they compute: for deadlines, cut cables, the next leader, a browser.
WAITING = {
    "tests/console/test_auditor.py",
    "tests/console/test_auditor_proofs.py",
    "tests/console/test_signing_in.py",
    "tests/console/test_support.py",
    "tests/e2e/test_cable_cut.py",
    "tests/e2e/test_temporal.py",
    "tests/faults/test_matrix.py",
    "tests/faults/test_standby.py",
    "tests/integration/sagas/test_engine_temporal.py",
    "tests/integration/shell/test_half_open.py",
    "tests/integration/store/test_dropped_packets.py",
    "tests/integration/store/test_forgotten_connections.py",
}
# The third process; the first two compute.
WAITER = "gw2"


@pytest.fixture(autouse=True, scope="module")
def copied_members(request: pytest.FixtureRequest) -> Iterator[None]:
    """The processes of clusters that tests start themselves."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in LONG:
            patch.setattr(Member, "launch", staticmethod(copies.start))
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Temporary files are in memory if there is room, in a folder of this run's own, which goes at its end.

    There a PostgreSQL takes a third less CPU time, and no test cuts the power. TMPDIR chooses another place, where the
    files of failed tests are kept.
    """
    in_worker = hasattr(config, "workerinput")
    if not in_worker and "TMPDIR" not in os.environ and has_room():
        folder = os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(prefix="cellbook-tests-", dir=IN_MEMORY)
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


def has_room() -> bool:
    """Also for programs: the examples are built and run there."""
    found = os.statvfs(IN_MEMORY) if IN_MEMORY.is_dir() else None
    return found is not None and found.f_bavail * found.f_frsize > ROOM_BYTES and not found.f_flag & os.ST_NOEXEC


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])


def pytest_runtest_setup() -> None:
    """Each time, as commands that tests run in this process reset it."""
    signal.signal(signal.SIGINT, interrupt)


def interrupt(*_: object) -> NoReturn:
    """Does as Python does by default; but asyncio replaces the default, for each fixture and each test.

    Doing so it prints the result of the fixture for an error that nobody sees: a quarter of the time of some tests.
    """
    raise KeyboardInterrupt


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long modules are spread over the first half, the simulations first.

    Side by side they would compete for the processors; a last one would leave the other processes without work.
    """
    if not hasattr(config, "workerinput"):
        return
    modules = list(dict.fromkeys(item.path for item in items))
    long = sorted((path for path in modules if path.parent.name in LONG), reverse=True)
    short = [path for path in modules if path.parent.name not in LONG]
    step = len(short) / 2 / max(len(long), 1)
    place = {path: (index * step, 0) for index, path in enumerate(long)}
    place |= {path: (index, 1) for index, path in enumerate(short)}
    items.sort(key=lambda item: place[item.path])


class Mixed(LoadScopeScheduling):
    """Whole modules and classes, in the order of the tests; one process takes first what waits, the others last."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        waits = node.gateway.id == WAITER
        fitting = (scope for scope in self.workqueue if waits == (scope.partition("::")[0] in WAITING))
        self.workqueue.move_to_end(next(fitting, next(iter(self.workqueue))), last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Mixed:
    config.option.loadscopereorder = False
    return Mixed(config, log)
