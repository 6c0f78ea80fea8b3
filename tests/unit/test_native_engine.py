"""The native engine while one of its peers is away: cells in memory, calling each other directly."""

import asyncio
from pathlib import Path

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.sagas.saga import LegState, SagaState
from cells.domain.values import Direction
from cells.sagas import circuit_breaker, steps
from tests.doubles.failpoints import Failpoints
from tests.local_cells import Mailbox, until
from tests.saga_world import AWAY, HERE, THIRD, world


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each saga's own pause is long: within the test, only a peer's answer lets it continue."""
    monkeypatch.setattr(circuit_breaker, "PROBE_FIRST_S", 0.02)
    monkeypatch.setattr(circuit_breaker, "PROBE_MAX_S", 0.05)
    monkeypatch.setattr(steps, "BACKOFF_MAX_S", 600.0)
    monkeypatch.setattr(steps, "BACKOFF_FACTOR", 20.0)
    monkeypatch.setattr(steps, "BACKOFF_FIRST_S", 0.001)


async def test_legs_to_a_silent_peer_hold_up_none_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more stranded sagas than slots, the next one, to another cell, settles at once."""
    monkeypatch.setattr(circuit_breaker, "CALLS_MAX", 4)
    async with world() as here:
        stranded = [await here.won(AWAY) for _ in range(12)]
        passing = await here.won(THIRD)
        here.cable.cut.add(AWAY)
        here.cable.timeout_s = 600.0
        for auction in stranded:
            await here.close(auction)
        await here.close(passing)
        await here.becomes(passing, SagaState.COMPLETED)
        assert {(await here.saga(auction)).state for auction in stranded} == {SagaState.RUNNING}


async def test_with_one_bulkhead_for_all_peers_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: if all peers share one gate, sagas that wait for one peer block all others."""
    monkeypatch.setattr(circuit_breaker, "CALLS_MAX", 4)
    async with world() as here:
        shared = circuit_breaker.CircuitBreaker(random=here.steps.random)
        here.steps.breakers.update({AWAY: shared, THIRD: shared})
        stranded = [await here.won(AWAY) for _ in range(12)]
        passing = await here.won(THIRD)
        here.cable.cut.add(AWAY)
        here.cable.timeout_s = 600.0
        for auction in stranded:
            await here.close(auction)
        await until(shared._slots.locked)
        await here.close(passing)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await here.becomes(passing, SagaState.COMPLETED)


async def test_all_go_on_once_the_peer_answers_one() -> None:
    """While the peer is away few calls are lost; once it is back all settle, though each alone would wait."""
    async with world() as here:
        stranded = [await here.won(AWAY) for _ in range(60)]
        here.cable.cut.add(AWAY)
        for auction in stranded:
            await here.close(auction)
        await until(lambda: here.cable.lost > 62)
        assert here.steps.breakers[AWAY].silent
        here.cable.cut.clear()
        await here.become(SagaState.COMPLETED, *stranded)


async def test_a_deadline_passes_though_the_peer_was_never_asked() -> None:
    """Behind a silent peer a saga compensates in time, and is undone once the peer is back."""
    async with world() as here:
        stranded = [await here.won(AWAY) for _ in range(4)]
        late = await here.won(AWAY, timeout_ms=400)
        here.cable.cut.add(AWAY)
        for auction in (*stranded, late):
            await here.close(auction)
        await here.becomes(late, SagaState.COMPENSATING)
        here.cable.cut.clear()
        await here.becomes(late, SagaState.COMPENSATED)
        assert (await here.cells[HERE].auction(late)).state.state is AuctionState.SETTLEMENT_FAILED
        await here.become(SagaState.COMPLETED, *stranded)


async def test_a_notice_waits_for_a_cell_that_is_away() -> None:
    """A cut costs nobody their notice; it is sent when the cell is back."""
    async with world() as here:
        auction = await here.won(AWAY)
        async with here.held(auction, "notify-winner"):
            here.cable.cut.add(AWAY)
        await until(lambda: here.cable.lost > steps.BEST_EFFORT_ATTEMPTS_MAX + 2)
        assert (await here.saga(auction)).state is SagaState.COMMITTED
        here.cable.cut.clear()
        await here.becomes(auction, SagaState.COMPLETED)
        mailbox = here.cells[AWAY].notifier
        assert isinstance(mailbox, Mailbox)
        assert [notice for _, notice in mailbox.sent] == ["AUCTION_WON"]


async def test_a_notice_is_given_up_at_the_deadline() -> None:
    """A cell that stays away keeps the settlement open no longer than the settlement itself might have taken."""
    async with world() as here:
        auction = await here.won(AWAY, timeout_ms=1_000)
        async with here.held(auction, "notify-winner"):
            here.cable.cut.add(AWAY)
        await here.becomes(auction, SagaState.COMPLETED)
        assert await here.leg(auction, "notify-winner") is LegState.SKIPPED
        assert await here.leg(auction, "notify-seller") is LegState.DONE


async def test_a_notice_whose_cell_fails_at_it_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is a failure counts: after a few of them the settlement is over."""
    monkeypatch.setattr(steps, "BACKOFF_FACTOR", 1.0)
    async with world() as here:
        here.cable.failing.add("notify-winner")
        auction = await here.sold(AWAY)
        await here.becomes(auction, SagaState.COMPLETED)
        assert await here.leg(auction, "notify-winner") is LegState.SKIPPED


async def test_a_mail_server_that_fails_halts_no_settlement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notice in the settlement's own cell is given up like any other."""

    async def fails(*_: object, **__: object) -> str:
        raise ConnectionError("no mail server")

    monkeypatch.setattr(steps, "BACKOFF_FACTOR", 1.0)
    monkeypatch.setattr(Mailbox, "notify", fails)
    async with world() as here:
        auction = await here.sold(AWAY)
        await here.becomes(auction, SagaState.COMPLETED)
        assert await here.leg(auction, "notify-seller") is LegState.SKIPPED


async def test_a_failpoint_in_a_file_holds_until_it_is_taken_out(tmp_path: Path) -> None:
    """A saga is held before the leg that the file names, and continues when the file no longer names it."""
    file = tmp_path / "failpoints"
    async with world() as here:
        auction = await here.won(AWAY)
        file.write_text("hold/credit-out/action\n")
        here.steps.failpoints = failpoints = Failpoints(frozenset({f"@{file}"}))
        await here.close(auction)
        await here.is_at(auction, "credit-out")
        await asyncio.wait_for(failpoints.hold("pin", Direction.ACTION), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(failpoints.hold("credit-out", Direction.ACTION), 0.2)
        file.unlink()
        await here.becomes(auction, SagaState.COMPLETED)
