"""What a cell says no with to what another one claims."""

from cells.domain.refusals import Unknown


class BeyondHead(Unknown):
    """{peer} claims position {claimed} of the log of cell {cell}, whose head is {head}: one of the two is wrong"""


class TooManyCells(Unknown):
    """{peer} would be one cell more than the {most} that a vector clock has room for"""
