"""The open auctions of a seller, looked through cell by cell: what was not looked at is named."""

from types import SimpleNamespace
from typing import Any, cast

from cellbook.v1 import auction_pb2
from server.cli.client import NoAnswer
from server.cli.reach import Reach
from server.console.support.selling import PAGE, selling_of

ANN, BEN = "0198c0de-0000-7000-8000-00000000000a", "0198c0de-0000-7000-8000-00000000000b"


class FakeCells:
    """Each cell's number of active auctions, of which every hundredth is ANN's; None: it is silent."""

    def __init__(self, **cells: int | None) -> None:
        self.cells, self.asked = cells, list[int]()

    async def once(self, cell: str, request: auction_pb2.ListAuctionsRequest) -> auction_pb2.ListAuctionsResponse:
        self.asked.append(request.page_size)
        active = self.cells[cell]
        if active is None:
            raise NoAnswer(cell)
        if request.state != auction_pb2.AUCTION_STATE_ACTIVE:
            return auction_pb2.ListAuctionsResponse()
        first = int(request.page_token or 0)
        end = min(first + request.page_size, active)
        page = [
            auction_pb2.Auction(name=f"{cell}/{number}", seller_user_id=BEN if number % 100 else ANN)
            for number in range(first, end)
        ]
        return auction_pb2.ListAuctionsResponse(auctions=page, next_page_token=str(end) if end < active else "")

    @property
    def reach(self) -> Reach:
        stubs = [SimpleNamespace(name=name, auctions=SimpleNamespace(ListAuctions=name)) for name in self.cells]
        return Reach(client=cast("Any", self), cells=cast("Any", stubs), listed=list(self.cells))


async def test_the_auctions_of_all_cells_are_looked_through() -> None:
    """Those of one seller are found on every page; a cell that has more, or does not answer, is named once."""
    cells = FakeCells(here=250, there=3 * PAGE, silent=None)
    found = await selling_of(cells.reach, ANN, limit=2 * PAGE + 100)
    assert [auction.name for auction in found.auctions] == [
        *(f"here/{number}" for number in (0, 100, 200)),
        *(f"there/{number}" for number in range(0, 2 * PAGE + 100, 100)),
    ]
    assert (found.more, found.silent) == (["there"], ["silent"])
    assert max(cells.asked) == PAGE
    assert 100 in cells.asked
