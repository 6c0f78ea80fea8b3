"""What cells are asked to do about a user who moves: begin it, and the legs of its saga."""

from uuid import UUID

from cells.domain.purse import Balance, CarriedReference, EarlierHome, Hold, MoveCommand
from cells.domain.record import Struct, field
from cells.domain.values import Direction, LegId


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


class CarriedLeg(Struct, frozen=True, kw_only=True):
    """A leg that was taken for the user, or undone: not to be taken here again. `effect_id` is in the log of `cell`."""

    leg_id: LegId
    # As the leg is known here: a leg that another user is asked for has another one.
    barrier_id: UUID
    direction: Direction
    cell: str
    effect_id: UUID


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
    references: tuple[CarriedReference, ...] = ()
    legs: tuple[CarriedLeg, ...] = ()


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
