"""Words of refusal for services that have no ledger of their own; `statuses` puts them on the wire."""

from cells.domain.refusals import (
    BusinessRefusal,
    Busy,
    Conflict,
    FieldInvalid,
    NotFound,
    Refused,
    Unknown,
    UserNotFound,
)

__all__ = ["BusinessRefusal", "Busy", "Conflict", "FieldInvalid", "NotFound", "Refused", "Unknown", "UserNotFound"]
