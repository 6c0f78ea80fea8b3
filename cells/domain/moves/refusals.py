"""Refusals of a user's move, and for a user who is moving, besides those of the ledger."""

from cells.domain.refusals import BusinessRefusal, Busy, Misrouted


class MoveExpired(BusinessRefusal, stable=True):
    """the move had to be done by {valid_until_ms} ms and it is {now_ms} ms: the user stays"""


class MoveUnderWay(BusinessRefusal):
    """user {user_id} is already moving to cell {to_cell} (saga {saga_id})"""


class AlreadyAtHome(BusinessRefusal, home_fact="cell"):
    """user {user_id} is already at home in cell {cell}"""


class HomeChanged(Misrouted, home_fact="cell"):
    """user {user_id} is at home in cell {cell} under epoch {epoch}: the move was to begin under epoch {from_epoch}"""


class HomeOutdated(BusinessRefusal, home_fact="cell"):
    """user {user_id} was at home in cell {cell} under epoch {known}: an arrival under epoch {epoch} is outdated"""


class NotMovingThere(BusinessRefusal, stored=False):
    """user {user_id} is not moving to cell {cell}: no data of the user is handed over"""


class UserMoving(Busy, retry_after_ms=100):
    """user {user_id} is moving to cell {to_cell}: nothing was done, try again in a moment"""


class LegSentBeforeArrival(Busy, retry_after_ms=100):
    """leg {leg} was sent at {sent_ms} ms, and its user arrived in this cell at {arrived_ms} ms: send it again"""


class UserHasFlows(Busy, retry_after_ms=100):
    """user {user_id} has a bid or a transfer under way to another cell: the move waits until it has ended"""


class BaggageMissing(Busy, retry_after_ms=100):
    """the new home needs {wanted} events of user {user_id} from cell {cell}, and has {found}"""


class BaggageGap(Busy, retry_after_ms=100):
    """event {brought} of user {user_id} from cell {cell} was delivered, and {held} are here: deliver the next ones"""
