"""Forty-seven settlements across one link, held so that some are about to take each leg."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellbook.v1 import saga_pb2
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from lab.chaos.links import ENDS
from lab.cluster import CELLS
from lab.market import Market, Won
from lab.play import side_by_side
from server.cli.client import ClientError
from server.shell.files import write_durably

CURRENCY = "USD"
FUNDS_MINOR = 1_000_000
PRICE_MINOR = 50_000
LEGS = tuple(spec.leg for spec in SETTLEMENT_LEGS)
CELL_OF = {spec.leg: spec.at for spec in SETTLEMENT_LEGS}
# How many are held at each leg: 44 with a long deadline, and DOOMED more at the first one.
CAUGHT = dict.fromkeys(LEGS, 5) | {"notify-seller": 4}
DOOMED = 3
TOTAL = sum(CAUGHT.values()) + DOOMED
HOLD_TIMEOUT_S = 60.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The home cells involved, and the leg before which the settlement is held until the link is cut."""

    auction_cell: str
    winner_cell: str
    seller_cell: str
    leg: str
    # Its deadline passes while the link is down.
    doomed: bool = False


@dataclass(slots=True, kw_only=True)
class Settlement:
    shape: Shape
    won: Won
    saga_id: str = ""


def shapes() -> list[Shape]:
    """All of them; none can end without the link, whichever leg it is held before."""
    found = []
    for leg in LEGS:
        for number in range(CAUGHT[leg]):
            here, across = ENDS[number % 2], ENDS[1 - number % 2]
            # The next leg across the link is the winner's or the seller's, so that person lives there.
            at_winner = CELL_OF[leg] == "winner_cell"
            anywhere = CELLS[number % len(CELLS)].name
            winner, seller = (across, anywhere) if at_winner else (anywhere, across)
            found.append(Shape(auction_cell=here, winner_cell=winner, seller_cell=seller, leg=leg))
    near, far = ENDS
    third = next(cell.name for cell in CELLS if cell.name not in ENDS)
    # One is stopped at its first leg, two with their money already in escrow and on its way.
    for here, winner, seller in ((near, far, third), (far, third, near), (near, near, far)):
        found.append(Shape(auction_cell=here, winner_cell=winner, seller_cell=seller, leg=LEGS[0], doomed=True))
    return found


class Fleet:
    """The settlements, and the hold on their sagas: a file of legs for each cell at an end of the link."""

    def __init__(self, market: Market, holds: Sequence[Path]) -> None:
        self._market = market
        self._holds = holds
        self.settlements: list[Settlement] = []

    async def open(self, timeout_ms: int, doomed_timeout_ms: int) -> None:
        """Opens every auction, with its winning bid in it."""

        async def one(indexed: tuple[int, Shape]) -> Settlement:
            number, shape = indexed
            won = await self._market.won(
                f"lot {number}",
                winner_cell=shape.winner_cell,
                auction_cell=shape.auction_cell,
                seller_cell=shape.seller_cell,
                funds_minor=FUNDS_MINOR,
                price_minor=PRICE_MINOR + 100 * number,
                settlement_timeout_ms=doomed_timeout_ms if shape.doomed else timeout_ms,
            )
            return Settlement(shape=shape, won=won)

        self.settlements = await side_by_side(enumerate(shapes(), start=1), one)
        await self._market.wait_until_quiet()

    @property
    def doomed(self) -> set[str]:
        """The sagas whose deadlines pass while the link is down."""
        return {each.saga_id for each in self.settlements if each.shape.doomed}

    async def hold(self, leg: str) -> None:
        """Closes the auctions whose settlements are to be held at `leg`, and waits until they are there.

        Call this from the last leg to the first: the earlier hold then stops settlements of later calls.
        """
        held = LEGS[LEGS.index(leg) :]
        for file in self._holds:
            # The cell may read it at any moment.
            write_durably(file, "".join(f"{each}/action\n" for each in held).encode())
        await self._close([each for each in self.settlements if each.shape.leg == leg and not each.shape.doomed])

    async def close_doomed(self) -> None:
        await self._close([each for each in self.settlements if each.shape.doomed])

    def let_go(self) -> None:
        for file in self._holds:
            file.unlink(missing_ok=True)

    async def sagas(self) -> dict[str, saga_pb2.Saga]:
        """The current sagas from SagaService, by id: every settlement that any cell has under way."""
        found = await self._market.under_way()
        return {saga.saga_id: saga for saga in found if saga.kind == saga_pb2.SAGA_KIND_SETTLEMENT}

    async def in_flight(self) -> Counter[str]:
        """The number of settlements at each leg."""
        return Counter(leg_of(saga) for saga in (await self.sagas()).values())

    async def _close(self, settlements: Sequence[Settlement]) -> None:
        replies = await side_by_side(settlements, lambda each: self._market.close(each.won.auction))
        for each, reply in zip(settlements, replies, strict=True):
            each.saga_id = reply.saga_id
        await self._caught({each.saga_id: each.shape.leg for each in settlements})

    async def _caught(self, legs: dict[str, str]) -> None:
        """Waits until each saga is at its leg."""
        at: dict[str, str] = {}
        try:
            async with asyncio.timeout(HOLD_TIMEOUT_S):
                while at != legs:
                    await asyncio.sleep(POLL_S)
                    at = {key: leg_of(saga) for key, saga in (await self.sagas()).items() if key in legs}
        except TimeoutError as error:
            raise ClientError(f"settlements did not reach {set(legs.values())} but {Counter(at.values())}") from error


def leg_of(saga: saga_pb2.Saga) -> str:
    """The next leg to be taken; while compensating, the next one to be undone."""
    if saga.state == saga_pb2.SAGA_STATE_COMPENSATING:
        return "back"
    return next((leg.leg for leg in saga.legs if leg.state == saga_pb2.LEG_STATE_PENDING), "end")


def spread_text(spread: Counter[str]) -> str:
    return " · ".join(f"{leg} {spread[leg]}" for leg in (*LEGS, "back", "end") if spread[leg])
