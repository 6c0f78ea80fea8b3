"""The user's home at a past moment: each cell of a move derives it from its own log, so that all agree.

Between the departure and the arrival no cell has the user. The old home does not know the time of the arrival, and
names the new home; the new home has a copy of the departure, and answers `WAS_MOVING` for the time between the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from cells.audit.checks.checked import Checked
from cells.audit.history.moments import Moment, Point
from cells.audit.history.ports import HistoryLookups
from cells.domain.account.account import Account
from cells.domain.audit.refusals import AtHomeElsewhere, WasMoving
from cells.domain.events import AnyEvent
from cells.domain.moves.events import AccountArrived, AccountDeparted, AccountLeft, AccountReturned, BalanceDeparted
from cells.domain.time.hlc import Stamp
from cells.encoding import codec
from cells.store.ports import EventRow, Store

# A departure has one event, plus one for each currency.
DEPARTURE_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PastHomes:
    cell: str
    store: Store
    lookups: HistoryLookups
    # Raises for a row that differs from the one that was written.
    intact: Callable[[Checked], EventRow]

    async def require_here(self, account: Account, version: int, user_id: UUID, point: Point, moment: Moment) -> None:
        """`account` is the state of the account at the point. Raises AtHomeElsewhere, WasMoving."""
        move = account.move
        if move is None or account.is_here:
            return
        following = await self._following(user_id, version)
        if account.has_left:
            if following and isinstance(following[0], AccountArrived):
                await self._require_no_departure(following[0], user_id, point, moment)
            raise self._elsewhere(move.to_cell, user_id, point)
        ended = next((event for event in following if isinstance(event, AccountLeft | AccountReturned)), None)
        if isinstance(ended, AccountLeft):
            raise self._elsewhere(move.to_cell, user_id, point)
        raise self._moving(self.cell, move.to_cell, user_id, point)

    async def require_no_arrival(self, first: int, user_id: UUID, point: Point, moment: Moment) -> None:
        """`first` is where the stream begins, after the point. Raises AtHomeElsewhere, WasMoving for an arrival."""
        for each in await self.lookups.rows_at([first]):
            event = codec.event_of(self.intact(each))
            if isinstance(event, AccountArrived):
                await self._require_no_departure(event, user_id, point, moment)
                raise self._elsewhere(event.from_cell, user_id, point)

    async def departing(self, user_id: UUID, point: Point) -> bool:
        """Whether the point is within a departure: the next event takes away the user's money."""
        rows = [each.row for each in await self.lookups.rows_at([point.position + 1])]
        return any(row.aggregate_id == user_id and row.event_type == BalanceDeparted.event_type for row in rows)

    async def _following(self, user_id: UUID, version: int) -> list[AnyEvent]:
        """The account's next events."""
        head = (await self.store.head()).position
        rows, _ = await self.lookups.stream_from(user_id, version=version + 1, until=head, limit=DEPARTURE_MAX)
        return [codec.event_of(self.intact(each)) for each in rows]

    async def _require_no_departure(self, arrival: AccountArrived, user_id: UUID, point: Point, moment: Moment) -> None:
        """Raises WasMoving if the user had departed for this cell by that moment."""
        events = next((home.events for home in reversed(arrival.earlier_homes) if home.cell == arrival.from_cell), 0)
        after = max(events - DEPARTURE_MAX, 0)
        copies = await self.store.moved_stream(user_id, arrival.from_cell, after_version=after, limit=events - after)
        stamps = [
            Stamp(row.hlc_physical, row.hlc_logical)
            for _, row in copies
            if row.event_type == AccountDeparted.event_type
        ]
        if stamps and stamps[-1] <= (moment.last_stamp() or point.stamp):
            raise self._moving(arrival.from_cell, self.cell, user_id, point)

    def _elsewhere(self, home: str, user_id: UUID, point: Point) -> AtHomeElsewhere:
        return AtHomeElsewhere(home=home, user_id=str(user_id), cell=self.cell, position=point.position)

    def _moving(self, from_cell: str, to_cell: str, user_id: UUID, point: Point) -> WasMoving:
        return WasMoving(
            user_id=str(user_id), cell=self.cell, from_cell=from_cell, to_cell=to_cell, position=point.position
        )
