"""What Prometheus reads of a process."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cells.domain.commands import CompensateSaga
from cells.domain.refusals import ClockOffsetExceeded, UserNotFound
from cells.domain.sagas.saga import SagaState
from cells.domain.time.hlc import Stamp
from cells.requests import CaughtUp
from cells.sagas import steps
from server.__main__ import unready
from server.process.metrics import register_cell
from server.shell.observability import metrics
from server.shell.observability.metrics import CallMetrics, MetricsEndpoint, MetricsFailed
from tests.doubles.store import MemoryStore
from tests.e2e.probes import probed
from tests.integration.shell.shell_host import USER, refuse, running
from tests.local_cells import build_cell, deposit, leading, open_user, request, until_async
from tests.saga_world import AWAY, HERE, THIRD, world

Samples = dict[tuple[str, str], float]


def well() -> str:
    """Nothing is wrong."""
    return ""


async def scraped(endpoint: MetricsEndpoint) -> Samples:
    """Name and labels' values, joined -> value."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{endpoint.address}/metrics", timeout=10) as reply:
            return str(reply.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
async def endpoint() -> AsyncIterator[MetricsEndpoint]:
    endpoint = MetricsEndpoint("127.0.0.1:0", CollectorRegistry(), insecure_listen=False, unready=well)
    endpoint.start()
    yield endpoint
    await endpoint.stop()


async def test_calls_are_counted_by_their_end(tmp_path: Path) -> None:
    """Answered, refused, denied: rate, errors and duration by method."""
    registry = CollectorRegistry()
    method = "/cellbook.v1.LedgerService/GetBalance"
    async with running(tmp_path) as shell:
        shell.guard.observe = CallMetrics(registry).observe
        await shell.balance()
        await shell.balance()
        await shell.failure(metadata=())
        shell.ledger.answer = refuse(UserNotFound(user_id=USER))
        await shell.failure()
        shell.ledger.answer = refuse(RuntimeError("a bug"))
        await shell.failure()
    found = registry.get_sample_value
    ends = {"OK": 2.0, "UNAUTHENTICATED": 1.0, "NOT_FOUND": 1.0, "INTERNAL": 1.0}
    assert {code: found("cellbook_rpc_calls_total", {"method": method, "code": code}) for code in ends} == ends
    assert found("cellbook_rpc_seconds_count", {"method": method}) == 5.0


async def test_a_cell_tells_of_its_writer_its_clock_and_its_sagas(endpoint: MetricsEndpoint) -> None:
    """Read over HTTP while the loop works; no label holds an id."""
    async with world() as here:
        cell = here.cells[HERE]
        register_cell(endpoint.registry, cell, here.all_steps[HERE])
        here.cable.failing |= {"credit-in"}
        auction = await here.sold(AWAY, THIRD)
        await here.is_at(auction, "credit-in")
        with pytest.raises(ClockOffsetExceeded):
            cell.time.observe(Stamp(cell.time.clock.wall_ms() + 3_600_000, 0), {}, peer=AWAY)
        await until_async(lambda: scraped(endpoint), lambda found: found["cellbook_saga_attempts_total", "failed"] > 0)
        told = await scraped(endpoint)
        assert told["cellbook_leading", ""] == 1
        assert told["cellbook_position", ""] == cell.time.durable_position > 0
        assert told["cellbook_commit_seconds_count", ""] == told["cellbook_commit_commands_count", ""] > 0
        assert told["cellbook_clock_refused_total", AWAY] == 1
        assert 3_500 < told["cellbook_hlc_offset_seconds", AWAY] <= 3_600
        assert told["cellbook_sagas_in_flight", "RUNNING"] == 1
        assert told["cellbook_saga_attempts_total", "done"] > 0
        assert told["cellbook_peer_silent", THIRD] == 0
        assert not [labels for _, labels in told if len(labels) > len("SettlementService") * 3]
        here.cable.failing.clear()
        await here.becomes(auction, SagaState.COMPLETED)
        told = await scraped(endpoint)
        assert told["cellbook_sagas_in_flight", "RUNNING"] == 0
        assert told["cellbook_sagas_ended_total", "SETTLEMENT/COMPLETED"] == 1


async def test_the_writer_is_followed_from_its_start(endpoint: MetricsEndpoint) -> None:
    """As a process does it: the metrics are there before the cell runs, and hear of its first commit."""
    cell = build_cell(HERE, MemoryStore(HERE))
    register_cell(endpoint.registry, cell, cell.engine.steps)
    async with leading(cell):
        user = await open_user(cell, 1_00)
        told = await scraped(endpoint)
        assert told["cellbook_events_total", ""] == cell.time.durable_position == 2
        assert told["cellbook_commit_commands_sum", ""] == 2
        lookups, misses = told["cellbook_cache_lookups_total", ""], told["cellbook_cache_misses_total", ""]
        assert lookups > misses > 0
        await cell.execute(request(deposit(user)))
        told = await scraped(endpoint)
        # The account is known by now; the reference is one that nobody has used.
        assert told["cellbook_cache_misses_total", ""] == misses + 1
        assert told["cellbook_cache_lookups_total", ""] > lookups


async def test_subscribers_tell_how_far_behind_they_are(endpoint: MetricsEndpoint) -> None:
    """One that does not read falls behind; one that has gone is not counted."""
    async with world() as here:
        cell = here.cells[HERE]
        register_cell(endpoint.registry, cell, here.all_steps[HERE])
        await open_user(cell, 1_00)
        reading = cell.subscribe(from_position=1)
        first = await anext(reading)
        assert not isinstance(first, CaughtUp)
        told = await scraped(endpoint)
        assert told["cellbook_subscribers", ""] == 1
        assert told["cellbook_subscriber_lag_events", ""] == cell.time.durable_position == 2
        await anext(reading)
        assert isinstance(await anext(reading), CaughtUp)
        assert (await scraped(endpoint))["cellbook_subscriber_lag_events", ""] == 0
        await reading.aclose()
        assert (await scraped(endpoint))["cellbook_subscribers", ""] == 0


async def test_a_stuck_compensation_shows(endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other stuck sagas, and with the age of the oldest."""
    monkeypatch.setattr(steps, "BACKOFF_MAX_S", 0.001)
    async with world() as here:
        register_cell(endpoint.registry, here.cells[HERE], here.all_steps[HERE])
        here.cable.failing |= {"credit-in"}
        auction = await here.sold(AWAY, THIRD)
        await here.is_at(auction, "credit-in")
        assert (await scraped(endpoint))["cellbook_compensations_stuck", ""] == 0
        await here.cells[HERE].execute(request(CompensateSaga(saga_id=await here.saga_id(auction), note="")))
        await until_async(lambda: scraped(endpoint), lambda found: found["cellbook_compensations_stuck", ""] == 1)
        told = await scraped(endpoint)
        assert told["cellbook_sagas_stuck", ""] == 1
        assert told["cellbook_saga_oldest_seconds", ""] > 0
        here.cable.failing.clear()
        await here.becomes(auction, SagaState.COMPENSATED)
        assert (await scraped(endpoint))["cellbook_compensations_stuck", ""] == 0


async def test_metrics_stay_on_this_machine() -> None:
    """Listening for others is refused, and allowed where it is asked for by name; so is a taken port."""
    with pytest.raises(MetricsFailed, match="insecure_listen"):
        MetricsEndpoint("0.0.0.0:0", CollectorRegistry(), insecure_listen=False, unready=well).start()
    open_to_all = MetricsEndpoint("0.0.0.0:0", CollectorRegistry(), insecure_listen=True, unready=well)
    open_to_all.start()
    with pytest.raises(MetricsFailed, match="Address already in use: end the process that uses it"):
        MetricsEndpoint(str(open_to_all.address), CollectorRegistry(), insecure_listen=True, unready=well).start()
    await open_to_all.stop()


async def test_without_an_address_nothing_listens() -> None:
    """Metrics are off unless asked for."""
    nowhere = MetricsEndpoint("", CollectorRegistry(), insecure_listen=False, unready=well)
    nowhere.start()
    assert nowhere.address is None
    await nowhere.stop()


async def test_a_process_tells_whether_it_lives_and_can_serve() -> None:
    """Over HTTP beside the metrics: what cannot serve is not restarted for it."""
    problems = ["it is starting"]
    endpoint = MetricsEndpoint(
        "127.0.0.1:0", CollectorRegistry(), insecure_listen=False, unready=lambda: "".join(problems)
    )
    endpoint.start()
    try:
        address = str(endpoint.address)
        assert await probed(address, "/livez") == (200, "ok")
        assert await probed(address, "/readyz") == (503, "it is starting")
        problems.clear()
        assert await probed(address, "/readyz") == (200, "ok")
        assert (await probed(address, "/metrics"))[0] == 200
    finally:
        await endpoint.stop()


async def test_a_loop_that_does_not_turn_is_no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs answers so, and is restarted."""
    monkeypatch.setattr(metrics, "PROBE_TIMEOUT_S", 0.05)
    endpoint = MetricsEndpoint("127.0.0.1:0", CollectorRegistry(), insecure_listen=False, unready=well)
    endpoint.start()
    try:
        asking = ThreadPoolExecutor(1)
        asked = asking.submit(lambda: asyncio.run(probed(str(endpoint.address), "/livez")))
        # Holds the loop until the answer is there.
        code, said = asked.result(10)
        assert (code, said) == (503, "the event loop has not turned for 0.05 s")
        asking.shutdown()
    finally:
        await endpoint.stop()


def test_a_process_without_a_part_cannot_serve() -> None:
    """It leads, or stands by while another process leads; else its database is away, or nobody leads."""
    for leads, stands_by, ending, said in (
        (True, False, "", ""),
        (False, True, "", ""),
        (False, False, "", "neither leads nor sees another process lead"),
        (False, False, "it is starting", "it is starting"),
        (True, False, "it is shutting down", "it is shutting down"),
    ):
        cell, host = Mock(leading=leads, standing_by=stands_by), Mock()
        host.unready.return_value = ending
        assert said in unready(cell, host)
        assert bool(said) is bool(unready(cell, host))
