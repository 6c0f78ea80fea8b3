"""The router's refusals, besides those that it shares with the cells.

Refused
├── Invalid
│   └── GoalMissing
├── BusinessRefusal
│   ├── NoCellInRegion
│   ├── NotInRegion
│   ├── CellTakesNobody
│   └── CellHasUsers
├── NotFound
│   ├── MoveNotFound
│   └── NoSuchCell
├── Conflict
│   ├── UserRegisteredElsewhere
│   ├── CellInOtherRegion
│   ├── CellNotDraining
│   ├── CellRemoved
│   └── EndpointTaken
├── Busy
│   └── DirectoryBusy
└── Unknown
    ├── CellDraining
    ├── CellDown
    ├── CellUnavailable
    ├── MoveUnknown
    └── DirectoryUnavailable
"""

from cells.domain.refusals import BusinessRefusal, Busy, Conflict, Invalid, NotFound, Unknown


class GoalMissing(Invalid):
    """{problem}"""


class NoCellInRegion(BusinessRefusal):
    """no active cell is in region {region!r}, and data bound to a region is never placed in another"""


class NotInRegion(BusinessRefusal):
    """user {user_id} is bound to region {residency!r}, and cell {cell} is not in it"""


class CellTakesNobody(BusinessRefusal):
    """cell {cell} is {state}: users cannot move there"""


class CellHasUsers(BusinessRefusal):
    """users are at home in cell {cell}: remove it after the last of them has left"""


class MoveNotFound(NotFound):
    """this directory has no move of user {user_id}"""


class NoSuchCell(NotFound):
    """the directory has no cell {cell}"""


class UserRegisteredElsewhere(Conflict):
    """user {user_id} is at home in cell {cell} with residency {residency!r}, not {region!r}"""

    home_fact = "cell"


class CellInOtherRegion(Conflict):
    """cell {cell} is in region {known}, not {region}; that cannot change: users may be bound to it"""


class CellNotDraining(Conflict):
    """cell {cell} is ACTIVE: drain it before it is removed"""


class CellRemoved(Conflict):
    """cell {cell} was removed by an operator: set bring_back to register it again"""


class EndpointTaken(Conflict):
    """{endpoint} is an endpoint of cell {cell} already"""


class DirectoryBusy(Busy):
    """{waiting} calls are waiting for the directory: try again"""

    retry_after_ms = 100


class CellDraining(Unknown):
    """cell {cell}, chosen for user {user_id}, has just stopped accepting new users: register again"""

    retry_after_ms = 200


class CellDown(Unknown):
    """cell {cell} is marked DOWN by an operator: no calls are sent there"""

    retry_after_ms = 2_000


class CellUnavailable(Unknown):
    """user {user_id} has a home in cell {cell}, which did not open the account ({problem}): register again"""

    home_fact = "cell"

    retry_after_ms = 500


class MoveUnknown(Unknown):
    """the outcome of moving user {user_id} out of cell {cell} is unknown ({problem}): ask again under the same id"""

    retry_after_ms = 500


class DirectoryUnavailable(Unknown):
    """the directory's database does not answer: try again"""

    retry_after_ms = 500
