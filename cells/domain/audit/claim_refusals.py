"""A cell's refusals of claims of other cells."""

from cells.domain.refusals import Busy, Denied, Unknown


class ForeignLeg(Denied):
    """{orchestrator} may not request leg {leg!r} here: {problem}"""


class HomeNotVouched(Busy):
    """{peer} is not the home of user {user_id} before epoch {epoch}: the directory has {cell}, epoch {known}"""

    home_fact = "cell"
    retry_after_ms = 200


class BeyondHead(Unknown):
    """{peer} claims position {claimed} of the log of cell {cell}, whose head is {head}: one of the two is wrong"""


class TooManyCells(Unknown):
    """{peer} would exceed the {most} cells that a vector clock has room for"""
