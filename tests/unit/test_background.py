"""What a process does unasked goes on, whatever it stumbles over, and says that it stumbled."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from cells import background
from cells.audit.cosigning import Cosigning
from cells.audit.desk import AuditDesk
from cells.audit.log_watch import LogWatch
from cells.audit.memory import MemoryProofs
from cells.audit.notary import Notary
from cells.audit.snapshotter import Snapshotter
from cells.audit.witness import Asked
from cells.background import BackgroundTask
from cells.clocks import SystemClock
from cells.domain.auction import AuctionState
from cells.domain.commands import CloseAuction, LegAction
from cells.domain.events import SettlementFacts
from cells.domain.saga import Saga, SagaState
from cells.domain.saga_rules import action_of
from cells.domain.values import Kind
from cells.memory import MemoryStore
from cells.parts import Part, stop_all
from cells.ports import StoreUnavailable, Timer
from cells.requests import CommandRequest, Outcome
from cells.sagas import steps
from cells.sagas.alarm import StuckAlarm
from cells.subscriptions import Subscriptions
from cells.timers import Timers
from router.atlas import Atlas
from router.client import Client
from router.copier import Copier
from router.follower import Follower
from router.probes import Probes
from router.topology import Cell as ListedCell
from router.topology import CellHealth, LiveTopology, Topology
from server.mail.courier import Courier
from server.shell import keyset
from server.shell.keyset import KeySet
from server.shell.metrics import BackgroundFailures
from server.shell.places import Places
from server.shell.streams import OpenStreams
from tests.integration.test_timers import open_auctions
from tests.local_cells import memory_cell, open_user, until, until_async
from tests.saga_world import world
from tests.unit.test_witness import AWAY, HERE, DirectWitnesses, signing, witness_of


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
    """Whatever is asked of it is an error that nobody foresaw."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"injected at {name}")

    def __bool__(self) -> bool:
        return True


BROKEN: Any = Broken()


def _timers() -> BackgroundTask:
    timers = Timers(cell="eu-west", store=BROKEN, clock=BROKEN, ids=BROKEN, execute=BROKEN)
    timers._add(Timer(0, Kind.AUCTION, uuid4(), None))
    return timers.background


def _snapshots() -> BackgroundTask:
    return Snapshotter(history=BROKEN, store=BROKEN, trial=BROKEN).background


def _checkpoints() -> BackgroundTask:
    return Notary(store=BROKEN, time=BROKEN, key=None, memo=None, events_max=1, pause_max_s=1.0).background


def _reconciliation() -> BackgroundTask:
    desk = AuditDesk(cell=BROKEN, passes=BROKEN, clearing=BROKEN, held=BROKEN, states_of=BROKEN, ids=BROKEN)
    return desk.background


def _mail() -> BackgroundTask:
    return Courier(outbox=BROKEN, vault=BROKEN, server=BROKEN, sender="", clock=BROKEN).background


def _token_keys() -> BackgroundTask:
    return KeySet(source="/nowhere", refresh_s=0.001, changed=BROKEN, monotonic_s=SystemClock().monotonic_s).background


def _directory() -> BackgroundTask:
    follower = Follower(database=BROKEN, operations=BROKEN, topology=BROKEN, settings_cells=())
    follower.background.every_s = 0.001
    return follower.background


def _client() -> BackgroundTask:
    client = Client.__new__(Client)
    atlas = Atlas(routers=("127.0.0.1:1",), metadata=BROKEN, places=BROKEN)
    client._watching = BackgroundTask(name="topology", work=atlas.watch)
    return client._watching


def _streams() -> BackgroundTask:
    streams = OpenStreams()
    streams._open = BROKEN
    return streams.background


LOOPS: dict[str, Callable[[], BackgroundTask]] = {
    "timers": _timers,
    "stuck_alarm": lambda: StuckAlarm(engine=BROKEN, clock=BROKEN).background,
    "snapshots": _snapshots,
    "checkpoints": _checkpoints,
    "cosigning": lambda: Cosigning(notary=BROKEN, proofs=BROKEN, witnesses=BROKEN).background,
    "log_watch": lambda: LogWatch(notary=BROKEN, source=BROKEN, proofs=BROKEN, events_per_s=1).background,
    "reconciliation": _reconciliation,
    "mail": _mail,
    "token_keys": _token_keys,
    "directory": _directory,
    "snapshot": lambda: Copier(directory=BROKEN, operations=BROKEN, snapshot=BROKEN).background,
    "probes": lambda: Probes(BROKEN, BROKEN).background,
    "topology": _client,
    "streams": _streams,
    "subscriptions": lambda: Subscriptions(store=BROKEN, time=BROKEN).background,
}


@pytest.mark.parametrize("name", LOOPS)
async def test_every_loop_goes_on_after_an_error_that_nobody_foresaw(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round fails, each is counted and logged with its traceback, and the task is at work all the same."""
    monkeypatch.setattr(keyset, "_read_from", lambda _: BROKEN.text)
    monkeypatch.setattr("cells.subscriptions.POLL_S", 0.001)
    monkeypatch.setattr("server.shell.streams.PROOF_CHECK_S", 0.001)
    task = LOOPS[name]()
    assert task.name == name
    with capture_logs() as logs:
        task.start()
        try:
            await until(lambda: background.failures[name] >= 3)
            was_at_work = task.running
        finally:
            await task.stop()
    assert was_at_work
    assert not task.running
    failed = [line for line in logs if line["event"] == "background_task_failed"]
    assert len(failed) >= 3
    assert {(line["task"], line["log_level"], line["exc_info"]) for line in failed} == {(name, "error", True)}


async def test_failures_are_in_the_metrics() -> None:
    """From zero on, so that the first one is seen to be one more."""

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
    """What fails again and again is tried less and less often, and never later than that."""
    monkeypatch.setattr(background, "PAUSE_FIRST_S", 1.0)
    backoff = background.Backoff()
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_s() == 1.0


async def test_an_outage_is_said_and_not_counted() -> None:
    """A database that is away is no bug; nothing else than the words is logged."""
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        raise StoreUnavailable("the database is away")

    task = BackgroundTask(name="tried", work=work, outages=(StoreUnavailable,))
    with capture_logs() as logs:
        task.start()
        await until(lambda: rounds >= 3)
        await task.stop()
    assert background.failures["tried"] == 0
    assert {(line["event"], line["problem"]) for line in logs} == {("background_task_waits", "the database is away")}


async def test_a_cancellation_of_something_else_does_not_end_it() -> None:
    """A future that others cancel raises CancelledError where it is awaited: a bare task would end without a word."""
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        others: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        others.cancel()
        await others

    task = BackgroundTask(name="tried", work=work)
    task.start()
    await until(lambda: rounds >= 3)
    await task.stop()
    assert background.failures["tried"] >= 2


async def test_a_swallowed_cancellation_begins_no_other_round() -> None:
    """Some libraries swallow it: a task that was stopped ends all the same."""
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    task = BackgroundTask(name="tried", work=work)
    task.start()
    await until(lambda: rounds == 1)
    await task.stop()
    assert rounds == 1


# --- one bad item keeps no other from being handled ---


async def test_an_auction_that_cannot_be_closed_keeps_no_other_open() -> None:
    """All others are closed in time; it is asked for again apart, and closed once it can be."""
    async with memory_cell() as (cell, _):
        timers = cell.timers
        assert timers is not None
        auctions = await open_auctions(cell, cell.time.clock.wall_ms() + 300, count=20)
        bad, execute, asked = auctions[0], cell.execute, 0

        async def executed(request: CommandRequest) -> Outcome:
            nonlocal asked
            if isinstance(request.command, CloseAuction) and request.command.auction_id == bad:
                asked += 1
                raise RuntimeError("injected")
            return await execute(request)

        async def open_ones() -> list[UUID]:
            return [each for each in auctions if (await cell.auction(each)).state.state is AuctionState.ACTIVE]

        async def only_the_bad_one_is_open() -> bool:
            return await open_ones() == [bad]

        async def none_is_open() -> bool:
            return await open_ones() == []

        timers.execute = executed
        await until_async(only_the_bad_one_is_open)
        await until(lambda: asked >= 3)
        assert background.failures["timers"] >= 3
        timers.execute = execute
        await until_async(none_is_open)


async def test_a_saga_whose_leg_meets_a_bug_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It halted until the next leader. All others settle meanwhile, and operators read what it is."""
    async with world() as here:
        auctions = [await here.won(AWAY), await here.won(AWAY)]

        def injected(saga: Saga, saga_id: UUID) -> LegAction:
            facts = saga.facts
            if isinstance(facts, SettlementFacts) and facts.auction_id == auctions[0]:
                raise RuntimeError("injected")
            return action_of(saga, saga_id)

        monkeypatch.setattr(steps, "action_of", injected)
        for auction in auctions:
            await here.close(auction)
        await here.becomes(auctions[1], SagaState.COMPLETED)
        await until(lambda: background.failures["saga"] >= 3)
        engine = here.cells[HERE].engine
        assert engine is not None
        run = engine.in_flight[await here.saga_id(auctions[0])]
        assert run.last_error == "RuntimeError: injected"
        assert run.attempts >= 3
        monkeypatch.setattr(steps, "action_of", action_of)
        await here.becomes(auctions[0], SagaState.COMPLETED)


async def test_a_witness_at_which_asking_fails_keeps_no_other_from_being_asked() -> None:
    """One that makes the code fail is noted like one that says no."""

    class Witnesses(DirectWitnesses):
        async def names(self) -> list[str]:
            return ["bad", AWAY]

        async def cosign(self, witness: str, asked: Asked) -> str:
            if witness == "bad":
                raise RuntimeError("injected")
            return await super().cosign(witness, asked)

    store = MemoryStore(HERE)
    async with signing(store, MemoryProofs(store), Witnesses(witness_of())) as here:
        await open_user(here.cell, 5)
        await here.cosigned()
    assert background.failures["cosigning"] >= 1
    assert here.cosigning.problems == {"bad": "injected", AWAY: ""}


async def test_an_endpoint_at_which_asking_fails_hides_no_other_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' health is known, whatever one address does."""
    cells = [ListedCell(name=name, region="eu", endpoints=(f"{name}:1",)) for name in ("bad", "good")]

    class Channels:
        def channel(self, endpoint: str, _endpoints: object) -> object:
            if endpoint.startswith("bad"):
                raise RuntimeError("injected")
            return endpoint

        def forget(self, _: object) -> None: ...

    class Stub:
        def __init__(self, _: object) -> None: ...

        async def Check(self, _request: object, timeout: float) -> object:  # noqa: ASYNC109
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    monkeypatch.setattr("router.probes.health_pb2_grpc.HealthStub", Stub)
    topology = LiveTopology(Topology(cells))
    await Probes(topology, cast("Any", Channels())).look()
    assert background.failures["probes"] == 1
    assert [cell.health for cell in topology.now.cells] == [CellHealth.UNKNOWN, CellHealth.SERVING]


async def test_an_address_that_cannot_be_looked_up_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that failed once was never repeated: a process that was started elsewhere would not be found."""
    looked = 0

    def target_of(endpoints: tuple[str, ...]) -> str:
        nonlocal looked
        looked += 1
        if looked in {2, 3}:
            raise UnicodeError("injected")
        return ",".join(endpoints)

    class Channel:
        async def close(self, _grace_s: float = 0.0) -> None: ...

    monkeypatch.setattr("server.shell.places.LOOK_S", 0.001)
    monkeypatch.setattr("server.shell.places.target_of", target_of)
    places = Places(open_channel=lambda _: cast("Any", Channel()))
    places.channel("cell", ("one:1", "two:1"))
    await until(lambda: looked == 4 and not places._looks)
    assert background.failures["addresses"] == 2
    await places.close()


async def test_a_part_that_fails_to_stop_keeps_no_other_running() -> None:
    """A process that leads no more closes no auctions, whatever its mail does."""
    stopped: list[str] = []

    class Good:
        async def start(self) -> None: ...

        async def stop(self) -> None:
            stopped.append("good")

    await stop_all(cast("list[Part]", [Broken(), Good()]))
    assert stopped == ["good"]
    assert background.failures["stop"] == 1


# --- leading ---


async def test_a_lead_that_ends_by_an_unforeseen_error_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower of the commits that fails leaves a hole in what it knows: the next lead loads it, and goes on."""
    monkeypatch.setattr("cells.leadership.TAKEOVER_S", 0.1)
    async with memory_cell() as (cell, _):
        epoch, fails = cell.writer.epoch, True

        def follow(_: object) -> None:
            nonlocal fails
            if fails:
                fails = False
                raise RuntimeError("injected")

        cell.writer.followers.append(follow)
        await until(lambda: not fails and cell.leading and cell.writer.epoch > epoch)
        assert background.failures["leadership"] == 1
        await open_auctions(cell, cell.time.clock.wall_ms() + 60_000, count=1)
