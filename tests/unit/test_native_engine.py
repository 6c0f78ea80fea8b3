"""The native engine, while one of its peers is away: cells in memory, calling each other directly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from cells.cell import Cell
from cells.domain.auction import AuctionState
from cells.domain.commands import CloseAuction, PlaceBid
from cells.domain.saga import LegState, Saga, SagaState
from cells.domain.values import Direction, Money
from cells.failpoints import Failpoints
from cells.memory import MemoryStore
from cells.ports import LegAnswer, LegCall, PeerUnknown
from cells.sagas import gates, steps
from cells.sagas.native import NativeEngine
from tests.local_cells import (
    DirectPeers,
    FixedDirectory,
    Mailbox,
    build_cell,
    leading,
    open_auction,
    open_user,
    request,
    until,
    until_async,
)

HERE, AWAY, THIRD = "us-east", "eu-west", "ap-tokyo"
PRICE_MINOR = 1_000


@dataclass(slots=True)
class Cable(DirectPeers):
    """Calls into a cell that is cut off vanish; their callers hear nothing before their timeout."""

    timeout_s: float = 0.02
    lost: int = 0
    failing: set[str] = field(default_factory=set)

    async def apply_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        await self._on_its_way(cell, call)
        return await DirectPeers.apply_leg(self, cell, call, timeout_s=timeout_s)

    async def compensate_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        await self._on_its_way(cell, call)
        return await DirectPeers.compensate_leg(self, cell, call, timeout_s=timeout_s)

    async def _on_its_way(self, cell: str, call: LegCall) -> None:
        if cell in self.cut:
            await asyncio.sleep(self.timeout_s)
            self.lost += 1
            raise PeerUnknown(f"{cell}: no answer")
        if call.leg_id.leg in self.failing:
            raise PeerUnknown(f"{cell}: INTERNAL", answered=True)


@dataclass(slots=True, kw_only=True)
class World:
    cells: dict[str, Cell]
    cable: Cable
    directory: FixedDirectory

    async def won(self, winner_cell: str, seller_cell: str = HERE, timeout_ms: int | None = None) -> UUID:
        """An auction here, just closed, and its winner's cell's hold; returns the auction."""
        winner = await open_user(self.cells[winner_cell], PRICE_MINOR, self.directory)
        seller = await open_user(self.cells[seller_cell], 0, self.directory)
        auction = await open_auction(self.cells[HERE], seller, seller_cell=seller_cell, timeout_ms=timeout_ms)
        bid = PlaceBid(auction_id=auction, auction_cell=HERE, bidder_id=winner, amount=Money("USD", PRICE_MINOR))
        await self.cells[winner_cell].execute(request(bid))
        return auction

    async def close(self, auction: UUID) -> None:
        await self.cells[HERE].execute(request(CloseAuction(auction_id=auction, by_command=True)))

    async def saga(self, auction: UUID) -> Saga:
        saga_id = (await self.cells[HERE].auction(auction)).state.saga_id
        assert saga_id is not None
        return (await self.cells[HERE].saga(saga_id)).state

    async def becomes(self, auction: UUID, state: SagaState) -> None:
        async def so() -> bool:
            return (await self.saga(auction)).state is state

        await until_async(so)

    async def is_at(self, auction: UUID, leg: str) -> None:
        async def so() -> bool:
            spec = (await self.saga(auction)).current
            return spec is not None and spec.leg == leg

        await until_async(so)

    async def leg(self, auction: UUID, leg: str) -> LegState:
        saga = await self.saga(auction)
        return next(each.state for spec, each in zip(saga.specs, saga.legs, strict=True) if spec.leg == leg)

    async def held(self, auction: UUID, leg: str, failpoints: Path) -> None:
        """Closes the auction, and has its settlement held before the leg, until the file is removed."""
        failpoints.write_text(f"hold/{leg}/action\n")
        self.engine.steps.failpoints = Failpoints(frozenset({f"@{failpoints}"}))
        await self.close(auction)
        await self.is_at(auction, leg)

    @property
    def engine(self) -> NativeEngine:
        engine = self.cells[HERE].engine
        assert isinstance(engine, NativeEngine)
        return engine


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    cable, directory = Cable(), FixedDirectory()
    cells = {
        name: build_cell(name, MemoryStore(name), peers=cable, directory=directory) for name in (HERE, AWAY, THIRD)
    }
    async with leading(*cells.values()):
        yield World(cells=cells, cable=cable, directory=directory)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each saga's own patience is long: only a peer's answer can let it go on within the test's."""
    monkeypatch.setattr(gates, "PROBE_FIRST_S", 0.02)
    monkeypatch.setattr(gates, "PROBE_MAX_S", 0.05)
    monkeypatch.setattr(steps, "BACKOFF_MAX_S", 600.0)
    monkeypatch.setattr(steps, "BACKOFF_FACTOR", 20.0)
    monkeypatch.setattr(steps, "BACKOFF_FIRST_S", 0.001)


async def test_legs_to_a_silent_peer_hold_up_none_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more stranded sagas than there are slots, the next one, to another cell, settles at once."""
    monkeypatch.setattr(gates, "CALLS_MAX", 4)
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
    """Ablation: where all peers share one gate, those that wait for one peer keep out all others."""
    monkeypatch.setattr(gates, "CALLS_MAX", 4)
    async with world() as here:
        shared = gates.Gate(random=here.engine.steps.random)
        here.engine.steps._gates.update({AWAY: shared, THIRD: shared})
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
    """While the peer is away few calls are lost to it; once it is back all settle, though each alone would wait."""
    async with world() as here:
        stranded = [await here.won(AWAY) for _ in range(60)]
        here.cable.cut.add(AWAY)
        for auction in stranded:
            await here.close(auction)
        await until(lambda: here.cable.lost > 62)
        assert here.engine.steps._gates[AWAY].silent
        here.cable.cut.clear()
        for auction in stranded:
            await here.becomes(auction, SagaState.COMPLETED)


async def test_a_deadline_passes_though_the_peer_was_never_asked() -> None:
    """Behind a silent peer a saga turns back in time, and is undone once the peer is there again."""
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
        for auction in stranded:
            await here.becomes(auction, SagaState.COMPLETED)


async def test_a_notice_waits_for_a_cell_that_is_away(tmp_path: Path) -> None:
    """Nobody goes without their notice for a cut; it is sent when the cell is back."""
    async with world() as here:
        auction = await here.won(AWAY)
        await here.held(auction, "notify-winner", tmp_path / "failpoints")
        here.cable.cut.add(AWAY)
        (tmp_path / "failpoints").unlink()
        await until(lambda: here.cable.lost > steps.BEST_EFFORT_ATTEMPTS_MAX + 2)
        assert (await here.saga(auction)).state is SagaState.COMMITTED
        here.cable.cut.clear()
        await here.becomes(auction, SagaState.COMPLETED)
        mailbox = here.cells[AWAY].notifier
        assert isinstance(mailbox, Mailbox)
        assert [notice for _, notice in mailbox.sent] == ["AUCTION_WON"]


async def test_a_notice_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    """A cell that stays away holds the settlement open no longer than the settlement itself might have taken."""
    async with world() as here:
        auction = await here.won(AWAY, timeout_ms=1_000)
        await here.held(auction, "notify-winner", tmp_path / "failpoints")
        here.cable.cut.add(AWAY)
        (tmp_path / "failpoints").unlink()
        await here.becomes(auction, SagaState.COMPLETED)
        assert await here.leg(auction, "notify-winner") is LegState.SKIPPED
        assert await here.leg(auction, "notify-seller") is LegState.DONE


async def test_a_notice_whose_cell_fails_at_it_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is a failure counts: after a few of them the settlement is over."""
    monkeypatch.setattr(steps, "BACKOFF_FACTOR", 1.0)
    async with world() as here:
        here.cable.failing.add("notify-winner")
        auction = await here.won(AWAY)
        await here.close(auction)
        await here.becomes(auction, SagaState.COMPLETED)
        assert await here.leg(auction, "notify-winner") is LegState.SKIPPED


async def test_a_mail_server_that_fails_halts_no_settlement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notice in the settlement's own cell is given up like any other."""

    async def fails(*_: object, **__: object) -> str:
        raise ConnectionError("no mail server")

    monkeypatch.setattr(steps, "BACKOFF_FACTOR", 1.0)
    monkeypatch.setattr(Mailbox, "notify", fails)
    async with world() as here:
        auction = await here.won(AWAY)
        await here.close(auction)
        await here.becomes(auction, SagaState.COMPLETED)
        assert await here.leg(auction, "notify-seller") is LegState.SKIPPED


async def test_a_failpoint_in_a_file_holds_until_it_is_taken_out(tmp_path: Path) -> None:
    """A saga is held before the leg that the file names, and goes on when the file names it no more."""
    file = tmp_path / "failpoints"
    async with world() as here:
        auction = await here.won(AWAY)
        await here.held(auction, "credit-out", file)
        failpoints = here.engine.steps.failpoints
        await asyncio.wait_for(failpoints.hold("pin", Direction.ACTION), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(failpoints.hold("credit-out", Direction.ACTION), 0.2)
        file.unlink()
        await here.becomes(auction, SagaState.COMPLETED)
