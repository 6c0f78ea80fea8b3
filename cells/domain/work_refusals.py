"""What a user is refused with who has more under way, or was refused more often, than a cell keeps for one user."""

from cells.domain.refusals import Busy


class TooManyRefusals(Busy):
    """{problem}; not for good: {whose} was refused too often for it to be stored. Send it again in {wait_ms} ms"""
