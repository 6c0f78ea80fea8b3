"""People who move in the middle of auctions and settlements: every leg finds them, and every cent with them."""

from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

import pytest

from cells.domain.commands import ApplyLeg, CompensateSaga, CreditPending, PinHold, PlaceBid
from cells.domain.sagas import leg_rules
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.saga import SagaState
from cells.domain.values import Direction, LegId, Money
from cells.moves import marks
from cells.store.ports import LegCall, PeerUnknown
from server.shell.rpc import Metadata
from tests.doubles.failpoints import Failpoints
from tests.integration.moves.moves_rig import do, move, until_has, without_books
from tests.local_cells import available, open_auction, open_user, request, until, until_async
from tests.saga_world import AWAY, HERE, PRICE_MINOR, THIRD, Cable, World, world
from tests.simulation.ground import Broken

LEGS = ("pin", "escrow-out", "escrow-in", "credit-out", "credit-in", "ownership", "settle", "notify-winner")
FEE_MINOR = 25


async def auction_here(here: World) -> UUID:
    return await open_auction(here.cells[HERE], await open_user(here.cells[HERE], 0, here.directory))


async def bids(here: World, cell: str, user: UUID, auction: UUID, amount_minor: int) -> None:
    command = PlaceBid(auction_id=auction, auction_cell=HERE, bidder_id=user, amount=Money("USD", amount_minor))
    await do(here, cell, command, user)


@pytest.mark.parametrize(("home", "to"), [(HERE, AWAY), (AWAY, THIRD), (AWAY, HERE)])
async def test_an_outbid_leader_is_released_where_they_live_now(town: World, home: str, to: str) -> None:
    """The hold went along; the auction, which knows of the old home alone, finds the new one."""
    ann = await open_user(town.cells[home], 1_000, town.directory)
    bob = await open_user(town.cells[HERE], 1_000, town.directory)
    auction = await auction_here(town)
    await bids(town, home, ann, auction, 300)
    await move(town, ann, to, at=home)
    assert await available(town.cells[to], ann) == 700
    await bids(town, HERE, bob, auction, 400)
    await until_has(town, to, ann, 1_000)


async def test_a_leader_who_has_moved_bids_on(town: World) -> None:
    """The larger bid comes from the new home, and the one hold there is as large as the larger of the two."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    auction = await auction_here(town)
    await bids(town, HERE, ann, auction, 300)
    await move(town, ann, AWAY)
    await bids(town, AWAY, ann, auction, 400)
    account = town.cells[AWAY].account
    await until_async(
        lambda: account(ann), lambda found: [hold.amount_minor for hold in found.state.holds.values()] == [400]
    )
    await town.close(auction)
    await town.becomes(auction, SagaState.COMPLETED)
    assert await available(town.cells[AWAY], ann) == 600


async def parties(here: World, auction: UUID) -> tuple[UUID, UUID]:
    state = (await here.cells[HERE].auction(auction)).state
    assert state.highest_bid is not None
    return state.highest_bid.bidder_id, state.seller_id


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("winner_cell", [HERE, AWAY])
async def test_a_settlement_finds_both_parties_wherever_it_stands(town: World, leg: str, winner_cell: str) -> None:
    """Winner and seller move while it is held before the leg; it completes, each paid and charged once."""
    auction = await town.won(winner_cell, AWAY)
    winner, seller = await parties(town, auction)
    async with town.held(auction, leg):
        await move(town, winner, THIRD, at=winner_cell)
        await move(town, seller, HERE, at=AWAY)
    await town.becomes(auction, SagaState.COMPLETED)
    assert await available(town.cells[THIRD], winner) == 0
    assert await available(town.cells[HERE], seller) == PRICE_MINOR - FEE_MINOR


async def turns_back(here: World, auction: UUID, leg: str, *, called_off: bool) -> None:
    """By an operator's word, while the leg is on its way; or since the leg is refused for good."""
    if called_off:
        order = CompensateSaga(saga_id=await here.saga_id(auction), note="test")
        await here.cells[HERE].execute(request(order))
    for cell in () if called_off else here.cells.values():
        cell.failpoints = Failpoints(frozenset({f"refuse/{leg}/action"}))


@pytest.mark.parametrize(
    ("leg", "how"), [*((leg, "refused") for leg in LEGS[:6]), ("escrow-out", "called off"), ("credit-in", "called off")]
)
@pytest.mark.parametrize("winner_cell", [HERE, AWAY])
async def test_a_settlement_that_turns_back_finds_both_parties(
    town: World, leg: str, how: str, winner_cell: str
) -> None:
    """After both have moved: what had left the winner's old home comes back to the new one."""
    auction = await town.won(winner_cell, AWAY)
    winner, seller = await parties(town, auction)
    async with town.held(auction, leg):
        await move(town, winner, THIRD, at=winner_cell)
        await move(town, seller, HERE, at=AWAY)
        await turns_back(town, auction, leg, called_off=how == "called off")
    await town.becomes(auction, SagaState.COMPENSATED)
    assert await available(town.cells[THIRD], winner) == PRICE_MINOR
    assert await available(town.cells[HERE], seller) == 0


async def test_a_settlement_finds_a_winner_who_moves_again_and_back(town: World) -> None:
    """Through three homes, the last of which is the first: what was done there before is not done again."""
    auction = await town.won(AWAY, HERE)
    winner, _ = await parties(town, auction)
    async with town.held(auction, "ownership"):
        await move(town, winner, THIRD, at=AWAY)
        await move(town, winner, AWAY, at=THIRD)
        await turns_back(town, auction, "ownership", called_off=False)
    await town.becomes(auction, SagaState.COMPENSATED)
    assert await available(town.cells[AWAY], winner) == PRICE_MINOR


async def test_without_the_legs_that_are_carried_the_money_stays_between_the_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ablation: the new home knows of no payment, and bars it instead of taking it back."""
    monkeypatch.setattr(marks, "LEGS", frozenset())
    async with world() as here:
        auction = await here.won(AWAY, HERE)
        winner, _ = await parties(here, auction)
        async with here.held(auction, "ownership"):
            await move(here, winner, THIRD, at=AWAY)
            await turns_back(here, auction, "ownership", called_off=False)
        await here.becomes(auction, SagaState.COMPENSATED)
        with pytest.raises(Broken, match="still on its way"):
            await here.settled()


def calls_noted(monkeypatch: pytest.MonkeyPatch) -> dict[str, LegCall]:
    """The last call for each leg from now on."""
    calls: dict[str, LegCall] = {}
    on_its_way = Cable._on_its_way

    async def noted(self: Cable, cell: str, call: LegCall) -> None:
        calls[call.leg_id.leg] = call
        await on_its_way(self, cell, call)

    monkeypatch.setattr(Cable, "_on_its_way", noted)
    return calls


async def changed_by_late_calls(here: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The seller is settled with at another home, and back: then the same calls reach the first home, late."""
    calls = calls_noted(monkeypatch)
    auction = await here.won(THIRD, AWAY)
    _, seller = await parties(here, auction)
    await move(here, seller, THIRD, at=AWAY)
    await here.close(auction)
    await here.becomes(auction, SagaState.COMPLETED)
    await move(here, seller, AWAY, at=THIRD)
    written = len(here.stores[AWAY].log)
    for leg in ("credit-in", "settle", "notify-seller"):
        await here.cable.request_leg(AWAY, calls[leg], Direction.ACTION, timeout_s=1)
    return [row.event_type for row in here.stores[AWAY].log[written:]]


async def test_a_call_that_two_moves_have_overtaken_changes_nothing(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done at a home in between is known at the one that is come back to."""
    assert await changed_by_late_calls(town, monkeypatch) == []


async def test_without_the_legs_that_are_carried_a_late_call_pays_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation."""
    monkeypatch.setattr(marks, "LEGS", frozenset())
    async with without_books(monkeypatch) as here:
        twice = await changed_by_late_calls(here, monkeypatch)
    assert twice == ["PENDING_CREDITED", "PENDING_SETTLED", "PARTY_NOTIFIED"]


async def pin_of(here: World, auction: UUID) -> LegCall:
    state = (await here.cells[HERE].auction(auction)).state
    bid = state.highest_bid
    assert bid is not None
    pin = PinHold(user_id=bid.bidder_id, auction_id=auction, bid_id=bid.bid_id, amount=Money("USD", PRICE_MINOR))
    leg_id, cause = LegId(await here.saga_id(auction), "pin", 1), here.stores[HERE].log[-1].event_id
    return LegCall(leg_id=leg_id, action=pin, orchestrator=HERE, causation_id=cause, user_id=bid.bidder_id)


async def test_a_hold_that_was_freed_before_its_owner_moved_is_not_freed_again(town: World) -> None:
    """The answer was lost, and the settlement asks at the new home: that knows it, and does nothing."""
    auction = await town.won(HERE, AWAY)
    winner, _ = await parties(town, auction)
    await turns_back(town, auction, "pin", called_off=False)
    await town.close(auction)
    await town.becomes(auction, SagaState.COMPENSATED)
    await move(town, winner, THIRD, at=HERE)
    written = len(town.stores[THIRD].log)
    answer = await town.cable.request_leg(THIRD, await pin_of(town, auction), Direction.COMPENSATION, timeout_s=1)
    assert town.stores[THIRD].log[written:] == []
    assert answer.result is LegResult.UNDONE
    assert await available(town.cells[THIRD], winner) == PRICE_MINOR


async def test_a_hold_that_was_pinned_before_its_owner_moved_twice_is_pinned(town: World) -> None:
    """The answer was lost, and the settlement asks at the second new home: that has the pin."""
    auction = await town.won(AWAY, HERE)
    winner, _ = await parties(town, auction)
    async with town.held(auction, "escrow-out"):
        await move(town, winner, THIRD, at=AWAY)
        await move(town, winner, HERE, at=THIRD)
        written = len(town.stores[HERE].log)
        pin = ApplyLeg(leg_id=(call := await pin_of(town, auction)).leg_id, action=call.action, orchestrator=HERE)
        answer = await town.cells[HERE].execute(request(pin))
        assert answer.result.result is LegResult.APPLIED
        assert town.stores[HERE].log[written:] == []
    await town.becomes(auction, SagaState.COMPLETED)


async def test_a_release_that_two_moves_have_overtaken_changes_nothing(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was done at a home in between, and reaches the first one late."""
    calls = calls_noted(monkeypatch)
    ann = await open_user(town.cells[AWAY], 1_000, town.directory)
    bob = await open_user(town.cells[HERE], 1_000, town.directory)
    auction = await auction_here(town)
    await bids(town, AWAY, ann, auction, 300)
    await move(town, ann, THIRD, at=AWAY)
    await bids(town, HERE, bob, auction, 400)
    await until_has(town, THIRD, ann, 1_000)
    await move(town, ann, AWAY, at=THIRD)
    written = len(town.stores[AWAY].log)
    await town.cable.request_leg(AWAY, calls["release"], Direction.ACTION, timeout_s=1)
    assert town.stores[AWAY].log[written:] == []


@pytest.fixture
def delayed(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Awaitable[LegMark]]]:
    """Calls for the credit that are delayed on their way, for the test to deliver: all that a home would take."""
    calls: list[Callable[[], Awaitable[LegMark]]] = []
    deliver = Cable._deliver

    async def late(self: Cable, cell: str, call: LegCall, direction: Direction, said: Metadata) -> LegMark:
        if not isinstance(call.action, CreditPending) or direction is not Direction.ACTION:
            return await deliver(self, cell, call, direction, said)
        # Raises WrongCell at a home that the seller has left.
        await self.cells[cell].account(call.action.user_id)
        calls.append(partial(deliver, self, cell, call, direction, said))
        raise PeerUnknown("no answer")

    monkeypatch.setattr(Cable, "_deliver", late)
    return calls


async def undone_elsewhere(here: World, delayed: list[Callable[[], Awaitable[LegMark]]]) -> UUID:
    """The seller moves before the first call arrives, the credit is undone at the new home, and the seller returns."""
    auction = await here.won(THIRD, AWAY)
    _, seller = await parties(here, auction)
    await here.close(auction)
    await until(lambda: delayed)
    await move(here, seller, THIRD, at=AWAY)
    await until(lambda: len(delayed) > 1)
    await turns_back(here, auction, "credit-in", called_off=True)
    await here.becomes(auction, SagaState.COMPENSATED)
    await move(here, seller, AWAY, at=THIRD)
    return seller


async def test_a_credit_that_was_undone_elsewhere_is_not_taken_when_the_seller_is_back(
    town: World, delayed: list[Callable[[], Awaitable[LegMark]]]
) -> None:
    """The tombstone stays in the cell that it was left in. The call is older than the seller's return."""
    seller = await undone_elsewhere(town, delayed)
    written = len(town.stores[AWAY].log)
    with pytest.raises(PeerUnknown, match="send it again"):
        await delayed[0]()
    assert town.stores[AWAY].log[written:] == []
    assert (await town.cells[AWAY].account(seller)).state.balance("USD").total_minor == 0


async def test_without_the_time_of_the_call_the_late_credit_makes_money(
    delayed: list[Callable[[], Awaitable[LegMark]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ablation."""
    monkeypatch.setattr(leg_rules, "require_sent_since_arrival", lambda *_: None)
    async with without_books(monkeypatch) as here:
        seller = await undone_elsewhere(here, delayed)
        await delayed[0]()
        balance = (await here.cells[AWAY].account(seller)).state.balance("USD")
    assert balance.total_minor == PRICE_MINOR
