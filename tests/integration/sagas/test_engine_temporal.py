"""The Temporal engine does what every saga engine must, against a real Temporal development server."""

from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import pytest
import pytest_asyncio

pytest.importorskip("temporalio", reason="needs the extra cellbook[temporal]")

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.worker import Replayer

from cells.domain.sagas.saga import SagaState
from cells.sagas import steps as legs
from cells.sagas import temporal
from cells.sagas.engine import SagaEngine
from cells.sagas.steps import Steps
from cells.sagas.temporal import TemporalEngine
from cells.sagas.temporal_workflow import SagaWorkflow
from cells.store.ports import Store
from tests.integration.sagas.engine_conformance import SagaEngineConformance, SagaOrdersConformance
from tests.local_cells import EngineOf, until, until_async
from tests.saga_world import AWAY, HERE, THIRD, world
from tests.temporal_server import address_of, temporal_server

pytestmark = pytest.mark.temporal


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address() -> AsyncIterator[str]:
    """Of one server for all tests, because a start takes longer than most of them."""
    async with temporal_server() as client:
        yield address_of(client)


@pytest.fixture
async def client(address: str) -> Client:
    return await Client.connect(address)


@pytest.fixture
def task_queues() -> str:
    """What the names of a test's task queues begin with: no worker gets what an earlier test has left."""
    return f"cellbook-{uuid4()}"


@pytest.fixture
def engine_of(client: Client, task_queues: str, monkeypatch: pytest.MonkeyPatch) -> EngineOf:
    monkeypatch.setattr(temporal, "SILENCE_PAUSE_S", 0.1)
    monkeypatch.setattr(temporal, "AGAIN_S", 0.05)

    async def connect() -> Client:
        return client

    def engine(store: Store, steps: Steps) -> SagaEngine:
        return TemporalEngine(store=store, steps=steps, connect=connect, task_queue=f"{task_queues}-{steps.cell}")

    return engine


class TestTemporalEngine(SagaEngineConformance, SagaOrdersConformance):
    """The conformance suite on a real server."""


async def test_a_saga_is_one_workflow(client: Client, engine_of: EngineOf) -> None:
    """However often it is started: by the commit, again, by the next leader. And a replay takes the same course."""
    async with world(engine_of) as here:
        here.cable.failing.add("credit-in")
        auction = await here.sold(AWAY, THIRD)
        await here.is_at(auction, "credit-in")
        saga_id = await here.saga_id(auction)
        first = await client.get_workflow_handle(str(saga_id)).describe()
        engine = here.cells[HERE].engine
        assert isinstance(engine, TemporalEngine)
        engine._unstarted.put_nowait(saga_id)
        await until(engine._unstarted.empty)
        await here.step_down(HERE)
        await here.lead(HERE)
        here.cable.failing.clear()
        await here.becomes(auction, SagaState.COMPLETED)
        handle = client.get_workflow_handle(str(saga_id))
        await handle.result()
        engine = here.cells[HERE].engine
        assert isinstance(engine, TemporalEngine)
        await engine._start_workflow(client, saga_id)
        last = await handle.describe()
        assert (last.run_id, last.status) == (first.run_id, WorkflowExecutionStatus.COMPLETED)
        history = await handle.fetch_history()
    await Replayer(workflows=[SagaWorkflow]).replay_workflow(history)


async def test_a_terminated_workflow_is_begun_anew(client: Client, engine_of: EngineOf) -> None:
    """The log is the truth: what has not ended there is taken up by the next leader."""
    async with world(engine_of) as here:
        here.cable.failing.add("pin")
        auction = await here.sold(AWAY, THIRD)
        saga_id = await here.saga_id(auction)
        await until(lambda: here.cells[HERE].saga_attempts(saga_id)[0])
        await client.get_workflow_handle(str(saga_id)).terminate()
        here.cable.failing.clear()
        await here.step_down(HERE)
        await here.lead(HERE)
        await here.becomes(auction, SagaState.COMPLETED)


async def test_a_signal_cuts_the_pause_short(
    client: Client, engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retry now: the workflow does not wait for the end of its backoff."""
    monkeypatch.setattr(legs, "BACKOFF_FIRST_S", 600.0)
    monkeypatch.setattr(legs, "BACKOFF_MAX_S", 600.0)
    async with world(engine_of) as here:
        here.cable.failing.add("pin")
        auction = await here.sold(AWAY, THIRD)
        saga_id = await here.saga_id(auction)
        await until(lambda: here.cells[HERE].saga_attempts(saga_id)[0])
        here.cable.failing.clear()

        async def done() -> bool:
            # Whether the signal came before the pause or in it. There is nothing left to signal once it has ended.
            with suppress(RPCError):
                await client.get_workflow_handle(str(saga_id)).signal(SagaWorkflow.retry_now)
            return (await here.saga(auction)).state is SagaState.COMPLETED

        await until_async(done)


async def test_without_the_temporal_server_the_cell_works(
    client: Client, engine_of: EngineOf, task_queues: str
) -> None:
    """It leads and takes bids; its sagas begin when the server is there."""
    away = True

    async def connect() -> Client:
        if away:
            raise RuntimeError("no server")
        return client

    def engine(store: Store, steps: Steps) -> SagaEngine:
        return TemporalEngine(store=store, steps=steps, connect=connect, task_queue=f"{task_queues}-{steps.cell}")

    async with world(engine) as here:
        auction = await here.sold(HERE)
        assert (await here.saga(auction)).state is SagaState.RUNNING
        away = False
        await here.becomes(auction, SagaState.COMPLETED)
