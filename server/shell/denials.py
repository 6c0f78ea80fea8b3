"""Refusals by the shell itself, before any service is asked: for missing identity and exceeded rates."""

from cells.domain.refusals import Busy, Denied, Invalid, Unknown


class IdentityMissing(Denied):
    """the call carries no proof of identity: {problem}"""


class TokenInvalid(Denied):
    """the token is not valid here: {problem}"""


class CertificateUnknown(Denied):
    """the certificate's name is not accepted here: {problem}"""


class CertificateExpired(Denied):
    """the certificate of this connection expired at {until}: connect again with a new one"""


class PeerRefused(Denied):
    """{principal} is cut off: ask the operator of this process to remove it from the setting refused_peers"""


class SignatureMissing(Denied):
    """{principal} must sign its command here, and has not: send `signature` with {method}"""


class SignatureInvalid(Denied):
    """the signature of {principal} does not match this command: {problem}"""


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
