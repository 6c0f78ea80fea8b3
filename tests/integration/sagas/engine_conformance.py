"""What every saga engine must do. Subclassed once per engine, which brings the `engine_of` fixture.

The books look at every commit of every cell: no step done twice, money conserved at every look.
"""

from uuid import UUID

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.commands import CompensateSaga, PauseSaga, ResumeSaga
from cells.domain.refusals import NotLeading
from cells.domain.sagas.saga import LegState, SagaState
from cells.domain.sagas.saga_refusals import SagaHasEnded, SagaIsPaused, SagaPastPivot
from cells.sagas import circuit_breaker, steps
from cells.sagas.admin import SagaAdmin
from cells.sagas.steps import Attempt
from tests.doubles.failpoints import Failpoints
from tests.local_cells import EngineOf, Mailbox, request, until
from tests.saga_world import AWAY, HERE, THIRD, World, world


@pytest.mark.usefixtures("quick_probes")
class SagaEngineConformance:
    async def test_a_settlement_completes(self, engine_of: EngineOf) -> None:
        """Over three cells, each leg once, both parties told."""
        async with world(engine_of) as here:
            auction = await here.sold(AWAY, THIRD)
            await here.becomes(auction, SagaState.COMPLETED)
            assert {leg.state for leg in (await here.saga(auction)).legs} == {LegState.DONE}
            for cell, notice in ((AWAY, "AUCTION_WON"), (THIRD, "ASSET_SOLD")):
                mailbox = here.cells[cell].notifier
                assert isinstance(mailbox, Mailbox)
                assert [sent for _, sent in mailbox.sent] == [notice]
            await here.settled()

    async def test_many_settle_side_by_side(self, engine_of: EngineOf) -> None:
        """None waits for another."""
        async with world(engine_of) as here:
            auctions = [await here.won(AWAY, THIRD) for _ in range(20)]
            for auction in auctions:
                await here.close(auction)
            for auction in auctions:
                await here.settles(auction)

    async def test_a_definite_refusal_leads_back(self, engine_of: EngineOf) -> None:
        """What had been done is undone, the auction's settlement has failed, and both parties are told so."""
        async with world(engine_of) as here:
            here.cells[THIRD].failpoints = Failpoints(frozenset({"refuse/credit-in/action"}))
            auction = await here.sold(AWAY, THIRD)
            await here.becomes(auction, SagaState.COMPENSATED)
            assert (await here.saga(auction)).failure_reason == "REFUSED_BY_FAILPOINT"
            assert (await here.cells[HERE].auction(auction)).state.state is AuctionState.SETTLEMENT_FAILED
            await here.settled()
            for cell, party in ((AWAY, "WINNER"), (THIRD, "SELLER")):
                mailbox = here.cells[cell].notifier
                assert isinstance(mailbox, Mailbox)
                assert [sent for _, sent in mailbox.sent] == [f"SETTLEMENT_FAILED_FOR_{party}"]

    @pytest.mark.parametrize("leg", ["pin", "escrow-out", "credit-in", "settle"])
    async def test_what_is_unknown_is_asked_again(self, engine_of: EngineOf, leg: str) -> None:
        """An answer that fails leads neither on nor back, and the engine says what it said."""
        async with world(engine_of) as here:
            here.cable.failing.add(leg)
            auction = await here.sold(AWAY, THIRD)
            await here.is_at(auction, leg)
            saga_id = await here.saga_id(auction)
            await until(lambda: here.cells[HERE].saga_attempts(saga_id)[0] >= 2)
            assert "INTERNAL" in here.cells[HERE].saga_attempts(saga_id)[1]
            here.cable.failing.clear()
            await here.settles(auction)

    async def test_lost_answers_are_asked_for_again(self, engine_of: EngineOf) -> None:
        """A leg that was taken unheard is taken once."""
        async with world(engine_of) as here:
            here.cable.unheard |= {"pin", "escrow-out", "credit-in", "settle", "notify-winner"}
            auction = await here.sold(AWAY, THIRD)
            await here.becomes(auction, SagaState.COMPLETED)
            assert not here.cable.unheard
            await here.settled()

    async def test_a_cable_cut_is_survived(self, engine_of: EngineOf) -> None:
        """Those towards the cell that is away wait, those to another settle, and all do once it is back."""
        async with world(engine_of) as here:
            stranded = [await here.won(AWAY) for _ in range(10)]
            passing = await here.won(THIRD)
            here.cable.cut.add(AWAY)
            for auction in (*stranded, passing):
                await here.close(auction)
            await here.becomes(passing, SagaState.COMPLETED)
            assert {(await here.saga(auction)).state for auction in stranded} == {SagaState.RUNNING}
            here.cable.cut.clear()
            for auction in stranded:
                await here.settles(auction)

    async def test_a_deadline_that_passes_leads_back(self, engine_of: EngineOf) -> None:
        """In time, though the peer is away; undone once it is there again."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, timeout_ms=300)
            here.cable.cut.add(AWAY)
            await here.close(auction)
            await here.becomes(auction, SagaState.COMPENSATING)
            assert (await here.saga(auction)).failure_reason == "DEADLINE_EXCEEDED"
            here.cable.cut.clear()
            await here.becomes(auction, SagaState.COMPENSATED)
            await here.settled()

    @pytest.mark.parametrize("leg", ["pin", "escrow-in", "credit-in", "ownership", "notify-seller"])
    async def test_the_next_leader_goes_on(self, engine_of: EngineOf, leg: str) -> None:
        """Whatever leg it was at when its leader went."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, THIRD)
            async with here.held(auction, leg):
                await here.step_down(HERE)
                await here.lead(HERE)
            await here.settles(auction)

    async def test_a_start_that_nobody_heard_of_is_not_lost(self, engine_of: EngineOf) -> None:
        """The saga is committed, and its leader goes before its engine has heard: the next one begins it."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, THIRD)
            here.cells[HERE].writer.followers.clear()
            await here.close(auction)
            await here.step_down(HERE)
            assert (await here.saga(auction)).cursor == 0
            await here.lead(HERE)
            await here.settles(auction)


# --- what an engine makes of an operator's orders ---------------------------------------------------------------------


async def pause(here: World, saga_id: UUID) -> None:
    await here.cells[HERE].execute(request(PauseSaga(saga_id=saga_id, note="")))


async def resume(here: World, saga_id: UUID) -> None:
    await here.cells[HERE].execute(request(ResumeSaga(saga_id=saga_id, note="")))


async def compensate(here: World, saga_id: UUID) -> None:
    await here.cells[HERE].execute(request(CompensateSaga(saga_id=saga_id, note="")))


async def failing(here: World, leg: str, winner: str = AWAY) -> tuple[UUID, UUID]:
    """An auction whose settlement fails at `leg`, and that settlement."""
    here.cable.failing.add(leg)
    auction = await here.sold(winner, THIRD)
    await here.is_at(auction, leg)
    saga_id = await here.saga_id(auction)
    await until(lambda: here.cells[HERE].saga_attempts(saga_id)[0])
    return auction, saga_id


async def settle_another(here: World) -> None:
    """Takes its time, in which others might do what they should not."""
    auction = await here.sold(AWAY, THIRD)
    await here.becomes(auction, SagaState.COMPLETED)


def admin_of(here: World) -> SagaAdmin:
    return SagaAdmin(here.cells[HERE], here.cells[HERE].engine)


class SagaOrdersConformance:
    @pytest.fixture(autouse=True)
    def _hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steps, "BACKOFF_FIRST_S", 0.001)
        monkeypatch.setattr(steps, "BACKOFF_MAX_S", 0.01)

    async def test_a_paused_saga_makes_no_attempts(self, engine_of: EngineOf) -> None:
        """Though nothing stands in its way any more, until it is resumed."""
        async with world(engine_of) as here:
            auction, saga_id = await failing(here, "credit-in")
            await pause(here, saga_id)
            engine = here.cells[HERE].engine
            await until(lambda: not engine.in_flight[saga_id].under_way)
            failed = here.steps.tally[Attempt.FAILED]
            here.cable.failing.clear()
            await settle_another(here)
            assert here.steps.tally[Attempt.FAILED] == failed
            assert (await here.saga(auction)).state is SagaState.RUNNING
            await resume(here, saga_id)
            await here.settles(auction)

    async def test_unpaused_it_would(self, engine_of: EngineOf) -> None:
        """Ablation: the same saga, not paused, goes on trying."""
        async with world(engine_of) as here:
            auction, _ = await failing(here, "credit-in")
            failed = here.steps.tally[Attempt.FAILED]
            await until(lambda: here.steps.tally[Attempt.FAILED] > failed)
            here.cable.failing.clear()
            await here.becomes(auction, SagaState.COMPLETED)

    async def test_a_pause_ends_the_wait_for_a_silent_peer(self, engine_of: EngineOf) -> None:
        """The peer's answer to others does not let a paused saga go on."""
        async with world(engine_of) as here:
            auctions = [await here.won(AWAY, THIRD) for _ in range(4)]
            here.cable.cut.add(AWAY)
            for auction in auctions:
                await here.close(auction)
            await until(lambda: AWAY in here.steps.breakers and here.steps.breakers[AWAY].silent)
            paused = auctions[-1]
            await pause(here, await here.saga_id(paused))
            here.cable.cut.clear()
            for auction in auctions[:-1]:
                await here.becomes(auction, SagaState.COMPLETED)
            assert (await here.saga(paused)).cursor <= 1
            await resume(here, await here.saga_id(paused))
            await here.settles(paused)

    async def test_the_next_leader_leaves_it_paused(self, engine_of: EngineOf) -> None:
        """A pause survives the process that was told of it."""
        async with world(engine_of) as here:
            auction, saga_id = await failing(here, "credit-in")
            await pause(here, saga_id)
            await here.step_down(HERE)
            here.cable.failing.clear()
            await here.lead(HERE)
            await settle_another(here)
            assert (await here.saga(auction)).paused
            await resume(here, saga_id)
            await here.settles(auction)

    async def test_a_deadline_passes_in_a_pause(self, engine_of: EngineOf) -> None:
        """Nothing is done about it then; resumed, the saga turns back at once."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, THIRD, timeout_ms=3_000)
            async with here.held(auction, "pin"):
                saga_id = await here.saga_id(auction)
                await pause(here, saga_id)
            deadline_ms = (await here.saga(auction)).deadline_ms
            assert deadline_ms is not None
            clock = here.cells[HERE].time.clock
            await until(lambda: clock.wall_ms() > deadline_ms)
            await settle_another(here)
            assert (await here.saga(auction)).state is SagaState.RUNNING
            await resume(here, saga_id)
            await here.becomes(auction, SagaState.COMPENSATED)
            assert (await here.saga(auction)).failure_reason == "DEADLINE_EXCEEDED"
            await here.settled()

    async def test_an_operator_turns_it_back(self, engine_of: EngineOf) -> None:
        """Before the pivot; all is undone, while what fails is still failing."""
        async with world(engine_of) as here:
            auction, saga_id = await failing(here, "settle")
            with pytest.raises(SagaPastPivot):
                await compensate(here, saga_id)
            here.cable.failing.clear()
            await here.becomes(auction, SagaState.COMPLETED)
            auction, saga_id = await failing(here, "credit-in")
            await compensate(here, saga_id)
            here.cable.failing.clear()
            await here.becomes(auction, SagaState.COMPENSATED)
            assert (await here.saga(auction)).failure_reason == "CALLED_OFF"
            await here.settled()

    async def test_a_retry_cuts_the_pause_short(self, engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without it the next attempt would be in ten minutes."""
        monkeypatch.setattr(steps, "BACKOFF_FIRST_S", 600.0)
        monkeypatch.setattr(steps, "BACKOFF_MAX_S", 600.0)
        async with world(engine_of) as here:
            auction, saga_id = await failing(here, "pin")
            here.cable.failing.clear()
            await admin_of(here).retry(saga_id)
            await here.settles(auction)

    async def test_a_retry_asks_after_a_silent_peer(self, engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose answer lets all others go on, too."""
        async with world(engine_of) as here:
            auctions = [await here.won(AWAY, THIRD) for _ in range(5)]
            here.cable.cut.add(AWAY)
            monkeypatch.setattr(circuit_breaker, "PROBE_FIRST_S", 600.0)
            monkeypatch.setattr(circuit_breaker, "PROBE_MAX_S", 600.0)
            for auction in auctions:
                await here.close(auction)
            await until(lambda: AWAY in here.steps.breakers and here.steps.breakers[AWAY].silent)
            # Those whose call was out by then have no answer either: now all of them wait.
            engine = here.cells[HERE].engine
            await until(lambda: not any(run.under_way for run in engine.in_flight.values()))
            here.cable.cut.clear()
            await admin_of(here).retry(await here.saga_id(auctions[0]))
            for auction in auctions:
                await here.settles(auction)

    async def test_there_is_not_always_something_to_retry(self, engine_of: EngineOf) -> None:
        """What has ended, is paused, or is another process's to drive."""
        async with world(engine_of) as here:
            auction, saga_id = await failing(here, "credit-in")
            admin = admin_of(here)
            await pause(here, saga_id)
            with pytest.raises(SagaIsPaused):
                await admin.retry(saga_id)
            await resume(here, saga_id)
            await here.step_down(HERE)
            with pytest.raises(NotLeading):
                await admin.retry(saga_id)
            here.cable.failing.clear()
            await here.lead(HERE)
            await here.becomes(auction, SagaState.COMPLETED)
            with pytest.raises(SagaHasEnded):
                await admin.retry(saga_id)
