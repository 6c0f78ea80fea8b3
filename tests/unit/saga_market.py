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
from cells.domain.sagas.saga_events import ReleaseFacts, SagaStarted
from cells.domain.sagas.saga_rules import action_of, leg_id_of
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from cells.domain.values import Kind
from tests.unit.given import NOON_MS, World, uid, usd

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

    def expire(self, by_ms: int = 120_000) -> None:
        """Time passes in all cells."""
        for world in self.worlds.values():
            world.now_ms += by_ms

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
        money = events.Deposited(currency="USD", amount_minor=1_000, external_reference="ann")
        self.worlds[WINNER].given(Kind.ACCOUNT, "ann", events.AccountOpened(home_epoch=1), money)
        self.worlds[SELLER].given(Kind.ACCOUNT, "sue", events.AccountOpened(home_epoch=1))
        auction = events.AuctionCreated(
            asset_id=uid("lamp"),
            seller_id=uid("sue"),
            seller_cell=SELLER,
            currency="USD",
            opening_minor=100,
            increment_minor=1,
            end_time_ms=END_MS,
            extension_ms=0,
            settlement_timeout_ms=60_000,
        )
        registered = events.AssetRegistered(owner_id=uid("sue"), owner_cell=SELLER, description="lamp")
        there = self.worlds[AUCTION]
        there.given(Kind.ASSET, "lamp", registered, events.AssetLockTaken(auction_id=uid("sale")))
        there.given(Kind.AUCTION, "sale", auction)

    def bid(self, amount_minor: int) -> UUID:
        """Ann bids from home; the saga that submits the bid."""
        command = commands.PlaceBid(
            auction_id=uid("sale"), auction_cell=AUCTION, bidder_id=uid("ann"), amount=usd(amount_minor)
        )
        return self.worlds[WINNER].decided(command).uncommitted[0].aggregate.id

    def close(self) -> UUID:
        decision = self.worlds[AUCTION].decided(commands.CloseAuction(auction_id=uid("sale"), by_command=True))
        assert isinstance(decision.result, Sold)
        return decision.result.saga_id

    def won(self) -> UUID:
        """Ann has won; the settlement is about to begin."""
        self.run(self.bid(PRICE))
        return self.close()

    def buckets(self, cell: str, name: str) -> tuple[int, int, int]:
        return self.worlds[cell].money(name)

    def auction(self) -> Auction:
        state = self.worlds[AUCTION].state(Kind.AUCTION, "sale")
        assert isinstance(state, Auction)
        return state

    def lamp(self) -> Asset:
        state = self.worlds[AUCTION].state(Kind.ASSET, "lamp")
        assert isinstance(state, Asset)
        return state

    def assert_nothing_happened(self) -> None:
        """As before the auction was won: the money is Ann's, the lamp is Sue's."""
        assert self.buckets(WINNER, "ann") == (1_000, 0, 0)
        assert self.buckets(SELLER, "sue") == (0, 0, 0)
        assert self.lamp().owner_id == uid("sue")
        assert self.lamp().locked_by is None
        assert self.auction().state is AuctionState.SETTLEMENT_FAILED
        assert self.auction().escrow_minor == 0
        assert self.in_transit() == {}


def outbid_releases(market: Market) -> list[UUID]:
    """The sagas that release outbid bids."""
    log = market.worlds[AUCTION].log
    return [
        aggregate.id
        for aggregate, event in log
        if isinstance(event, SagaStarted) and isinstance(event.facts, ReleaseFacts)
    ]
