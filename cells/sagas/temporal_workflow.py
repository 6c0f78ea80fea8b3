"""A saga as a Temporal workflow: execute a leg, wait, execute the next one. It makes no decisions.

Temporal's sandbox imports this module for each workflow, so it imports nothing else of the project.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

ADVANCE = "advance"
RETRY_NOW = "retry_now"
# Longer than an attempt of a leg with a commit before and after. A leader that dies is noticed after this time.
ADVANCE_TIMEOUT = timedelta(seconds=15)
# For errors that no attempt should raise: a cell without a leader, or a bug.
RETRIES = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The result of a leg: the saga has ended, or must be resumed after a pause."""

    ended: bool
    pause_s: float = 0.0


@workflow.defn(name="saga")
class SagaWorkflow:
    def __init__(self) -> None:
        self._woken = False

    @workflow.signal(name=RETRY_NOW)
    def retry_now(self) -> None:
        """Ends the pause."""
        self._woken = True

    @workflow.run
    async def run(self, saga_id: str) -> None:
        while True:
            self._woken = False
            step = await workflow.execute_activity(
                ADVANCE, saga_id, result_type=Step, start_to_close_timeout=ADVANCE_TIMEOUT, retry_policy=RETRIES
            )
            if step.ended:
                return
            if step.pause_s:
                with suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._woken, timeout=step.pause_s)
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(saga_id)
