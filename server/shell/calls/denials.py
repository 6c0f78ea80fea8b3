"""Refusals by the shell itself, before any service is asked."""

from cells.domain.refusals import Busy, Invalid, Unknown


class RateExceeded(Busy):
    """{principal} asks for more than {calls_per_s} plain calls a second, or as much work: try again in {wait_ms} ms"""


class TooManyStreams(Busy):
    """{principal}: {open_count} streams are open, which is the limit: end one, or try another process"""

    retry_after_ms = 1_000


class TooManyCalls(Busy):
    """{principal}: {open_count} calls are under way, which is the limit: try again when one has been answered"""

    retry_after_ms = 1_000


class ShuttingDown(Unknown):
    """the server is shutting down: use another one"""


class MessageMissing(Invalid):
    """the call to {method} ended without a request: send one message, then end the stream"""


class MessageLate(Unknown):
    """the call to {method} sent no request within {wait_s} s of its headers, and nothing was done: send it again"""

    retry_after_ms = 1_000
