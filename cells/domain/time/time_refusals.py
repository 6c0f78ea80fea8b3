"""Refusals of times that are past, or too far ahead."""

from cells.domain.refusals import BusinessRefusal, Invalid


class TimeTooFar(Invalid):
    """{field}: {time_ms} ms is more than {days} days after now, which is {now_ms} ms"""


class EndTimeInPast(BusinessRefusal):
    """the auction would end at {end_time_ms} ms and it is already {now_ms} ms"""

    stable = True


class ExpireTimeInPast(BusinessRefusal):
    """the hold would expire at {expire_time_ms} ms and it is already {now_ms} ms"""

    stable = True
