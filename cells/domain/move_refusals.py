"""What a move of a user, and a user who is moving, are refused with, beside the refusals of the ledger."""

from cells.domain.refusals import BusinessRefusal, Busy, Misrouted


class MoveExpired(BusinessRefusal):
    """the move was to be done by {valid_until_ms} ms and it is {now_ms} ms: the user stays"""

    stable = True


class MoveUnderWay(BusinessRefusal):
    """user {user_id} is moving to cell {to_cell} already (saga {saga_id})"""


class AlreadyAtHome(BusinessRefusal):
    """user {user_id} is at home in cell {cell} already"""

    home_fact = "cell"


class HomeChanged(Misrouted):
    """user {user_id} is at home in cell {cell} under epoch {epoch}: the move was to begin under epoch {from_epoch}"""

    home_fact = "cell"


class HomeOutdated(BusinessRefusal):
    """user {user_id} has been at home in cell {cell} under epoch {known} already: nobody arrives there under {epoch}"""

    home_fact = "cell"


class NotMovingThere(BusinessRefusal):
    """user {user_id} is not on the way to cell {cell}: nothing of them is handed over"""

    stored = False


class UserMoving(Busy):
    """user {user_id} is moving to cell {to_cell}: nothing was done, try again in a moment"""

    retry_after_ms = 100


class UserHasFlows(Busy):
    """user {user_id} has a bid or a transfer under way to another cell, and moves when it has ended"""

    retry_after_ms = 100


class BaggageMissing(Busy):
    """of user {user_id} {wanted} events of cell {cell} are to be here, and {found} are"""

    retry_after_ms = 100


class BaggageGap(Busy):
    """of user {user_id} event {brought} of cell {cell} was brought, and {held} are here: bring what follows"""

    retry_after_ms = 100
