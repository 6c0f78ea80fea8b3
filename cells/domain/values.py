"""Values used in the whole domain. Amounts are minor units of an ISO 4217 currency, signed 64-bit."""

from enum import StrEnum
from hashlib import sha1
from typing import Final, NamedTuple, TypedDict
from uuid import UUID

from cells.domain.record import Struct
from cells.domain.refusals import (
    AmountNotPositive,
    AmountTooLarge,
    TimeTooFar,
    UnknownCurrency,
)

AMOUNT_MAX_MINOR = 2**63 - 1
# The most that an account may hold in one currency. Returned money has the same room again.
BALANCE_MAX_MINOR = 2**62 - 1

# ISO 4217 code -> exponent: the number of decimal places of one major unit.
CURRENCY_EXPONENTS = {
    "AED": 2, "ARS": 2, "AUD": 2, "BHD": 3, "BRL": 2, "CAD": 2, "CHF": 2, "CLP": 0, "CNY": 2, "COP": 2,
    "CZK": 2, "DKK": 2, "EGP": 2, "EUR": 2, "GBP": 2, "HKD": 2, "HUF": 2, "IDR": 2, "ILS": 2, "INR": 2,
    "ISK": 0, "JOD": 3, "JPY": 0, "KES": 2, "KRW": 0, "KWD": 3, "MAD": 2, "MXN": 2, "MYR": 2, "NGN": 2,
    "NOK": 2, "NZD": 2, "OMR": 3, "PEN": 2, "PHP": 2, "PKR": 2, "PLN": 2, "QAR": 2, "RON": 2, "SAR": 2,
    "SEK": 2, "SGD": 2, "THB": 2, "TND": 3, "TRY": 2, "TWD": 2, "UAH": 2, "USD": 2, "VND": 0, "ZAR": 2,
}  # fmt: skip


# How far ahead a time may be set: a limit to how long one user's choice can bind another's money.
AHEAD_DAYS_MAX = 366
_DAY_MS = 86_400_000


def require_near(time_ms: int, now_ms: int, *, field: str) -> None:
    """Raises TimeTooFar."""
    if time_ms > now_ms + AHEAD_DAYS_MAX * _DAY_MS:
        raise TimeTooFar(field=field, time_ms=time_ms, days=AHEAD_DAYS_MAX, now_ms=now_ms)


class AmountFields(TypedDict):
    currency: str
    amount_minor: int


class Money(NamedTuple):
    """An amount that has been checked: positive, within 64 bits, of a known currency."""

    currency: str
    amount_minor: int

    @property
    def fields(self) -> AmountFields:
        """The fields of an event that moves the amount."""
        return {"currency": self.currency, "amount_minor": self.amount_minor}


def money(currency: str, amount_minor: int, *, field: str = "amount") -> Money:
    """Checks a client's input. `field` names the request's field in the refusal.

    Raises:
        UnknownCurrency, AmountNotPositive, AmountTooLarge.
    """
    if currency not in CURRENCY_EXPONENTS:
        raise UnknownCurrency(field=f"{field}.currency", currency=currency)
    if amount_minor <= 0:
        raise AmountNotPositive(field=f"{field}.amount_minor", amount_minor=amount_minor)
    if amount_minor > AMOUNT_MAX_MINOR:
        raise AmountTooLarge(field=f"{field}.amount_minor", amount_minor=amount_minor)
    return Money(currency, amount_minor)


class Posting(NamedTuple):
    """One line of a double entry. The postings of an event sum to zero per currency."""

    account: str
    currency: str
    amount_minor: int


def derived_id(namespace: UUID, name: str) -> UUID:
    """The UUID of version 5 (RFC 9562, section 5.5), as `uuid.uuid5` makes it, in the class of `namespace`."""
    content = bytearray(sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    content[6] = content[6] & 0x0F | 0x50
    content[8] = content[8] & 0x3F | 0x80
    return type(namespace)(content.hex())


EXTERNAL = "external"
TRANSIT = "transit"
FEES = "fees"


def escrow_account(auction_id: UUID) -> str:
    return f"escrow/{auction_id}"


def clearing_account(cell: str) -> str:
    return f"clearing/{cell}"


class Direction(StrEnum):
    """The direction in which a leg of a saga is taken."""

    ACTION = "action"
    COMPENSATION = "compensation"


class LegId(NamedTuple):
    """Identifies one leg of one saga; together with a Direction it identifies one command in one cell."""

    saga_id: UUID
    leg: str
    generation: int

    def aggregate_id(self) -> UUID:
        """The stream in which a tombstone of this leg is recorded."""
        return derived_id(self.saga_id, f"{self.leg}/{self.generation}")

    def command_id(self, direction: Direction) -> UUID:
        return derived_id(self.saga_id, f"{self.leg}/{self.generation}/{direction}")


class LegTag(NamedTuple):
    """Marks an event as the effect of a leg. The barrier is the index of these marks."""

    leg_id: LegId
    direction: Direction
    # None: the leg is of the cell's own saga, or was taken before the barrier recorded its requester.
    foreign_id: UUID | None = None

    @property
    def barrier_id(self) -> UUID:
        return self.foreign_id or self.leg_id.aggregate_id()


# The name of each kind of aggregate in the store, in logs and in the projection tables.
class Kind(StrEnum):
    # Enum's own hash is written in Python, and every lookup of a state by its Ref calls it.
    __hash__ = str.__hash__

    ACCOUNT = "account"
    ASSET = "asset"
    AUCTION = "auction"
    SAGA = "saga"
    LEG = "leg"
    REFERENCE = "reference"
    AUDIT = "audit"


# Until Python 3.12 access to an enum member is a call, so frequent members have names of their own.
ACCOUNT: Final = Kind.ACCOUNT
AUCTION: Final = Kind.AUCTION


class Ref(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Identifies a piece of state: an aggregate, a leg's barrier, or a used external reference."""

    kind: Kind
    id: UUID


class Place(NamedTuple):
    """A user's home."""

    user_id: UUID
    cell: str


REFERENCES = UUID("6f1d2c8e-3f0a-5d7b-9a54-0b5f4a1c7e21")


def carried_kind(kind: str, user_id: UUID) -> str:
    """The kind for references that moved along with a user: they restrict only that user's money."""
    return f"{kind} of {user_id}"


def reference_ref(kind: str, reference: str) -> Ref:
    """The state that records a deposit's or withdrawal's external reference."""
    return Ref(Kind.REFERENCE, derived_id(REFERENCES, f"{kind}/{reference}"))
