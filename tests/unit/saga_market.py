"""A market over three cells, as rules alone; the tests do the engine's work by hand."""

from uuid import UUID

from cells.domain import commands, events
from cells.domain.account.barrier import LegCommand, direction_of
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState
from cells.domain.decision import Ending
from cells.domain.event import postings
from cells.domain.refusals import Refused
from cells.domain.results import Result, Sold
from cells.domain.sagas.leg import LegMark
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import SagaStarted
from cells.domain.sagas.saga_rules import DEADLINE_EXCEEDED, action_of, leg_id_of
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from cells.domain.values import Kind
from tests.unit.given import NOON_MS, OPENED, S, World, deposited, uid
from tests.unit.sales import bid, created, with_sale

WINNER, AUCTION, SELLER = "us-east", "eu-west", "ap-tokyo"
END_MS = NOON_MS + 3_600_000
PRICE = 700
BEFORE_PIVOT = [spec.leg for spec in SETTLEMENT_LEGS[:6]]


def record(command: LegCommand, mark: LegMark) -> commands.RecordLeg:
    """The answer of another cell to a leg."""
    return commands.RecordLeg(leg_id=command.leg_id, direction=direction_of(command), mark=mark)


class Cells:
    """Cells that know only the rules: the tests do the engine's work by hand."""

    worlds: dict[str, World]
    # Commands that have ended with their sagas.
    endings: list[Ending]

    def __init__(self, *cells: str) -> None:
        self.worlds, self.endings = {cell: World(cell=cell) for cell in cells}, []

    def saga(self, saga_id: UUID) -> tuple[World, Saga]:
        for world in self.worlds.values():
            state = world.state(Kind.SAGA, saga_id)
            if isinstance(state, Saga):
                return world, state
        raise LookupError(saga_id)

    def command(self, saga_id: UUID) -> tuple[str, LegCommand]:
        """The next call of the engine, and the cell that it calls."""
        home, saga = self.saga(saga_id)
        leg_id, action = leg_id_of(saga, saga_id), action_of(saga, saga_id)
        spec = saga.current
        assert spec is not None
        kind = commands.CompensateLeg if saga.state is SagaState.COMPENSATING else commands.ApplyLeg
        return saga.cell_of(spec), kind(leg_id=leg_id, action=action, orchestrator=home.cell)

    def take(self, saga_id: UUID) -> None:
        """The called cell decides the next call, and its answer is lost."""
        cell, command = self.command(saga_id)
        self.worlds[cell].decided(command)

    def step(self, saga_id: UUID, *, refuse: str | None = None, times: int = 1) -> None:
        """Takes the current leg, `times` times, and records its result."""
        home, _ = self.saga(saga_id)
        cell, command = self.command(saga_id)
        if isinstance(command, commands.ApplyLeg) and command.leg_id.leg == refuse:
            self.fail(saga_id, "TEST_REFUSAL")
            return
        try:
            for _ in range(times):
                result = self.worlds[cell].decided(command).result
        except Refused as error:
            self.fail(saga_id, error.reason, covers_leg=not error.stable, facts=error.facts)
            return
        if cell != home.cell:
            self.heard(saga_id, command, result)

    def at_home(self, saga_id: UUID, command: commands.Command) -> list[events.AnyEvent]:
        """Decides a command in the saga's home; returns its events, and keeps what ends with the saga."""
        decision = self.saga(saga_id)[0].decided(command)
        self.endings += decision.endings
        return [uncommitted.event for uncommitted in decision.uncommitted]

    def heard(self, saga_id: UUID, command: LegCommand, result: Result) -> list[events.AnyEvent]:
        """Records the answer of another cell."""
        assert isinstance(result, LegMark)
        return self.at_home(saga_id, record(command, result))

    def fail(
        self, saga_id: UUID, reason: str, *, covers_leg: bool = True, facts: dict[str, str | int] | None = None
    ) -> list[events.AnyEvent]:
        _, saga = self.saga(saga_id)
        command = commands.FailSaga(
            leg_id=leg_id_of(saga, saga_id),
            failure_reason=reason,
            failure_message="",
            failure_facts={name: str(value) for name, value in (facts or {}).items()},
            covers_leg=covers_leg,
        )
        return self.at_home(saga_id, command)

    def run(self, saga_id: UUID, *, refuse: str | None = None, times: int = 1) -> Saga:
        for _ in range(50):
            if self.saga(saga_id)[1].ended:
                return self.saga(saga_id)[1]
            self.step(saga_id, refuse=refuse, times=times)
        raise AssertionError(self.saga(saga_id)[1])

    def run_until(self, saga_id: UUID, leg: str) -> None:
        while (current := self.saga(saga_id)[1].current) is not None and current.leg != leg:
            self.step(saga_id)

    def run_out(self, saga_id: UUID, by_ms: int = 120_000) -> list[events.AnyEvent]:
        """Time passes in all cells, and the engine reports that the saga's is over."""
        for world in self.worlds.values():
            world.now_ms += by_ms
        return self.fail(saga_id, DEADLINE_EXCEEDED)

    def in_transit(self) -> dict[UUID, int]:
        """Clearing movement -> the amount that has left one cell and not arrived in the other."""
        legs: dict[UUID, int] = {}
        for world in self.worlds.values():
            for aggregate, event in world.log:
                for line in postings(event, aggregate.id):
                    if line.account.startswith("clearing/"):
                        clearing_id: UUID = event.clearing_id  # type: ignore[union-attr]
                        legs[clearing_id] = legs.get(clearing_id, 0) + line.amount_minor
        return {leg: amount for leg, amount in legs.items() if amount}


class Market(Cells):
    """Three cells: Ann is at home in the first, the lamp is sold in the second, Sue lives in the third."""

    def __init__(self) -> None:
        super().__init__(WINNER, AUCTION, SELLER)
        self.worlds[WINNER].given(Kind.ACCOUNT, "ann", OPENED, deposited(1_000))
        self.worlds[SELLER].given(Kind.ACCOUNT, "sue", OPENED)
        with_sale(self.worlds[AUCTION], created(seller_cell=SELLER, increment_minor=1, end_time_ms=END_MS))

    def bid(self, amount_minor: int) -> UUID:
        """Ann bids from home; the saga that submits the bid."""
        command = bid("ann", amount_minor, cell=AUCTION)
        return self.worlds[WINNER].decided(command).uncommitted[0].aggregate.id

    def close(self) -> UUID:
        decision = self.worlds[AUCTION].decided(commands.CloseAuction(auction_id=uid("sale"), by_command=True))
        assert isinstance(decision.result, Sold)
        return decision.result.saga_id

    def won(self, next_leg: str = "pin") -> UUID:
        """Ann has won; the settlement has come to this leg."""
        self.run(self.bid(PRICE))
        saga_id = self.close()
        self.run_until(saga_id, next_leg)
        return saga_id

    def logged(self, kind: type[S], cell: str = AUCTION) -> list[S]:
        """The events of this kind in the cell's log."""
        return [event for _, event in self.worlds[cell].log if isinstance(event, kind)]

    def started(self, kind: type[object]) -> list[UUID]:
        """The sagas of this kind that the auction's cell has started."""
        log = self.worlds[AUCTION].log
        return [ref.id for ref, event in log if isinstance(event, SagaStarted) and isinstance(event.facts, kind)]

    def buckets(self, cell: str, name: str) -> tuple[int, int, int]:
        return self.worlds[cell].money(name)

    def auction(self) -> Auction:
        return self.worlds[AUCTION].the(Auction, "sale")

    def lamp(self) -> Asset:
        return self.worlds[AUCTION].the(Asset, "lamp")

    def assert_nothing_happened(self) -> None:
        """As before the auction was won: the money is Ann's, the lamp is Sue's."""
        assert self.buckets(WINNER, "ann") == (1_000, 0, 0)
        assert self.buckets(SELLER, "sue") == (0, 0, 0)
        assert self.lamp().owner_id == uid("sue")
        assert self.lamp().locked_by is None
        assert self.auction().state is AuctionState.SETTLEMENT_FAILED
        assert self.auction().escrow_minor == 0
        assert self.in_transit() == {}
