"""What cells are asked to do about a user who moves: begin it, and the legs of its saga."""

from uuid import UUID

from cells.domain.purse import Balance, EarlierHome, Hold, MoveCommand
from cells.domain.record import Struct, field


class BeginMove(Struct, frozen=True, kw_only=True):
    """Asked of the user's home. `region`: the residency from then on; None: as it was.

    `from_epoch` is that of the home to be left; None: whichever it is.
    """

    user_id: UUID
    to_cell: str
    region: str | None
    from_epoch: int | None = None


class AnnounceMove(Struct, frozen=True, kw_only=True):
    """Old home: the user is to move."""

    user_id: UUID
    to_cell: str


class StopFlows(Struct, frozen=True, kw_only=True):
    """Old home, once the history is copied: begin nothing for the user any more that other cells have to answer."""

    user_id: UUID
    to_cell: str


class DepartUser(Struct, frozen=True, kw_only=True):
    """Old home: the fence. Money and holds leave."""

    user_id: UUID
    to_cell: str


class ArriveUser(Struct, frozen=True, kw_only=True):
    """New home: the pivot. What it carries is filled in when it is asked, by both cells from what they have stored."""

    user_id: UUID
    from_cell: str
    epoch: int
    balances: dict[str, Balance] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    earlier_homes: tuple[EarlierHome, ...] = ()
    # None: it was not stored under its id.
    begun_by: MoveCommand | None = None
    # Earlier home -> what the copy of the history there comes to here: AccountArrived.
    history: dict[str, str] = field(default_factory=dict)


class LeaveUser(Struct, frozen=True, kw_only=True):
    """Old home: the new one has the account."""

    user_id: UUID
    to_cell: str
    epoch: int


class TellHome(Struct, frozen=True, kw_only=True):
    """The directory of homes: who lives where from now on. No cell is asked this."""

    user_id: UUID
    cell: str
    epoch: int
    region: str | None


MoveAction = AnnounceMove | StopFlows | DepartUser | ArriveUser | LeaveUser | TellHome
