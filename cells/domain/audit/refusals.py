"""Refusals of an audit: leaves of the tree in cells/domain/refusals.py, and its branch Damaged."""

from cells.domain.refusals import BusinessRefusal, Busy, Conflict, Denied, Invalid, NotFound, Refused, Unknown


class PositionNotReached(BusinessRefusal, stored=False):
    """the log of cell {cell} ends at {head}: you can subscribe from {next} at most, and {position} is of another log"""


class MomentNotReached(BusinessRefusal, stored=False):
    """cell {cell} has not reached {moment} yet: its log ends at position {position} and its clock is at {now}"""


class NotThereYet(NotFound, stored=False):
    """{what} did not exist yet at position {position} of cell {cell}: its first event is at {first_position}"""


class AtHomeElsewhere(NotFound, home_fact="home", stored=False):
    """user {user_id} was at home in {home}, not in {cell}, at position {position} of {cell}: ask {home}, by time"""


class WasMoving(BusinessRefusal, stored=False):
    """user {user_id} was moving from {from_cell} to {to_cell} at position {position} of {cell}: neither had it"""


class NothingToTrace(NotFound, stored=False):
    """{subject} is no event, command, saga, auction, asset or account in any of {cells}"""


class SumTooLarge(BusinessRefusal, stored=False):
    """the balance of {account} is {amount_minor} {currency} minor units, which exceeds 64 bits: sum it in SQL"""


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


class StateUnderRepair(Busy, retry_after_ms=1_000):
    """{kind} {id} is known to be wrong and is not used: try again when it has been rebuilt from its events"""


class AuditUnderWay(Busy, retry_after_ms=5_000):
    """the tables of cell {cell} are already being compared with its log: ask again when that is done"""


class AccessLogFull(Busy, retry_after_ms=5_000):
    """{waiting} reads by staff wait to be recorded in the log: try again when a process of the cell leads"""


class StampInFuture(Invalid):
    """the clock of cell {cell} has not reached {physical_ms} ms and {logical} yet: nothing can be promised for then"""


# --- proofs, and signatures of witnesses ------------------------------------------------------------------------------


class EventNotFound(NotFound, stored=False):
    """cell {cell} has no event at position {position}: its log ends at {head}"""


class CheckpointNotFound(NotFound, stored=False):
    """cell {cell} has signed no checkpoint of size {size}; the nearest are of size {below} and {above} (0: none)"""


class NotSignedYet(NotFound, stored=False):
    """position {position} of cell {cell} is not signed yet: its last checkpoint has size {size}"""


# The fact `note` is the checkpoint that was seen, with the log's own signature.
class WitnessedOtherwise(Conflict, stored=False):
    """{witness} has seen the first {size} events of {origin}; the proof begins at another size, {old_size}"""


class LogShrunk(Conflict, stored=False):
    """{witness} has signed the first {size} events of {origin}: a checkpoint of size {claimed} takes some back"""


class LogForked(Conflict, stored=False):
    """{witness} has signed {size} events of {origin}: those of the checkpoint of size {claimed} are others"""


class CheckpointsRenumbered(Conflict, stored=False):
    """{witness} has signed {size} events of {origin}, checkpoint {last}: the one of size {claimed} is not {sequence}"""


class NoKeyToSign(Conflict, stored=False):
    """cell {cell} signs nothing: it has no keys (setting checkpoint_key_file)"""


class LogKeyChanged(Conflict, stored=False):
    """{witness} knows {origin} by the key {known}, and the checkpoint is signed by another"""


class LogTampered(Damaged):
    """the stored log of cell {cell} differs from what it has signed: {problem}; a verified export names the rows"""


# --- claims of other cells --------------------------------------------------------------------------------------------


class ForeignLeg(Denied):
    """{orchestrator} may not request leg {leg!r} here: {problem}"""


class HomeNotVouched(Busy, home_fact="cell", retry_after_ms=200):
    """{peer} is not the home of user {user_id} before epoch {epoch}: the directory has {cell}, epoch {known}"""


class BeyondHead(Unknown):
    """{peer} claims position {claimed} of the log of cell {cell}, whose head is {head}: one of the two is wrong"""


class TooManyCells(Unknown):
    """{peer} would exceed the {most} cells that a vector clock has room for"""
