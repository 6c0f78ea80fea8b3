"""Commands of a user's move: its begin, and the legs of its saga."""

from uuid import UUID

from cells.domain.account.balance import Balance, EarlierHome, Hold, MoveCommand
from cells.domain.record import Struct, field


class BeginMove(Struct, frozen=True, kw_only=True):
    """Sent to the user's home. `region`: the residency from then on; None: unchanged.

    `from_epoch` is the epoch of the home that the user leaves; None: any.
    """

    user_id: UUID
    to_cell: str
    region: str | None
    from_epoch: int | None = None


class AnnounceMove(Struct, frozen=True, kw_only=True):
    """Old home: announce the move."""

    user_id: UUID
    to_cell: str


class StopFlows(Struct, frozen=True, kw_only=True):
    """Old home, once the history is copied: let the user begin no more flows that other cells have to answer."""

    user_id: UUID
    to_cell: str


class DepartUser(Struct, frozen=True, kw_only=True):
    """Old home: the fence. Money and holds leave."""

    user_id: UUID
    to_cell: str


class ArriveUser(Struct, frozen=True, kw_only=True):
    """New home: the pivot. When it is sent, both cells fill in its content from what they have stored."""

    user_id: UUID
    from_cell: str
    epoch: int
    balances: dict[str, Balance] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    earlier_homes: tuple[EarlierHome, ...] = ()
    # None: it was not stored under its id.
    begun_by: MoveCommand | None = None
    # Earlier home -> the chain over the copy of the history there: AccountArrived.
    history: dict[str, str] = field(default_factory=dict)


class LeaveUser(Struct, frozen=True, kw_only=True):
    """Old home: the new one has the account."""

    user_id: UUID
    to_cell: str
    epoch: int


class TellHome(Struct, frozen=True, kw_only=True):
    """Tells the directory the user's home from now on. It is not sent to any cell."""

    user_id: UUID
    cell: str
    epoch: int
    region: str | None


MoveAction = AnnounceMove | StopFlows | DepartUser | ArriveUser | LeaveUser | TellHome
