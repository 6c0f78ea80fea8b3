"""Background work continues after any error, and reports the error."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from cells import background
from cells.audit.checks.log_watch import LogWatch
from cells.audit.history.snapshotter import LiveSnapshots, Snapshotter
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.reconcile.service import ReconciliationService
from cells.audit.witness.cosigning import Cosigning
from cells.background import BackgroundTask
from cells.domain.values import Kind
from cells.log.subscriptions import Subscriptions
from cells.sagas.alarm import StuckAlarm
from cells.store.ports import StoreUnavailable, Timer
from cells.time.clocks import SystemClock
from cells.writer.timers import Timers
from router.client import Client
from router.directory.follower import Follower
from router.directory.probes import Probes
from router.directory.snapshot import Copier
from server.mail.sender import MailSender
from server.shell.calls.streams import OpenStreams
from server.shell.channels.location_cache import LocationCache
from server.shell.identity import keyset
from server.shell.identity.keyset import KeySet
from server.shell.observability.metrics import BackgroundFailures
from tests.local_cells import until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(background, "PAUSE_FIRST_S", 0.001)
    before = background.failures.copy()
    # The default renderer would write out all local variables of each traceback, for seconds.
    with capture_logs():
        yield
    background.failures.clear()
    background.failures.update(before)


class Broken:
    """Every call of it raises an unforeseen error."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"injected at {name}")

    def __bool__(self) -> bool:
        return True


BROKEN: Any = Broken()


def _timers() -> BackgroundTask:
    timers = Timers(cell="eu-west", store=BROKEN, clock=BROKEN, ids=BROKEN, execute=BROKEN)
    timers._add(Timer(0, Kind.AUCTION, uuid4(), None))
    return timers.background


def _live_snapshots() -> BackgroundTask:
    live = LiveSnapshots(history=BROKEN)
    live._waiting.append(BROKEN)
    return live.background


def _directory() -> BackgroundTask:
    follower = Follower(database=BROKEN, cells=BROKEN, topology=BROKEN, settings_cells=())
    follower.background.every_s = 0.001
    return follower.background


def _topology() -> BackgroundTask:
    client = Client.__new__(Client)
    locations = LocationCache(routers=("127.0.0.1:1",), caller=BROKEN, channels=BROKEN)
    client._watching = BackgroundTask(name="topology", work=locations.watch)
    return client._watching


def _streams() -> BackgroundTask:
    streams = OpenStreams()
    streams._open = BROKEN
    return streams.background


LOOPS: dict[str, Callable[[], BackgroundTask]] = {
    "timers": _timers,
    "stuck_alarm": lambda: StuckAlarm(engine=BROKEN, clock=BROKEN).background,
    "snapshots": lambda: Snapshotter(history=BROKEN, store=BROKEN, trial=BROKEN, live=BROKEN).background,
    "live_snapshots": _live_snapshots,
    "checkpoints": lambda: (
        CheckpointSigner(
            store=BROKEN, time=BROKEN, key=None, checkpoint_file=None, events_max=1, pause_max_s=1.0
        ).background
    ),
    "cosigning": lambda: Cosigning(checkpoint_signer=BROKEN, proofs=BROKEN, witnesses=BROKEN).background,
    "log_watch": lambda: LogWatch(checkpoint_signer=BROKEN, proofs=BROKEN, events_per_s=1).background,
    "reconciliation": lambda: (
        ReconciliationService(cell=BROKEN, passes=BROKEN, clearing=BROKEN, states=BROKEN, reload=BROKEN).background
    ),
    "mail": lambda: MailSender(outbox=BROKEN, vault=BROKEN, server=BROKEN, sender="", clock=BROKEN).background,
    "token_keys": lambda: (
        KeySet(source="/nowhere", refresh_s=0.001, changed=BROKEN, monotonic_s=SystemClock().monotonic_s).background
    ),
    "directory": _directory,
    "snapshot": lambda: Copier(directory=BROKEN, cells=BROKEN, snapshot=BROKEN).background,
    "probes": lambda: Probes(BROKEN, BROKEN).background,
    "topology": _topology,
    "streams": _streams,
    "subscriptions": lambda: Subscriptions(store=BROKEN, time=BROKEN).background,
}


@pytest.mark.parametrize("name", LOOPS)
async def test_every_loop_goes_on_after_an_error_that_nobody_foresaw(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failed round is counted and logged with its traceback, and the task keeps working."""
    monkeypatch.setattr(keyset, "_read_from", lambda _: BROKEN.text)
    monkeypatch.setattr("cells.log.subscriptions.POLL_S", 0.001)
    monkeypatch.setattr("server.shell.calls.streams.PROOF_CHECK_S", 0.001)
    task, before = LOOPS[name](), background.failures[name]
    assert task.name == name
    with capture_logs() as logs:
        task.start()
        try:
            await until(lambda: background.failures[name] >= before + 3)
            was_at_work = task.running
        finally:
            await task.stop()
    assert was_at_work
    assert not task.running
    failed = [line for line in logs if line["event"] == "background_task_failed"]
    assert len(failed) >= 3
    assert {(line["task"], line["log_level"], line["exc_info"]) for line in failed} == {(name, "error", True)}


async def test_failures_are_in_the_metrics() -> None:
    """They start at zero, so that the first failure shows as an increase."""

    async def work() -> None:
        _ = BROKEN.nothing

    registry = CollectorRegistry()
    registry.register(BackgroundFailures())
    task = BackgroundTask(name="tried", work=work)
    assert 'cellbook_background_failures_total{task="tried"} 0.0' in generate_latest(registry).decode()
    task.start()
    await until(lambda: background.failures["tried"] > 1)
    await task.stop()
    assert 'cellbook_background_failures_total{task="tried"} 0.0' not in generate_latest(registry).decode()


async def test_pauses_grow_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated failures lead to longer pauses, up to a limit."""
    monkeypatch.setattr(background, "PAUSE_FIRST_S", 1.0)
    backoff = background.Backoff()
    assert [backoff.next_s() for _ in range(3)] == [1.0, 2.0, 2.0]
    backoff.reset()
    assert backoff.next_s() == 1.0


@asynccontextmanager
async def at_work(work: Callable[[], Awaitable[None]], *outages: type[Exception]) -> AsyncIterator[list[int]]:
    """A task with that work, and its rounds so far."""
    rounds: list[int] = []

    async def counted() -> None:
        rounds.append(len(rounds))
        await work()

    task = BackgroundTask(name="tried", work=counted, outages=outages)
    task.start()
    yield rounds
    await task.stop()


async def test_an_outage_is_said_and_not_counted() -> None:
    """An unreachable database is not a bug: only its message is logged."""

    async def work() -> None:
        raise StoreUnavailable("the database is away")

    with capture_logs() as logs:
        async with at_work(work, StoreUnavailable) as rounds:
            await until(lambda: len(rounds) >= 3)
    assert background.failures["tried"] == 0
    assert {(line["event"], line["problem"]) for line in logs} == {("background_task_waits", "the database is away")}


async def test_a_cancellation_of_something_else_does_not_end_it() -> None:
    """A future cancelled elsewhere raises CancelledError where it is awaited: a bare task would end silently."""

    async def work() -> None:
        others: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        others.cancel()
        await others

    async with at_work(work) as rounds:
        await until(lambda: len(rounds) >= 3)
    assert background.failures["tried"] >= 2


async def test_a_swallowed_cancellation_begins_no_other_round() -> None:
    """Some libraries swallow cancellations: a stopped task ends all the same."""

    async def work() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async with at_work(work) as rounds:
        await until(lambda: rounds)
    assert len(rounds) == 1
