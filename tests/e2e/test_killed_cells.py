"""kill -9 at every leg and every compensation: before send, after commit and before the reply is recorded.

Real processes, real PostgreSQL. One settlement is led through all its legs; the process dies at each place, is started
again, and goes on from the log alone. In the end nothing has happened twice and nothing is missing.
"""

import asyncio
from pathlib import Path

import pytest

from cellbook.v1 import auction_pb2
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from lab.market import Won
from server.cli.client import LedgerRefusal
from tests.e2e.cluster import AUCTION_CELL, FUNDS_MINOR, SELLER_CELL, WINNER_CELL, Town, town

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.slow]

CELL_OF = {"winner_cell": WINNER_CELL, "auction_cell": AUCTION_CELL, "seller_cell": SELLER_CELL}
BEST_EFFORT = {spec.leg for spec in SETTLEMENT_LEGS if spec.best_effort}
LEGS = [(spec.leg, CELL_OF[spec.at]) for spec in SETTLEMENT_LEGS]
UNDONE = [(spec.leg, CELL_OF[spec.at]) for spec in reversed(SETTLEMENT_LEGS[:6])]


def places(legs: list[tuple[str, str]], direction: str) -> list[tuple[str, str]]:
    """(who dies, where), in the order in which a settlement passes them. The orchestrator is the auction's cell."""
    found = []
    for leg, cell in legs:
        found.append((AUCTION_CELL, f"before-send/{leg}/{direction}"))
        # A best-effort leg is given up when its cell stays away: that one dies elsewhere.
        if leg not in BEST_EFFORT:
            found.append((cell, f"after-commit/{leg}/{direction}"))
        if cell != AUCTION_CELL:
            found.append((AUCTION_CELL, f"before-record/{leg}/{direction}"))
    return found


async def lead_on(here: Town, route: list[tuple[str, str]], always: str = "") -> None:
    """At each place of the route its victim dies, and is started again with its own next place."""
    for index, (victim, _) in enumerate(route):
        await here.dies(victim)
        await here.check(settled=False)
        here.start(victim, *armed(victim, route[index + 1 :], always))


def armed(victim: str, route: list[tuple[str, str]], always: str) -> list[str]:
    """The failpoints of a process: the next place where it is to die, and what the orchestrator always has."""
    place = next((place for who, place in route if who == victim), "")
    return [name for name in (place, always if victim == AUCTION_CELL else "") if name]


def close(here: Town, won: Won) -> asyncio.Task[object]:
    """Closes the auction; its cell may die before it can answer, and then the same command is sent again."""
    return asyncio.create_task(here.market.close(won.auction))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("legs", "direction", "always", "ends"),
    [
        (LEGS, "action", "", auction_pb2.AUCTION_STATE_SETTLED),
        (UNDONE, "compensation", "refuse/ownership/action", auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED),
    ],
    ids=["forward", "back"],
)
async def test_a_settlement_survives_a_kill_at_every_leg(
    tmp_path: Path, legs: list[tuple[str, str]], direction: str, always: str, ends: auction_pb2.AuctionState.ValueType
) -> None:
    """Each leg is taken, or where the pivot is refused undone, exactly once, whoever dies and whenever."""
    route = places(legs, direction)
    async with town(tmp_path, {cell: armed(cell, route, always) for cell in CELL_OF.values()}) as here:
        won = await here.won()
        closing = close(here, won)
        await lead_on(here, route, always)
        await here.ended(won, ends)
        await asyncio.wait([closing])
        await (here.assert_rolled_back(won) if always else here.assert_paid(won))
        await here.check()


PAYER_CELL, PAYEE_CELL = WINNER_CELL, AUCTION_CELL
THERE_AND_RECORDED = [
    (PAYER_CELL, "before-send/receive/{}"),
    (PAYEE_CELL, "after-commit/receive/{}"),
    (PAYER_CELL, "before-record/receive/{}"),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "comes back"])
async def test_a_transfer_survives_a_kill_at_every_leg(tmp_path: Path, *, arrives: bool) -> None:
    """The payer's cell and the payee's die on the way there or back; the money is moved once, or not at all."""
    if arrives:
        route, always = [(cell, place.format("action")) for cell, place in THERE_AND_RECORDED], ""
    else:
        back = [(PAYER_CELL, f"{point}/send/compensation") for point in ("before-send", "after-commit")]
        route = [*((cell, place.format("compensation")) for cell, place in THERE_AND_RECORDED), *back]
        always = "refuse/receive/action"
    points = {cell: armed(cell, route, always) for cell in (PAYER_CELL, PAYEE_CELL)}
    # Nobody's patience ends while they are started again.
    async with town(tmp_path, points, {"transfer_valid_ms": "3600000"}) as here:
        payer = await here.market.register("payer", PAYER_CELL)
        payee = await here.market.register("payee", PAYEE_CELL)
        await here.market.deposit(payer, "USD", FUNDS_MINOR)
        paying = asyncio.create_task(here.pay(payer, payee, 400))
        await lead_on(here, route, always)
        if arrives:
            assert (await paying).balance.available_minor == FUNDS_MINOR - 400
        else:
            with pytest.raises(LedgerRefusal, match="failpoint"):
                await paying
        await here.market.wait_until_quiet()
        moved = 400 if arrives else 0
        assert await here.buckets(payer) == (FUNDS_MINOR - moved, 0, 0)
        assert await here.buckets(payee) == (moved, 0, 0)
        await here.check()
