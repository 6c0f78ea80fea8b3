"""Whatever is asked of a cell, in whatever order, it agrees with a model that a child could keep on paper."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cells.domain.commands import (
    CancelAuction,
    Capture,
    CloseAuction,
    Command,
    CreateAuction,
    Deposit,
    OpenAccount,
    PlaceBid,
    RegisterAsset,
    Release,
    Reserve,
    Transfer,
    Withdraw,
)
from cells.domain.decision import LedgerPolicy
from cells.domain.refusals import REFUSALS, CommandIdReused, Refused
from cells.domain.values import Money
from cells.requests import Outcome
from tests.integration.writer.cell_model import AMOUNT_MAX, BALANCE_MAX, FEE_BPS, Model, ModelAuction, ModelHold
from tests.local_cells import build_cell, request
from tests.simulation.books import Books, WatchedStore
from tests.simulation.loop import VirtualClock, virtual_loop
from tests.strategies import PATIENT

T = TypeVar("T")
CELL = "us-east"
# Time for timers to fire and for a settlement to run to its end.
SETTLES_MS = 2_000


amounts = st.integers(1, 300) | st.sampled_from([1, 100, 2**62])
# By how much a bid's maximum exceeds it; None: it has none.
more = st.none() | st.integers(0, 50)
spans_ms = st.sampled_from([700, 5_000, 60_000, 600_000])


class CellMachine(RuleBasedStateMachine):
    users = Bundle("users")
    holds = Bundle("holds")
    auctions = Bundle("auctions")

    def __init__(self) -> None:
        super().__init__()
        self.loop = virtual_loop(random.Random(0))
        self.books = Books()
        self.store = WatchedStore(CELL, self.books)
        self.model = Model()
        self.sent: list[tuple[UUID, Command, Outcome | str]] = []
        self._ids = 0
        self._lead()

    def teardown(self) -> None:
        try:
            self.books.check_store(CELL, self.store)
            self.books.check_settled()
            assert self.loop.failure is None
        finally:
            self.loop.close()

    # --- rules ------------------------------------------------------------------------------------------------------

    @initialize(target=users)
    def three_users(self) -> Any:  # noqa: ANN401 - hypothesis's own
        return multiple(self._open(), self._open(), self._open())

    @rule(target=users)
    def open_account(self) -> UUID:
        return self._open()

    @rule(user=users)
    def open_again(self, user: UUID) -> None:
        self.asks(OpenAccount(user_id=user, home_epoch=1), "ALREADY_OPEN")

    @rule(user=users, amount=amounts, reference=st.sampled_from(["a", "b", ""]))
    def deposit(self, user: UUID, amount: int, reference: str) -> None:
        reference = reference or f"bank/{self._ids}"
        total = self.model.available[user] + self.model.reserved(user)
        refusal = "EXTERNAL_REFERENCE_USED" if f"in/{reference}" in self.model.references else ""
        refusal = refusal or ("BALANCE_OVERFLOW" if total + amount > BALANCE_MAX else "")
        # What came in from outside is a sum as well, which only the database keeps.
        refusal = refusal or ("HOUSE_ACCOUNT_FULL" if amount - self.model.outside > AMOUNT_MAX else "")
        if self.asks(Deposit(user_id=user, amount=usd(amount), external_reference=reference), refusal):
            self.model.available[user] += amount
            self.model.outside -= amount
            self.model.references.add(f"in/{reference}")

    @rule(user=users, amount=amounts, reference=st.sampled_from(["a", ""]))
    def withdraw(self, user: UUID, amount: int, reference: str) -> None:
        reference = reference or f"bank/{self._ids}"
        refusal = "EXTERNAL_REFERENCE_USED" if f"out/{reference}" in self.model.references else ""
        refusal = refusal or self.lacks(user, amount)
        if self.asks(Withdraw(user_id=user, amount=usd(amount), external_reference=reference), refusal):
            self.model.available[user] -= amount
            self.model.outside += amount
            self.model.references.add(f"out/{reference}")

    @rule(payer=users, payee=users, amount=amounts)
    def transfer(self, payer: UUID, payee: UUID, amount: int) -> None:
        refusal = "SAME_ACCOUNT" if payer == payee else self.lacks(payer, amount) or self.overflows(payee, amount)
        if self.asks(Transfer(from_user_id=payer, to_user_id=payee, amount=usd(amount)), refusal):
            self.model.available[payer] -= amount
            self.model.available[payee] += amount

    @rule(target=holds, user=users, amount=amounts, lasts_ms=st.none() | spans_ms)
    def reserve(self, user: UUID, amount: int, lasts_ms: int | None) -> Any:  # noqa: ANN401 - hypothesis's own
        expires_ms = None if lasts_ms is None else self.now_ms() + lasts_ms
        command = Reserve(user_id=user, amount=usd(amount), expire_time_ms=expires_ms)
        outcome = self.asks(command, self.lacks(user, amount))
        if outcome is None:
            return multiple()
        hold_id = outcome.result.hold_id
        self.model.available[user] -= amount
        self.model.holds[hold_id] = ModelHold(user, amount, expires_ms)
        return hold_id, user

    @rule(hold=holds, payee=users, part=st.none() | amounts)
    def capture(self, hold: tuple[UUID, UUID], payee: UUID, part: int | None) -> None:
        hold_id, user = hold
        known = self.model.holds.get(hold_id)
        amount = part or (known.amount if known else 0)
        refusal = "" if known else "HOLD_NOT_FOUND"
        refusal = refusal or ("SAME_ACCOUNT" if payee == user else "")
        refusal = refusal or ("CAPTURE_TOO_LARGE" if known and amount > known.amount else "")
        refusal = refusal or self.overflows(payee, amount)
        command = Capture(user_id=user, hold_id=hold_id, to_user_id=payee, amount_minor=part)
        if self.asks(command, refusal) and known:
            self.model.available[user] += known.amount - amount
            self.model.available[payee] += amount
            del self.model.holds[hold_id]

    @rule(hold=consumes(holds))
    def release(self, hold: tuple[UUID, UUID]) -> None:
        hold_id, user = hold
        known = self.model.holds.pop(hold_id, None)
        if self.asks(Release(user_id=user, hold_id=hold_id), "" if known else "HOLD_NOT_FOUND") and known:
            self.model.available[user] += known.amount

    @initialize(target=auctions, seller=users)
    def first_auction(self, seller: UUID) -> Any:  # noqa: ANN401 - hypothesis's own
        return self._sell(self._register(seller), seller, 1, 600_000, extension_ms=0)

    @rule(target=auctions, seller=users, opening=st.integers(1, 300), lasts_ms=spans_ms, extends=st.booleans())
    def sell(self, seller: UUID, opening: int, lasts_ms: int, extends: bool) -> Any:  # noqa: ANN401, FBT001
        return self._sell(self._register(seller), seller, opening, lasts_ms, extension_ms=1_000 if extends else 0)

    @rule(target=auctions, auction_id=auctions, data=st.data())
    def sell_again(self, auction_id: UUID, data: st.DataObject) -> Any:  # noqa: ANN401 - hypothesis's own
        """Mostly by whoever has got the asset by now."""
        asset = self.model.auctions[auction_id].asset
        sellers = [self.model.owners[asset], *self.model.available]
        return self._sell(asset, data.draw(st.sampled_from(sellers)), 1, 60_000, extension_ms=0)

    @rule(data=st.data(), bidder=users, amount=amounts, more=more)
    def bid(self, data: st.DataObject, bidder: UUID, amount: int, more: int | None) -> None:
        self._bid(self._auction(data), bidder, amount, more)

    @rule(data=st.data(), bidder=users, over=st.integers(-1, 20), more=more)
    def raise_bid(self, data: st.DataObject, bidder: UUID, over: int, more: int | None) -> None:
        auction_id = self._auction(data)
        self._bid(auction_id, bidder, max(1, self.model.auctions[auction_id].least_bid(bidder) + over), more)

    @rule(data=st.data(), bidders=st.lists(users, min_size=2, max_size=5))
    def outbid_each_other(self, data: st.DataObject, bidders: list[UUID]) -> None:
        auction_id = self._auction(data)
        for bidder in bidders:
            self._bid(auction_id, bidder, self.model.auctions[auction_id].least_bid(bidder), None)

    @rule(auction_id=auctions)
    def close(self, auction_id: UUID) -> None:
        auction = self.model.auctions[auction_id]
        refusal = "" if auction.state == "ACTIVE" else "AUCTION_NOT_ACTIVE"
        outcome = self.asks(CloseAuction(auction_id=auction_id, by_command=True), refusal)
        if outcome is not None:
            self.model.close(auction)
            assert getattr(outcome.result, "bidder_id", None) == auction.leader
            assert getattr(outcome.result, "amount_minor", 0) == auction.highest
            self.passes(SETTLES_MS / 1_000)

    @rule(auction_id=auctions)
    def cancel(self, auction_id: UUID) -> None:
        auction = self.model.auctions[auction_id]
        refusal = "" if auction.state == "ACTIVE" else "AUCTION_NOT_ACTIVE"
        if self.asks(CancelAuction(auction_id=auction_id), refusal):
            self.model.release_leader(auction)
            auction.state = "CANCELLED"

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.passes(seconds)

    @rule()
    def restart(self) -> None:
        """Another process takes over where this one stepped down."""
        self.cell.stop()
        self.run(asyncio.wait_for(self.running, 60.0))
        self._lead()

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """Under an id that was used: the same answer and no effect, and for another body a refusal."""
        if not self.sent:
            return
        command_id, command, answer = data.draw(st.sampled_from(self.sent))
        position = self.books.cells[CELL].position
        again = self.execute(command, command_id)
        if isinstance(answer, Outcome):
            assert isinstance(again, Outcome)
            assert (again.result, again.position, again.hlc) == (answer.result, answer.position, answer.hlc)
            assert again.replayed
        else:
            assert again == answer
        assert self.execute(command, command_id, fingerprint=b"another") == CommandIdReused.reason
        assert self.books.cells[CELL].position == position

    # --- what must hold after each ----------------------------------------------------------------------------------

    @invariant()
    def balances_agree(self) -> None:
        for user, available in self.model.available.items():
            balance = self.run(self.cell.account(user)).state.balance("USD")
            assert (balance.available_minor, balance.reserved_minor) == (available, self.model.reserved(user))
            assert balance.pending_minor == 0
        for auction_id, auction in self.model.auctions.items():
            state = self.run(self.cell.auction(auction_id)).state
            assert state.state.value == auction.state
            assert (state.highest_bid.bidder_id if state.highest_bid else None) == auction.leader
            assert state.end_time_ms == auction.end_ms
        for asset, owner in self.model.owners.items():
            assert self.run(self.cell.asset(asset)).state.owner_id == owner

    @invariant()
    def books_agree(self) -> None:
        self.books.check_conserved()
        assert self.books.total("external") == self.model.outside
        assert self.books.total("fees") == self.model.fees

    # --- asking -----------------------------------------------------------------------------------------------------

    def asks(self, command: Command, refusal: str) -> Outcome | None:
        """Has the command executed; the answer must be what the model foresees."""
        command_id = UUID(int=self._next_id())
        answer = self.execute(command, command_id)
        if isinstance(answer, Outcome) or (REFUSALS[answer].stored and not REFUSALS[answer].stable):
            self.sent.append((command_id, command, answer))
        if refusal:
            assert answer == refusal
            return None
        assert isinstance(answer, Outcome), answer
        return answer

    def execute(self, command: Command, command_id: UUID, fingerprint: bytes = b"same") -> Outcome | str:
        try:
            return self.run(self.cell.execute(request(command, command_id=command_id, fingerprint=fingerprint)))
        except Refused as refused:
            return refused.reason

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def passes(self, seconds: float) -> None:
        """Time passes, and a little more: nothing is just falling due when cell and model are compared."""
        self.run(asyncio.sleep(seconds))
        while any(abs(due_ms - self.now_ms()) <= SETTLES_MS for due_ms in self.model.due()):
            self.run(asyncio.sleep(SETTLES_MS / 1_000))
        self.model.pass_until(self.now_ms())

    def now_ms(self) -> int:
        return self.clock.wall_ms()

    def lacks(self, user: UUID, amount: int) -> str:
        return "INSUFFICIENT_FUNDS" if amount > self.model.available[user] else ""

    def overflows(self, user: UUID, amount: int) -> str:
        total = self.model.available[user] + self.model.reserved(user) + amount
        return "BALANCE_OVERFLOW" if total > BALANCE_MAX else ""

    def _auction(self, data: st.DataObject) -> UUID:
        """One that takes bids, more often than not."""
        active = [auction_id for auction_id, auction in self.model.auctions.items() if auction.state == "ACTIVE"]
        return data.draw(st.sampled_from([*active, *active, *self.model.auctions]))

    def _bid(self, auction_id: UUID, bidder: UUID, amount: int, more: int | None) -> None:
        """`more`: by how much the maximum exceeds the amount; None: the bid has none."""
        auction, now_ms, limit = self.model.auctions[auction_id], self.now_ms(), min(AMOUNT_MAX, amount + (more or 0))
        refusal = self.model.bid_refusal(auction, bidder, limit, now_ms)
        maximum = None if more is None else usd(limit)
        bid = PlaceBid(auction_id=auction_id, auction_cell=CELL, bidder_id=bidder, amount=usd(amount), maximum=maximum)
        if self.asks(bid, refusal):
            self.model.bid(auction, bidder, amount, limit, now_ms)

    def _register(self, owner: UUID) -> UUID:
        outcome = self.asks(RegisterAsset(owner_id=owner, owner_cell=CELL, description="a lamp"), "")
        assert outcome is not None
        asset: UUID = outcome.result.asset_id
        self.model.owners[asset] = owner
        return asset

    def _sell(self, asset: UUID, seller: UUID, opening: int, lasts_ms: int, *, extension_ms: int) -> Any:  # noqa: ANN401
        active = [auction for auction in self.model.auctions.values() if auction.state == "ACTIVE"]
        refusal = "ASSET_LOCKED" if any(auction.asset == asset for auction in active) else ""
        refusal = refusal if self.model.owners[asset] == seller else "NOT_THE_OWNER"
        auction = ModelAuction(seller, asset, opening, 5, self.now_ms() + lasts_ms, extension_ms)
        command = CreateAuction(
            asset_id=asset,
            seller_id=seller,
            opening=usd(opening),
            increment_minor=auction.increment,
            end_time_ms=auction.end_ms,
            extension_ms=auction.extension_ms,
            settlement_timeout_ms=None,
        )
        outcome = self.asks(command, refusal)
        if outcome is None:
            return multiple()
        auction_id = outcome.result.auction_id
        self.model.auctions[auction_id] = auction
        return auction_id

    def _open(self) -> UUID:
        user = UUID(int=self._next_id())
        assert self.asks(OpenAccount(user_id=user, home_epoch=1), "")
        self.model.available[user] = 0
        self.deposit(user, 1_000, "")
        return user

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def _lead(self) -> None:
        self.clock = VirtualClock(self.loop)
        self.cell = build_cell(CELL, self.store, clock=self.clock, policy=LedgerPolicy(fee_bps=FEE_BPS))
        self.running = self.loop.world.start(self.cell.run())
        self.passes(1.5)


def usd(amount: int) -> Money:
    return Money("USD", amount)


TestCellMachine = CellMachine.TestCase
TestCellMachine.settings = settings(
    PATIENT,
    max_examples=60,
    stateful_step_count=40,
    database=None,
    derandomize=True,
    # To shorten a failing story takes minutes: add Phase.shrink when there is one.
    phases=[Phase.generate],
)
