"""What every saga engine must do. Subclassed once per engine, which brings the `engine_of` fixture.

The books look at every commit of every cell: no step done twice, money conserved at every look.
"""

from pathlib import Path

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.sagas.saga import LegState, SagaState
from cells.sagas import circuit_breaker
from lab.failpoints import Failpoints
from tests.local_cells import EngineOf, Mailbox, until
from tests.saga_world import AWAY, HERE, THIRD, world


class SagaEngineConformance:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A silent peer is asked after often."""
        monkeypatch.setattr(circuit_breaker, "PROBE_FIRST_S", 0.02)
        monkeypatch.setattr(circuit_breaker, "PROBE_MAX_S", 0.05)

    async def test_a_settlement_completes(self, engine_of: EngineOf) -> None:
        """Over three cells, each leg once, both parties told."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, THIRD)
            await here.close(auction)
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
                await here.becomes(auction, SagaState.COMPLETED)
            await here.settled()

    async def test_a_definite_refusal_leads_back(self, engine_of: EngineOf) -> None:
        """What had been done is undone, the auction's settlement has failed, and both parties are told so."""
        async with world(engine_of) as here:
            here.cells[THIRD].failpoints = Failpoints(frozenset({"refuse/credit-in/action"}))
            auction = await here.won(AWAY, THIRD)
            await here.close(auction)
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
            auction = await here.won(AWAY, THIRD)
            await here.close(auction)
            await here.is_at(auction, leg)
            saga_id = await here.saga_id(auction)
            await until(lambda: here.cells[HERE].saga_attempts(saga_id)[0] >= 2)
            assert "INTERNAL" in here.cells[HERE].saga_attempts(saga_id)[1]
            here.cable.failing.clear()
            await here.becomes(auction, SagaState.COMPLETED)
            await here.settled()

    async def test_lost_answers_are_asked_for_again(self, engine_of: EngineOf) -> None:
        """A leg that was taken unheard is taken once."""
        async with world(engine_of) as here:
            here.cable.unheard |= {"pin", "escrow-out", "credit-in", "settle", "notify-winner"}
            auction = await here.won(AWAY, THIRD)
            await here.close(auction)
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
                await here.becomes(auction, SagaState.COMPLETED)
            await here.settled()

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
    async def test_the_next_leader_goes_on(self, engine_of: EngineOf, leg: str, tmp_path: Path) -> None:
        """Whatever leg it was at when its leader went."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, THIRD)
            await here.held(auction, leg, tmp_path / "failpoints")
            await here.step_down(HERE)
            await here.lead(HERE)
            await here.becomes(auction, SagaState.COMPLETED)
            await here.settled()

    async def test_a_start_that_nobody_heard_of_is_not_lost(self, engine_of: EngineOf) -> None:
        """The saga is committed, and its leader goes before its engine has heard: the next one begins it."""
        async with world(engine_of) as here:
            auction = await here.won(AWAY, THIRD)
            here.cells[HERE].writer.followers.clear()
            await here.close(auction)
            await here.step_down(HERE)
            assert (await here.saga(auction)).cursor == 0
            await here.lead(HERE)
            await here.becomes(auction, SagaState.COMPLETED)
            await here.settled()
