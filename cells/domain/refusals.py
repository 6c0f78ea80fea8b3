"""All refusals of the ledger, as one tree. The docstring is the message; `{names}` are its facts.

Refused
├── Invalid                 the request itself is malformed: nothing else was checked
├── BusinessRefusal         final: a rule of the ledger refused it, and nothing changed
├── NotFound                final: the thing named does not exist here
├── Conflict                final: the request contradicts an earlier one
├── Misrouted               send it elsewhere; never stored
├── Denied                  the principal may not do this; never stored
├── Busy                    try again later; never stored
├── ClockRefusal            clocks disagree; never stored
├── Damaged                 stored data is not as it was written, and is not used for answers; never stored
└── Unknown                 the outcome is not known (yet): try again with the same id; never stored

"Final" means that a reply with this reason is definite and nothing changed: the command does not happen, however late
another copy of it arrives. A final refusal is stored as the outcome of its command, except for `Invalid`, since a
malformed request stays malformed, and for `stable` ones, which no later state accepts.
"""

import re
from collections.abc import Mapping
from typing import ClassVar

Fact = str | int

# By reason: all refusals known to this process.
REFUSALS: dict[str, "type[Refused]"] = {}

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Refused(Exception):
    """The command was refused."""

    final: ClassVar[bool] = False
    stored: ClassVar[bool] = False
    reason: ClassVar[str] = "REFUSED"
    # True if the same command could never succeed later either: then it needs no stored outcome against a late
    # duplicate, and a leg needs no tombstone.
    stable: ClassVar[bool] = False
    # The fact that names a user's home: clients get it as `home_cell`; `cell` is the asked cell in other refusals.
    home_fact: ClassVar[str] = ""
    # None: waiting does not help, or it is not known how long.
    retry_after_ms: int | None = None

    def __init_subclass__(cls, **traits: bool | str | int) -> None:
        """`traits` are values of the attributes above: `class BidTooLow(BusinessRefusal, stable=True)`."""
        cls.reason = _WORD.sub("_", cls.__name__).upper()
        for name, value in traits.items():
            if not hasattr(Refused, name):
                raise TypeError(f"a refusal has no {name}")
            setattr(cls, name, value)
        REFUSALS[cls.reason] = cls

    def __init__(self, **facts: Fact) -> None:
        self.facts = facts
        super().__init__((self.__doc__ or "").format(**facts))

    @property
    def message(self) -> str:
        return str(self)


REFUSALS[Refused.reason] = Refused


class Invalid(Refused):
    """The request is malformed."""

    final = True


class FieldInvalid(Invalid):
    """{field}: {problem} (got {value!r})"""


class UnknownCurrency(Invalid):
    """{field}: {currency!r} is not an ISO 4217 currency known here"""


class AmountNotPositive(Invalid):
    """{field}: an amount must be positive, got {amount_minor} minor units"""


class AmountTooLarge(Invalid):
    """{field}: an amount must fit in a signed 64-bit integer, got {amount_minor} minor units"""


class CommandIdExpired(Invalid):
    """command_id {command_id} was made more than {window_days} days ago; its outcome is no longer kept"""


class CommandIdAhead(Invalid):
    """command_id {command_id} is {ahead_ms} ms ahead of the cell's clock; at most {ahead_max_ms} ms are allowed"""


class RequestTooLarge(Invalid):
    """a request to {method} may have at most {bytes_max} bytes, and this one has {size_bytes}"""


class RequestUnreadable(Invalid):
    """the bytes sent to {method} are not a message of its request type: generate the client from the protos again"""


class TimeTooFar(Invalid):
    """{field}: {time_ms} ms is more than {days} days after now, which is {now_ms} ms"""


class BusinessRefusal(Refused):
    """A rule of the ledger refused it."""

    final = True
    stored = True


class InsufficientFunds(BusinessRefusal):
    """{needed_minor} {currency} minor units are needed and {available_minor} are available"""


class BalanceOverflow(BusinessRefusal):
    """an account holds at most 2^62 - 1 minor units of a currency, which {amount_minor} {currency} more would exceed"""


class BidTooLow(BusinessRefusal, stable=True):
    """the bid of {amount_minor} is below the least acceptable bid, {least_minor} {currency} minor units"""


class AuctionNotActive(BusinessRefusal, stable=True):
    """auction {auction_id} accepts no bids: it is {state}"""


class WrongCurrency(BusinessRefusal, stable=True):
    """auction {auction_id} is held in {expected}, not in {currency}"""


class HeldInAnotherCurrency(BusinessRefusal):
    """{expected} is held for auction {auction_id}: a bid in {currency} has to wait until it is released"""


class BidOnOwnAuction(BusinessRefusal, stable=True):
    """the seller cannot bid in auction {auction_id}"""


class BidExpired(BusinessRefusal, stable=True):
    """the bid was valid until {valid_until_ms} ms and it is {now_ms} ms"""


class TransferExpired(BusinessRefusal, stable=True):
    """the transfer was valid until {valid_until_ms} ms and it is {now_ms} ms"""


class EndTimeInPast(BusinessRefusal, stable=True):
    """the auction would end at {end_time_ms} ms and it is already {now_ms} ms"""


class ExpireTimeInPast(BusinessRefusal, stable=True):
    """the hold would expire at {expire_time_ms} ms and it is already {now_ms} ms"""


class AssetLocked(BusinessRefusal):
    """asset {asset_id} is locked by auction {auction_id}"""


class NotTheOwner(BusinessRefusal):
    """asset {asset_id} does not belong to user {user_id}"""


class SameAccount(BusinessRefusal, stable=True):
    """user {user_id} cannot pay itself"""


class HoldExpired(BusinessRefusal):
    """hold {hold_id} expired at {expire_time_ms} ms and it is {now_ms} ms"""


class HoldNotFound(BusinessRefusal):
    """user {user_id} has no open hold {hold_id}"""


class HoldBacksBids(BusinessRefusal):
    """hold {hold_id} backs bids in an auction; only the auction captures or releases it"""


class CaptureTooLarge(BusinessRefusal):
    """{amount_minor} cannot be captured: the hold is {hold_minor} {currency} minor units"""


class HoldNotPinnable(BusinessRefusal):
    """the winning bid {bid_id} of auction {auction_id} has no hold of {amount_minor} minor units to pin"""


class EscrowTooSmall(BusinessRefusal):
    """auction {auction_id} has {escrow_minor} in escrow, less than the {amount_minor} minor units to be paid out"""


class PendingTooSmall(BusinessRefusal):
    """user {user_id} has {pending_minor} pending, less than the {amount_minor} minor units to be taken"""


class LegCancelled(BusinessRefusal, stable=True):
    """leg {leg} of saga {saga_id} was compensated before it was applied: it can no longer be applied"""


class RefusedByFailpoint(BusinessRefusal):
    """leg {leg} is refused here by a failpoint of the tests"""


class ExternalReferenceUsed(BusinessRefusal):
    """a {kind} with external_reference {external_reference!r} was already recorded"""


class AlreadyOpen(BusinessRefusal):
    """user {user_id} already has an account here"""


class NotFound(Refused):
    """The thing named does not exist here."""

    final = True
    stored = True


# It depends on the cell: the user may be at home elsewhere, or be registered a moment later.
class UserNotFound(NotFound, stored=False):
    """no user {user_id} is registered"""


class PayeeNotFound(NotFound):
    """user {user_id} has no account in cell {cell}, so the transfer cannot be received there"""


class AuctionNotFound(NotFound):
    """no auction {auction_id} lives in cell {cell}"""


class AssetNotFound(NotFound):
    """no asset {asset_id} lives in cell {cell}"""


class SagaNotFound(NotFound, stored=False):
    """no saga {saga_id} is orchestrated by cell {cell}"""


class CommandNotFound(NotFound, stored=False):
    """cell {cell} has done nothing under command_id {command_id}"""


class Conflict(Refused):
    """The request contradicts what was done before."""

    final = True


class CommandIdReused(Conflict):
    """command_id {command_id} was used before for another request"""


class Unstorable(Conflict):
    """the database refused to store the command: SQLSTATE {sqlstate}"""


class Misrouted(Refused):
    """The request belongs to another cell."""


class WrongCell(Misrouted):
    """{resource} lives in cell {cell}, this is {here}"""

    home_fact = "cell"

    # For a user it gives the `epoch` of the home: a caller that knows a later one is right, and this cell is behind.


class CellUnknown(Misrouted):
    """no cell {cell} is known here"""


class Denied(Refused):
    """The principal may not do this."""


class PrincipalMissing(Denied):
    """the call names no principal: send metadata {metadata_key!r}"""


class PrincipalInvalid(Denied):
    """{principal!r} is not a principal: expected one of {expected}"""


class NotPermitted(Denied):
    """{principal} may not call {method}"""


class NotYourAccount(Denied):
    """{principal} may not act for user {user_id}"""


class Busy(Refused):
    """The cell accepts no more work right now."""

    def __init__(self, **facts: Fact) -> None:
        super().__init__(**facts)
        wait_ms = str(facts.get("wait_ms", ""))
        if wait_ms.isdecimal():
            self.retry_after_ms = int(wait_ms)


class WatcherTooSlow(Busy, retry_after_ms=100):
    """the watch of auction {auction_id} was not read for too long: watch it again from position {next_position}"""


class QueueFull(Busy, retry_after_ms=100):
    """the cell is overloaded: {queued} of your commands ({queued_bytes} bytes) are waiting: send it again later"""


class DeadlinePassed(Busy):
    """the call's deadline passed before the command was decided: nothing was done"""


class NoticeNotSent(Busy):
    """the notice could not be sent: {problem}"""


class ClockAtBound(Busy, retry_after_ms=100):
    """the clock has issued every stamp before {bound_ms} ms, the latest time promised durably: try again"""


class TooManyFlows(Busy, retry_after_ms=500):
    """user {user_id} has {open_count} bids and transfers to other cells under way, the limit is {most}: wait"""


class TooManyReleases(Busy, retry_after_ms=500):
    """{open_count} outbid bids of cell {cell} wait for their release there, the limit is {most}: wait"""


class TooManyHolds(Busy):
    """{open_count} holds of the account are open, the limit is {most}: release some, or wait for auctions"""


class TooManyBids(Busy, retry_after_ms=500):
    """{open_count} bids of one bidder in auction {auction_id} are open, the limit is {most}: wait for an answer"""


class TooManyRefusals(Busy):
    """{problem}; not final, because {whose} was refused too often to store it. Send it again in {wait_ms} ms"""


class HouseAccountFull(Busy):
    """{accounts}: a house account holds at most 2^63 - 1 minor units, which this command would exceed; wait"""


class ClockRefusal(Refused):
    """Clocks disagree."""


class ClockOffsetExceeded(ClockRefusal):
    """the stamp of {peer} is {offset_ms} ms ahead, more than {max_offset_ms} ms"""


class ClockJumped(ClockRefusal):
    """the wall clock jumped by {jump_ms} ms against the monotonic clock: nothing is written until it is corrected"""


class Unknown(Refused):
    """The outcome is not known."""


class InProgress(Unknown, retry_after_ms=500):
    """command {command_id} is still under way: ask again with the same id"""


class Unavailable(Unknown, retry_after_ms=200):
    """the cell cannot tell whether the command was stored: {problem}; ask again with the same command_id"""


class NotLeading(Unknown, retry_after_ms=200):
    """this process does not lead cell {cell}: ask another one"""


class DataLost(Unknown):
    """cell {cell} has been shown its own position {claimed}, beyond its head {head}: it has lost data and stops"""


def refusal(reason: str, facts: Mapping[str, Fact]) -> Refused:
    """Rebuilds a refusal from its reason and facts, as stored or received.

    Raises:
        KeyError: the reason is unknown, or a fact that its message needs is missing.
    """
    return REFUSALS[reason](**facts)
