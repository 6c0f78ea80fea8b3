"""The ports through which queries of the past read one cell's tables."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from cells.audit.checks.checked import Checked
from cells.audit.history.snapshots import HouseSnapshot, Snapshot
from cells.domain.time.hlc import Stamp
from cells.store.ports import AccountEntryRow

# Available, reserved, pending.
Buckets = tuple[int, int, int]


class HomedUser(NamedTuple):
    """`moving_to`: the cell that the user is moving to; empty if the user is at home here."""

    user_id: UUID
    epoch: int
    moving_to: str


class HistoryLookups(Protocol):
    """Queries of one cell's tables about the past. Each is a bounded number of index lookups."""

    async def position_at(self, stamp: Stamp, head: int) -> tuple[int, int | None]:
        """The last position whose stamp is not after `stamp`, and a position without a row if the search met one."""

    async def rows_at(self, positions: Sequence[int]) -> list[Checked]:
        """The rows by position; missing rows are left out."""

    async def stream_begins(self, aggregate_id: UUID) -> int | None:
        """The position of the stream's first event."""

    async def stream_from(
        self, aggregate_id: UUID, *, version: int, until: int, limit: int
    ) -> tuple[list[Checked], bool]:
        """At most `limit` events of the stream from `version` on, none after `until`; whether there are more."""

    async def snapshot_at(self, aggregate_id: UUID, position: int) -> Snapshot | None:
        """The last one at or before `position`."""

    async def put(self, *snapshots: Snapshot) -> None:
        """Stores the snapshots that do not exist yet."""

    async def snapshots_of(self, aggregate_id: UUID) -> list[Snapshot]:
        """All of them."""

    async def balances_at(
        self, account_id: UUID, position: int
    ) -> list[tuple[AccountEntryRow, AccountEntryRow | None]]:
        """By currency, the account's last entry at or before `position`, and the one before that."""

    async def all_balances_at(
        self, after: tuple[UUID, str], position: int, limit: int
    ) -> list[tuple[UUID, str, AccountEntryRow | None]]:
        """The next accounts and currencies after one, with the last entry of each at or before `position`, if any."""

    async def homes(self, after: UUID, limit: int) -> list[HomedUser]:
        """The next users who are at home here now, or moving away, by id."""

    async def movements(
        self, account_id: UUID, currency: str, after: int, until: int, limit: int
    ) -> list[AccountEntryRow]:
        """The account's first entries after one position, up to and including another."""

    async def entry_at(self, account_id: UUID, currency: str, position: int) -> AccountEntryRow | None:
        """The account's last entry at or before `position`."""

    async def movements_sum(self, account_id: UUID, currency: str, after: int, until: int) -> tuple[int, Buckets]:
        """The number of movements between the two positions, and their sums."""

    async def types_of(self, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The types of those events that are in this log."""

    async def house_snapshot_at(self, position: int) -> HouseSnapshot | None:
        """The last snapshot at or before `position`."""

    async def rows_after(self, position: int, until: int, limit: int) -> list[Checked]:
        """The first rows after one position, up to and including another."""

    async def put_house(self, snapshot: HouseSnapshot) -> None: ...
