"""What the router says no with, beside the refusals that it shares with the cells.

Refused
├── BusinessRefusal
│   └── NoCellInRegion
├── Conflict
│   └── UserRegisteredElsewhere
├── Busy
│   └── DirectoryBusy
└── Unknown
    ├── CellUnavailable
    └── DirectoryUnavailable
"""

from server.shell.refusals import BusinessRefusal, Busy, Conflict, Unknown


class NoCellInRegion(BusinessRefusal):
    """no active cell is in region {region!r}, and data bound to a region is never placed in another"""


class UserRegisteredElsewhere(Conflict):
    """user {user_id} is at home in cell {cell} with residency {residency!r}, not {region!r}"""


class DirectoryBusy(Busy):
    """{waiting} calls wait for the directory: try again"""

    retry_after_ms = 100


class CellUnavailable(Unknown):
    """user {user_id} has a home in cell {cell}, which did not open the account ({problem}): register again"""

    retry_after_ms = 500


class DirectoryUnavailable(Unknown):
    """the directory's database does not answer: try again"""

    retry_after_ms = 500
