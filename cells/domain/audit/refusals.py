"""Refusals of an audit: leaves of the tree in cells/domain/refusals.py, and its branch Damaged."""

from cells.domain.refusals import BusinessRefusal, Busy, Invalid, NotFound, Refused


class PositionNotReached(BusinessRefusal):
    """the log of cell {cell} ends at {head}: you can subscribe from {next} at most, and {position} is of another log"""

    stored = False


class MomentNotReached(BusinessRefusal):
    """cell {cell} has not reached {moment} yet: its log ends at position {position} and its clock is at {now}"""

    stored = False


class NotThereYet(NotFound):
    """{what} did not exist yet at position {position} of cell {cell}: its first event is at {first_position}"""

    stored = False


class AtHomeElsewhere(NotFound):
    """user {user_id} was at home in {home}, not in {cell}, at position {position} of {cell}: ask {home}, by time"""

    home_fact = "home"
    stored = False


class WasMoving(BusinessRefusal):
    """user {user_id} was moving from {from_cell} to {to_cell} at position {position} of {cell}: neither had it"""

    stored = False


class NothingToTrace(NotFound):
    """{subject} is no event, command, saga, auction, asset or account in any of {cells}"""

    stored = False


class SumTooLarge(BusinessRefusal):
    """the balance of {account} is {amount_minor} {currency} minor units, which exceeds 64 bits: sum it in SQL"""

    stored = False


class Damaged(Refused):
    """Stored data is not as it was written."""


class EventDamaged(Damaged):
    """event {event_id} at position {position} of cell {cell}: {problem}"""


class EntryDamaged(Damaged):
    """the account entry of {account_id} at position {position} of cell {cell}: {problem}"""


class LogIncomplete(Damaged):
    """cell {cell} has no event at {where}: rows of its log are missing"""


class LogDamaged(Damaged):
    """nothing was rebuilt: {damaged_count} rows of the log of {cell} are not as written ({rows}); restore them first"""


class StateUnderRepair(Busy):
    """{kind} {id} is known to be wrong and is not used: try again when it has been rebuilt from its events"""

    retry_after_ms = 1_000


class AuditUnderWay(Busy):
    """the tables of cell {cell} are already being compared with its log: ask again when that is done"""

    retry_after_ms = 5_000


class AccessLogFull(Busy):
    """{waiting} reads by staff wait to be recorded in the log: try again when a process of the cell leads"""

    retry_after_ms = 5_000


class StampInFuture(Invalid):
    """the clock of cell {cell} has not reached {physical_ms} ms and {logical} yet: nothing can be promised for then"""
