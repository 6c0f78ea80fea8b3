"""Refusals of a user's move, and for a user who is moving, besides those of the ledger."""

from cells.domain.refusals import BusinessRefusal, Busy, Misrouted


class MoveExpired(BusinessRefusal):
    """the move had to be done by {valid_until_ms} ms and it is {now_ms} ms: the user stays"""

    stable = True


class MoveUnderWay(BusinessRefusal):
    """user {user_id} is already moving to cell {to_cell} (saga {saga_id})"""


class AlreadyAtHome(BusinessRefusal):
    """user {user_id} is already at home in cell {cell}"""

    home_fact = "cell"


class HomeChanged(Misrouted):
    """user {user_id} is at home in cell {cell} under epoch {epoch}: the move was to begin under epoch {from_epoch}"""

    home_fact = "cell"


class HomeOutdated(BusinessRefusal):
    """user {user_id} was at home in cell {cell} under epoch {known}: an arrival under epoch {epoch} is outdated"""

    home_fact = "cell"


class NotMovingThere(BusinessRefusal):
    """user {user_id} is not moving to cell {cell}: no data of the user is handed over"""

    stored = False


class UserMoving(Busy):
    """user {user_id} is moving to cell {to_cell}: nothing was done, try again in a moment"""

    retry_after_ms = 100


class LegSentBeforeArrival(Busy):
    """leg {leg} was sent at {sent_ms} ms, and its user arrived in this cell at {arrived_ms} ms: send it again"""

    retry_after_ms = 100


class UserHasFlows(Busy):
    """user {user_id} has a bid or a transfer under way to another cell: the move waits until it has ended"""

    retry_after_ms = 100


class BaggageMissing(Busy):
    """the new home needs {wanted} events of user {user_id} from cell {cell}, and has {found}"""

    retry_after_ms = 100


class BaggageGap(Busy):
    """event {brought} of user {user_id} from cell {cell} was delivered, and {held} are here: deliver the next ones"""

    retry_after_ms = 100
