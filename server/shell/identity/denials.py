"""Denials of callers who are not known, or not proven."""

from cells.domain.refusals import Denied


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
