"""Words of refusal for services that have no ledger of their own; `statuses` puts them on the wire."""

from cells.domain.audit.claim_refusals import HomeNotVouched
from cells.domain.moves.refusals import AlreadyAtHome, HomeChanged
from cells.domain.refusals import (
    BusinessRefusal,
    Busy,
    CellUnknown,
    CommandIdReused,
    Conflict,
    FieldInvalid,
    Invalid,
    NotFound,
    Refused,
    Unknown,
    UserNotFound,
    WrongCell,
)

__all__ = [
    "AlreadyAtHome",
    "BusinessRefusal",
    "Busy",
    "CellUnknown",
    "CommandIdReused",
    "Conflict",
    "FieldInvalid",
    "HomeChanged",
    "HomeNotVouched",
    "Invalid",
    "NotFound",
    "Refused",
    "Unknown",
    "UserNotFound",
    "WrongCell",
]
