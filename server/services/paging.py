"""Pages of the cell's lists, for AuctionService and SagaService."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from uuid import UUID

from cells.domain.auction import Auction
from cells.domain.saga import Saga
from cells.ports import Versioned
from server.wire.common import Page, page_token_out

# A filter that matches little ends the page short, with a token to go on, instead of reading the whole table.
READS_MAX = 10

S = TypeVar("S", Auction, Saga)


class Read(NamedTuple):
    """How a page is filled: from `(after, limit)` to rows by id."""

    page: Page
    rows: Callable[[UUID | None, int], Awaitable[list[tuple[UUID, Versioned]]]]


async def read_page(
    read: Read, kind: type[S], wanted: Callable[[S], bool] = lambda _state: True
) -> tuple[list[tuple[UUID, S, int]], str]:
    """One page of (id, state, stream version), and the token of the next one, empty at the end."""
    found: list[tuple[UUID, S, int]] = []
    size, after = read.page
    for _ in range(READS_MAX):
        # One more than the page holds tells whether there is a next one.
        rows = await read.rows(after, size + 1)
        for row_id, (state, stream_version) in rows:
            if isinstance(state, kind) and wanted(state):
                if len(found) == size:
                    return found, page_token_out(after)
                found.append((row_id, state, stream_version))
            after = row_id
        if len(rows) <= size:
            return found, ""
    return found, page_token_out(after)
