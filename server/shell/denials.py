"""What the shell itself says no with, before any service is asked: who proves nothing, and who comes too often."""

from cells.domain.refusals import Busy, Denied


class IdentityMissing(Denied):
    """the call proves nobody's identity: {problem}"""


class TokenInvalid(Denied):
    """the token is not valid here: {problem}"""


class CertificateUnknown(Denied):
    """the certificate names nobody: {problem}"""


class RateExceeded(Busy):
    """{principal} asks for more than {calls_per_s} plain calls a second, or as much work: try again in {wait_ms} ms"""


class TooManyStreams(Busy):
    """{open_count} streams are open, as many as there may be: try again, or with another process"""

    retry_after_ms = 1_000
