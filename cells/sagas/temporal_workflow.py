"""A saga as a Temporal workflow: take a leg, wait, take the next one. Nothing is decided here.

Imported anew for each workflow, within Temporal's sandbox: it knows nothing of the project but itself.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

ADVANCE = "advance"
RETRY_NOW = "retry_now"
# An attempt of a leg ends well within it, with a commit before and after. A leader that dies is noticed so much later.
ADVANCE_TIMEOUT = timedelta(seconds=15)
# For what no attempt should raise: a cell without a leader, or a bug.
RETRIES = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of a leg: the saga has ended, or is to be taken up again after a pause."""

    ended: bool
    pause_s: float = 0.0


@workflow.defn(name="saga")
class SagaWorkflow:
    def __init__(self) -> None:
        self._woken = False

    @workflow.signal(name=RETRY_NOW)
    def retry_now(self) -> None:
        """Cuts the pause short."""
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
