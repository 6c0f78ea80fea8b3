"""A saga that can neither proceed nor compensate is stuck, and is logged at ERROR."""

from functools import partial
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from cells.domain.commands import CompensateSaga
from cells.domain.record import replace
from cells.domain.sagas.saga import Saga, SagaState
from cells.sagas import alarm, steps
from cells.sagas.alarm import StuckAlarm
from cells.sagas.executions import STUCK_AFTER_ATTEMPTS, STUCK_AFTER_S, SagaExecution
from cells.sagas.native import NativeEngine
from cells.time.clocks import SystemClock
from tests.integration.rows import saga as release
from tests.local_cells import request, until
from tests.saga_world import AWAY, HERE, THIRD, world
from tests.unit.saga_market import Market


def settlement(state: SagaState, leg: str) -> Saga:
    market = Market()
    _, saga = market.saga(market.won())
    cursor = [spec.leg for spec in saga.specs].index(leg)
    return replace(saga, state=state, cursor=cursor)


FAILED = {"attempts": STUCK_AFTER_ATTEMPTS}
LATE = {"since_s": -STUCK_AFTER_S}


@pytest.mark.parametrize("how", [FAILED, LATE], ids=["failed", "late"])
@pytest.mark.parametrize(
    ("saga", "stuck"),
    [
        (settlement(SagaState.COMPENSATING, "pin"), True),
        (settlement(SagaState.COMMITTED, "settle"), True),
        # Driven forward until it is done.
        (release(), True),
        # It compensates at its deadline.
        (settlement(SagaState.RUNNING, "pin"), False),
        # Given up at the deadline.
        (settlement(SagaState.COMMITTED, "notify-seller"), False),
        # An operator paused it.
        (replace(settlement(SagaState.COMPENSATING, "pin"), paused=True), False),
    ],
)
def test_what_is_stuck(saga: Saga, how: dict[str, float], *, stuck: bool) -> None:
    """A compensation or a leg past the pivot, failed so many times or due for so long, and not paused."""
    execution = partial(SagaExecution, saga_id=uuid4(), saga=saga)
    assert execution(**{"since_s": 0.0, **how}).is_stuck(0.0) is stuck  # type: ignore[arg-type]
    assert not execution(since_s=0.0, attempts=STUCK_AFTER_ATTEMPTS - 1).is_stuck(STUCK_AFTER_S - 1)
    assert not execution().is_stuck(STUCK_AFTER_S)


def test_whatever_happens_begins_a_new_count() -> None:
    """A leg that was reached late is not itself late."""
    run = SagaExecution(saga_id=uuid4(), saga=settlement(SagaState.COMPENSATING, "pin"))
    run.sample(5.0)
    run.sample(6.0)
    assert run.since_s == 5.0
    run.saga = replace(run.saga, last_event_id=uuid4())
    run.sample(7.0)
    assert run.since_s == 7.0


async def test_a_compensation_that_fails_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is stuck, each failed attempt is logged as an error, and the alarm is logged once."""
    monkeypatch.setattr(steps, "BACKOFF_MAX_S", 0.001)
    async with world() as here:
        here.cable.failing |= {"credit-in"}
        auction = await here.sold(AWAY, THIRD)
        await here.is_at(auction, "credit-in")
        saga_id = await here.saga_id(auction)
        engine = here.cells[HERE].engine
        assert isinstance(engine, NativeEngine)
        looks = StuckAlarm(engine=engine, clock=SystemClock())
        with capture_logs() as logs:
            await here.cells[HERE].execute(request(CompensateSaga(saga_id=saga_id, note="")))
            # Before that it failed as often, and was not stuck: the deadline would have compensated it.
            logs.clear()
            await until(lambda: engine.in_flight[saga_id].attempts > STUCK_AFTER_ATTEMPTS)
            await looks.poll()
            await looks.poll()
        here.cable.failing.clear()
        await here.becomes(auction, SagaState.COMPENSATED)
    failed = [line for line in logs if line["event"] == "saga_attempt_failed"]
    assert {line["log_level"] for line in failed if line["attempts"] >= STUCK_AFTER_ATTEMPTS} == {"error"}
    assert {line["log_level"] for line in failed if line["attempts"] < STUCK_AFTER_ATTEMPTS} == {"info"}
    [told] = [line for line in logs if line["event"] == "saga_stuck"]
    assert (told["log_level"], told["saga_id"], told["leg"], told["peer"]) == (
        "error",
        str(saga_id),
        "credit-in",
        THIRD,
    )
    assert told["attempts"] > STUCK_AFTER_ATTEMPTS
    assert "INTERNAL" in told["problem"]


async def test_thousands_that_are_stuck_do_not_flood_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first few are logged one by one, then their number."""
    monkeypatch.setattr(alarm, "LOG_MAX", 2)

    stuck = {uuid4(): SagaExecution(saga_id=uuid4(), saga=release(), since_s=0.0, attempts=99) for _ in range(7)}
    engine: Any = Mock(in_flight=stuck)
    with capture_logs() as logs:
        await StuckAlarm(engine=engine, clock=SystemClock()).poll()
    assert [line["event"] for line in logs] == ["saga_stuck", "saga_stuck", "more_sagas_stuck"]
    assert logs[-1]["sagas_count"] == 5
