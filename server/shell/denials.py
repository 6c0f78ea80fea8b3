"""What the shell itself says no with, before any service is asked: who proves nothing, and who comes too often."""

from cells.domain.refusals import Busy, Denied, Invalid, Unknown


class IdentityMissing(Denied):
    """the call proves nobody's identity: {problem}"""


class TokenInvalid(Denied):
    """the token is not valid here: {problem}"""


class CertificateUnknown(Denied):
    """the certificate names nobody: {problem}"""


class CertificateExpired(Denied):
    """the certificate of this connection was good until {until}: connect again with a new one"""


class PeerRefused(Denied):
    """{principal} is cut off: its operator is to ask the one of this process (setting refused_peers)"""


class RateExceeded(Busy):
    """{principal} asks for more than {calls_per_s} plain calls a second, or as much work: try again in {wait_ms} ms"""


class TooManyStreams(Busy):
    """{principal}: {open_count} streams are open, as many as there may be: end one, or try another process"""

    retry_after_ms = 1_000


class TooManyCalls(Busy):
    """{principal}: {open_count} calls are under way, as many as there may be: try again when one has been answered"""

    retry_after_ms = 1_000


class ShuttingDown(Unknown):
    """the server is shutting down: go on with another one"""


class MessageMissing(Invalid):
    """the call to {method} ended without a request: send one message, then end the stream"""


class MessageLate(Unknown):
    """the call to {method} sent no request within {wait_s} s of its headers, and nothing was done: send it again"""

    retry_after_ms = 1_000
