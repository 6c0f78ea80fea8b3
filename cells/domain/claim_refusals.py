"""What a cell says no with to what another one claims."""

from cells.domain.refusals import Busy, Denied, Unknown


class ForeignLeg(Denied):
    """{orchestrator} may not ask for leg {leg!r} here: {problem}"""


class HomeNotVouched(Busy):
    """{peer} is not the home of user {user_id} before epoch {epoch}: by the directory it is {cell}, epoch {known}"""

    home_fact = "cell"
    retry_after_ms = 200


class BeyondHead(Unknown):
    """{peer} claims position {claimed} of the log of cell {cell}, whose head is {head}: one of the two is wrong"""


class TooManyCells(Unknown):
    """{peer} would be one cell more than the {most} that a vector clock has room for"""
