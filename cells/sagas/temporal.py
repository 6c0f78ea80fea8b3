"""The Temporal engine: one workflow per saga, on a Temporal server, which only schedules the calls.

Legs, ids and records are those of the native engine, and the cell's log remains authoritative. A workflow that is
started twice, or again after it was terminated, finds the remaining work in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.worker import Worker

from cells.background import BackgroundTask
from cells.domain.sagas.saga import Saga
from cells.domain.values import Kind, Ref
from cells.sagas.engine import SagaEngine
from cells.sagas.temporal_workflow import ADVANCE, RETRY_NOW, SagaWorkflow, Step

log = structlog.get_logger()

# Sagas that are started concurrently.
STARTERS = 16
# Legs that run concurrently; legs towards one peer have a separate bound.
ACTIVITIES_MAX = 1_000
# Legs wait for a silent peer in the workflow, where waiting occupies no slot of this process.
PATIENCE_S = 0.1
SILENCE_PAUSE_S = 5.0
# A worker that stops may hold a workflow's next task, which is noticed only after this time. Temporal's default is ten
# seconds.
TASK_TIMEOUT = timedelta(seconds=3)
STICKY_MAX = timedelta(seconds=2)
AGAIN_S = 1.0
# A resumed saga gets a signal. If the signal is lost, the workflow notices after this time.
PAUSED_LOOK_S = 60.0
STOP_MAX_S = 5.0


@dataclass(slots=True, kw_only=True)
class TemporalEngine(SagaEngine):
    """`connect` opens a connection to the Temporal server. No two cells may share a task queue."""

    connect: Callable[[], Awaitable[Client]]
    task_queue: str
    # Whether this process executes the legs itself; otherwise `cellbook saga-worker` requests them.
    works: bool = True
    # Sagas whose workflow may not have been started. Few sagas are in flight, so this queue is short.
    _unstarted: asyncio.Queue[UUID] = field(default_factory=asyncio.Queue)
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.steps.patience_s = PATIENCE_S
        self.steps.silence_pause_s = SILENCE_PAUSE_S
        # After any error the sagas wait and the cell continues.
        self.background = BackgroundTask(name="temporal", work=self._serve, every_s=AGAIN_S, outages=(Exception,))

    async def start(self) -> None:
        """Does not wait for the Temporal server: without it the cell serves and its sagas wait."""
        self.background.start()
        await SagaEngine.start(self)

    def _changed(self, saga_id: UUID) -> None:
        self._unstarted.put_nowait(saga_id)

    async def _stopped(self) -> None:
        # A worker that cannot shut down while its server is unreachable runs no more legs: this process does not lead.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_MAX_S):
                await self.background.stop()
        self._unstarted = asyncio.Queue()

    def retry_now(self, saga_id: UUID) -> None:
        run = self.steps.executions.get(saga_id)
        if run is not None:
            self.steps.ask_now(run)
            self._unstarted.put_nowait(saga_id)

    async def _serve(self) -> None:
        """Runs the worker until the Temporal server is unreachable."""
        client = await self.connect()
        async with asyncio.TaskGroup() as group:
            if self.works:
                group.create_task(worker_of(client, self.task_queue, self.advance).run())
            for _ in range(STARTERS):
                group.create_task(self._start_workflows(client))

    async def _start_workflows(self, client: Client) -> None:
        while True:
            saga_id = await self._unstarted.get()
            try:
                await self._start_workflow(client, saga_id)
            except RPCError as error:
                self._unstarted.put_nowait(saga_id)
                log.warning("workflow_not_started", saga_id=str(saga_id), problem=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _start_workflow(self, client: Client, saga_id: UUID) -> None:
        """Starts the saga's workflow, unless one is running or has completed. A terminated workflow is started again.

        If one is running, the signal ends its pause: the saga was resumed, or must be retried at once.
        """
        try:
            await client.start_workflow(
                SagaWorkflow.run,
                str(saga_id),
                id=str(saga_id),
                task_queue=self.task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal=RETRY_NOW,
                task_timeout=TASK_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            log.debug("workflow_has_ended", saga_id=str(saga_id))

    @activity.defn(name=ADVANCE)
    async def advance(self, saga_id: str) -> Step:
        """Executes the saga's current leg once. If it raises, the Temporal server retries it."""
        run = self.steps.executions.get(UUID(saga_id))
        if run is None:
            return await self._ended(UUID(saga_id))
        if run.saga.paused:
            return Step(ended=False, pause_s=PAUSED_LOOK_S)
        pause_s = await self.steps.execute_leg(run)
        return Step(ended=run.saga.ended, pause_s=pause_s)

    async def _ended(self, saga_id: UUID) -> Step:
        ref = Ref(Kind.SAGA, saga_id)
        found = (await self.store.load([ref])).get(ref)
        if found is None or not isinstance(found.state, Saga) or not found.state.ended:
            message = f"saga {saga_id} is not in flight here: another process leads, or the task queue is shared"
            raise LookupError(message)
        return Step(ended=True)


def worker_of(client: Client, task_queue: str, advance: Callable[[str], Awaitable[Step]]) -> Worker:
    """A worker of the Temporal server: runs the workflows, and `advance` for each of their legs."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[SagaWorkflow],
        activities=[advance],
        max_concurrent_activities=ACTIVITIES_MAX,
        sticky_queue_schedule_to_start_timeout=STICKY_MAX,
    )
