"""The bounds of all request fields, in one table that every check reads (docs/bounds.md).

A field is looked up by message and name, or by its name alone if its bound is the same in every message. A test walks
the descriptors of all requests and fails for a field that has no bound here.
"""

import re
import uuid
from collections.abc import Sized
from typing import NamedTuple, TypeAlias, TypeVar

from cells.domain.refusals import FieldInvalid
from cells.domain.time.hlc import LOGICAL_MAX, PHYSICAL_MAX_MS
from cells.domain.values import AMOUNT_MAX_MINOR
from server.shell.fields.personal import personal_in
from server.shell.fields.texts import problem_of

SHOWN_MAX = 80
SECOND_MS = 1_000
DAY_MS = 86_400 * SECOND_MS
# The version of UUIDs that are derived from others.
DERIVED = 5
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1

# Short runs of letters and digits: too short for an IBAN, and with a letter they are not a card number.
_PLAIN_ID = re.compile(r"[A-Za-z0-9]{1,12}(?:[-_][A-Za-z0-9]{1,12})*")
_REGION = re.compile(r"[a-z0-9-]{0,32}")
N = TypeVar("N", int, float)


class Number(NamedTuple):
    """`zero` says what 0 means if it has a meaning of its own; then 0 may be below `least`."""

    least: float
    most: float
    unit: str = ""
    zero: str = ""

    def __str__(self) -> str:
        span = f"{self.least:,} to {self.most:,}{f' {self.unit}' if self.unit else ''}"
        return f"0 ({self.zero}) or {span}" if self.zero else span

    def takes(self, value: float) -> bool:
        return self.least <= value <= self.most or (value == 0 and bool(self.zero))


class Text(NamedTuple):
    """`least` and `most` count characters, of which UTF-8 has up to four bytes each."""

    least: int
    most: int
    # Identifiers that look the same must have the same bytes.
    identifier: bool = False
    # It is stored in the log forever, so it must not identify a person.
    impersonal: bool = False
    also: str = ""

    def __str__(self) -> str:
        what = f"{'impersonal ' if self.impersonal else ''}{'identifier' if self.identifier else 'text'}"
        return f"{what} of {self.least:,} to {self.most:,} characters{f', {self.also}' if self.also else ''}"


class Form(NamedTuple):
    """A text with one exact form, which also sets its length."""

    said: str
    may_be_empty: bool = False

    def __str__(self) -> str:
        return f"{self.said}{', or empty' if self.may_be_empty else ''}"


class Bytes(NamedTuple):
    length: int
    may_be_empty: bool = False

    def __str__(self) -> str:
        return f"{self.length} bytes{', or empty' if self.may_be_empty else ''}"


class Items(NamedTuple):
    """A repeated field; each item has its own bound unless it is a message."""

    least: int
    most: int
    each: "Form | Bytes | None" = None

    def __str__(self) -> str:
        return f"{self.least:,} to {self.most:,} items{f', each {self.each}' if self.each else ''}"


class NotRead(NamedTuple):
    """Part of a message that is also an answer."""

    why: str

    def __str__(self) -> str:
        return f"not read: {self.why}"


Bound: TypeAlias = Number | Text | Form | Bytes | Items | NotRead

# --- bounds by kind ---------------------------------------------------------------------------------------------------

UUID = Form("a UUID, not nil")
OPTIONAL_UUID = UUID._replace(may_be_empty=True)
CELL = Form("a cell's name: 1 to 32 of a-z, 0-9 and -")
REGION = Form("a region: 1 to 32 of a-z, 0-9 and -")
CURRENCY = Form("an ISO 4217 code of 3 letters that is known here")
ASSET = Form("cells/{cell}/assets/{uuid}")
AUCTION = Form("cells/{cell}/auctions/{uuid}")
PAGE_TOKEN = Form("the token of an earlier page, as it was given", may_be_empty=True)
ENDPOINT = Form("host:port of at most 259 characters")

AMOUNT = Number(1, AMOUNT_MAX_MINOR, "minor units")
INCREMENT = AMOUNT._replace(zero="for 1")
AMOUNT_OR_NONE = Number(0, AMOUNT_MAX_MINOR, "minor units")
TIME = Number(1, PHYSICAL_MAX_MS, "ms since 1970")
TIME_OR_NONE = TIME._replace(zero="not said")
# The rules compare it with the time at which they decide.
AHEAD = TIME._replace(unit="ms since 1970, within 366 days")
AHEAD_OR_NEVER = AHEAD._replace(zero="never")
RECORDED_AT = Number(0, PHYSICAL_MAX_MS * 1_000, "µs since 1970")
LOGICAL = Number(0, LOGICAL_MAX)
STAMP = Number(0, PHYSICAL_MAX_MS, "ms since 1970")
POSITION = Number(1, INT64_MAX)
POSITION_OR_NONE = POSITION._replace(zero="not said")
PAST_POSITION = Number(0, INT64_MAX)
# Rises by one with each move.
EPOCH = Number(1, INT32_MAX)
EPOCH_OR_NONE = EPOCH._replace(zero="not said")
PAGE_SIZE = Number(1, INT32_MAX, "of which at most 1,000 come", "for 100")
EVENT_MAX = Number(1, INT32_MAX, "of which at most 2,000 come", "for 500")
# A late bid extends the auction by this much, a day at most.
EXTENSION = Number(0, DAY_MS, "ms")
# The money stays in escrow this long at most. Seven legs over three continents take a second.
SETTLEMENT_TIMEOUT = Number(SECOND_MS, 7 * DAY_MS, "ms", "for the cell's setting")

REFERENCE = Text(1, 200, identifier=True, impersonal=True)
DESCRIPTION = Text(0, 1_000, impersonal=True)
NOTE = Text(0, 200, impersonal=True)
# "service/shop", as in identities and metadata.
PRINCIPAL_OR_NONE = Text(0, 96, identifier=True)
LEG = Text(1, 40, identifier=True)
GENERATION = Number(1, INT32_MAX)
EVENT_TYPE = Text(1, 80, identifier=True)
LOG_KEY = Text(1, 256, identifier=True)
COSIGNATURE = Text(1, 512, also="with the end of its line")
SIGNED_NOTE = Text(1, 16_384, also="in lines")
PERSON_NAME = Text(1, 200, also="of letters, blanks and ' . , - · ( ), with at most 3 digits")
CODE = Text(1, 20, identifier=True)
EMAIL = Text(3, 254, also="one address as in ann@example.org")
JSON = Text(2, 1_048_576, also="of canonical JSON")

NEW_USER = Form("a UUID, not nil, and not of version 5: ids of that kind are the ledger's own")
BATCH = Items(1, 1_000)
LEGS = Items(1, 100)
MOVED = Items(0, 1_000)
IDS = Items(0, 10_000, UUID)
CLEARING_IDS = Items(0, 2_000, UUID)
HASH = Bytes(32)
SIGNATURE = Bytes(68, may_be_empty=True)  # The id of a key, and an Ed25519 signature.
PATH = Items(0, 128, HASH)
ACCESSES = Items(1, 250)
CURRENCIES = Items(0, 200)
HOLDS = Items(0, 10_000)
HOMES = Items(0, 1_000)
CELLS = Items(0, 64, CELL)
EVENT_TYPES_ASKED = Items(0, 200, Form("the name of an event's type"))
STATES_ASKED = Items(0, 20, Form("a state known here"))
ENDPOINTS = Items(1, 16, ENDPOINT)
WEIGHT = Number(0, 1_000_000)
MOVES_A_SECOND = Number(0.001, 1_000, "a second", "for 10")
EVENTS_A_SECOND = Number(1, INT32_MAX, "a second", "as fast as it goes")

# --- the table --------------------------------------------------------------------------------------------------------

# The fields of each bound: of every message, or of the one that is named.
_TABLE: tuple[tuple[Bound, str], ...] = (
    (NEW_USER, "OpenAccountRequest.user_id RegisterUserRequest.user_id"),
    (
        UUID,
        """
        command_id user_id from_user_id to_user_id owner_user_id seller_user_id bidder_user_id hold_id saga_id
        auction_id asset_id bid_id clearing_id causation_id Event.event_id Event.aggregate_id Event.correlation_id
        CheckStreamRequest.aggregate_id
    """,
    ),
    (AUCTION, "auction GetAuctionRequest.name"),
    (ASSET, "asset GetAssetRequest.name"),
    (
        CELL,
        """
        cell to_cell from_cell bidder_cell Leg.orchestrator ListClearingRequest.peer RegisterCellRequest.name
        SetCellWeightRequest.name DrainCellRequest.name MarkCellDownRequest.name UndrainCellRequest.name
        RemoveCellRequest.name EvacuateCellRequest.name
    """,
    ),
    (REGION._replace(may_be_empty=True), "region"),
    (CURRENCY, "currency"),
    (AMOUNT, "amount_minor"),
    (AMOUNT_OR_NONE, "available_minor reserved_minor pending_minor SettlePending.fee_minor MovedBid.amount_minor"),
    (TIME_OR_NONE, "expire_time_ms ListSagasRequest.started_from_ms ListSagasRequest.started_before_ms"),
    (TIME, "valid_until_ms ReadAccess.minute_ms"),
    (EPOCH, "epoch OpenAccountRequest.home_epoch"),
    (STAMP, "physical_ms AsOf.time_ms"),
    (LOGICAL, "logical"),
    (PAGE_SIZE, "page_size"),
    (PAGE_TOKEN, "page_token"),
    (NOTE, "note reason"),
    (PRINCIPAL_OR_NONE, "principal ExportResumption.after_principal ReadAccess.subject"),
    (REFERENCE, "external_reference"),
    (SIGNATURE, "signature"),
    (PAST_POSITION, "AsOf.position"),
    (BATCH, "BatchDepositRequest.items BatchPlaceBidsRequest.items"),
    (DESCRIPTION, "RegisterAssetRequest.description"),
    (INCREMENT, "CreateAuctionRequest.increment_minor"),
    (AHEAD, "CreateAuctionRequest.end_time_ms"),
    (EXTENSION, "CreateAuctionRequest.extension_ms"),
    (SETTLEMENT_TIMEOUT, "CreateAuctionRequest.settlement_timeout_ms"),
    (AHEAD_OR_NEVER, "ReserveRequest.expire_time_ms"),
    (PERSON_NAME, "SetContactRequest.name"),
    (EMAIL, "SetContactRequest.email"),
    (CODE, "ConfirmContactRequest.code"),
    (STATES_ASKED, "ListSagasRequest.states"),
    (CELL._replace(may_be_empty=True), "ListSagasRequest.cell MovedHold.auction_cell CarriedOutcome.cell"),
    (LEGS, "BatchLegsRequest.items"),
    (LEG, "Leg.leg"),
    (GENERATION, "Leg.generation"),
    (EPOCH_OR_NONE, "BeginMoveRequest.from_epoch"),
    (CURRENCIES, "ArriveUser.balances"),
    (HOLDS, "ArriveUser.holds MovedHold.bids"),
    (HOMES, "ArriveUser.earlier_homes"),
    (
        OPTIONAL_UUID,
        """
        after_user MovedHold.saga_id Event.causation_id Event.user_id EventFilter.aggregate_id
        EventFilter.correlation_id EventFilter.user_id FindEventsRequest.subject ExportResumption.after_command_id
        ListClearingRequest.page_token
    """,
    ),
    (
        POSITION,
        """
        EarlierHome.events Event.position Event.stream_version GetInclusionProofRequest.position
        GetConsistencyProofRequest.old_size AddCosignatureRequest.size
    """,
    ),
    (MOVED, "BringBaggageRequest.events BringBaggageRequest.outcomes"),
    (HASH, "CarriedOutcome.fingerprint MoveCommand.fingerprint Event.leaf_hash HandOverContactRequest.public_key"),
    (JSON, "CarriedOutcome.outcome_json Event.payload_json Event.metadata_json"),
    (
        POSITION_OR_NONE,
        """
        CarriedOutcome.position SubscribeRequest.from_position WatchAuctionRequest.from_position
        GetCheckpointRequest.size GetCheckpointRequest.after_size
        GetInclusionProofRequest.size GetConsistencyProofRequest.new_size ExportRequest.from_position
        ExportRequest.to_position CosignRequest.old_size ListClearingRequest.after_position
    """,
    ),
    (EVENT_TYPE, "Event.event_type ReadAccess.method"),
    (CELLS, "Event.vector_clock"),
    (RECORDED_AT, "Event.recorded_at_us"),
    (NotRead("they follow from the payload"), "Event.postings"),
    (NotRead("as the payload says"), "Posting.account Posting.currency Posting.amount_minor"),
    (EVENT_TYPES_ASKED, "EventFilter.event_types"),
    (
        Form("a UUID, the name of an asset or auction, or deposits/ or withdrawals/ with an external reference"),
        "TraceRequest.subject",
    ),
    (EVENT_MAX, "TraceRequest.event_max FindEventsRequest.event_max"),
    (IDS, "FindEventsRequest.causes FindEventsRequest.effects_of"),
    (CURRENCY._replace(may_be_empty=True), "GetStatementRequest.currency"),
    (LOG_KEY, "CosignRequest.key"),
    (SIGNED_NOTE, "CosignRequest.checkpoint"),
    (PATH, "CosignRequest.path"),
    (COSIGNATURE, "AddCosignatureRequest.cosignature"),
    (ACCESSES, "RecordAccessesRequest.accesses"),
    (EVENTS_A_SECOND, "ReconcileRequest.events_per_s"),
    (CLEARING_IDS, "ListClearingRequest.clearing_ids"),
    (CLEARING_IDS._replace(each=OPTIONAL_UUID), "ListClearingRequest.saga_ids"),
    (REGION, "RegisterCellRequest.region"),
    (ENDPOINTS, "RegisterCellRequest.endpoints"),
    (WEIGHT, "weight"),
    (MOVES_A_SECOND, "EvacuateCellRequest.rate_per_s"),
)
TABLE: dict[str, Bound] = {name: bound for bound, names in _TABLE for name in names.split()}


def bound_of(message: str, field: str) -> Bound | None:
    return TABLE.get(f"{message}.{field}", TABLE.get(field))


# --- checks -----------------------------------------------------------------------------------------------------------


def invalid(field: str, problem: str, value: object = "") -> FieldInvalid:
    return FieldInvalid(field=field, problem=problem, value=str(value)[:SHOWN_MAX])


def number_in(value: N, field: str, bound: Number) -> N:
    """Raises FieldInvalid."""
    if not bound.takes(value):
        raise invalid(field, f"must be {bound}", value)
    return value


def text_in(text: str, field: str, bound: Text) -> str:
    """The one rule for every text that comes in (docs/texts.md). Raises FieldInvalid."""
    if _is_plain_id(text) and bound.least <= len(text) <= bound.most:
        return text
    if not bound.least <= len(text) <= bound.most:
        length = f"must have {bound.least:,} to {bound.most:,} characters, has {len(text):,}"
        raise invalid(field, length if text else "is missing", ascii(text))
    problem = problem_of(text, identifier=bound.identifier)
    if problem is not None:
        raise invalid(field, problem, ascii(text))
    personal = personal_in(text) if bound.impersonal else None
    if personal is not None:
        # The value must not end up in a log of refusals either.
        raise invalid(field, f"looks like {personal}, and is kept for good: send an opaque id", "not shown")
    return text


def _is_plain_id(text: str) -> bool:
    """True for most references. No rule refuses such a text, and this check takes a fraction of the rules' time."""
    return _PLAIN_ID.fullmatch(text) is not None and not text.replace("-", "").isdigit()


def region_in(text: str, field: str = "region") -> str:
    """An empty text means any region. Raises FieldInvalid."""
    if _REGION.fullmatch(text) is None:
        raise invalid(field, f"must be {REGION}, or empty for any", text)
    return text


def items_in(items: Sized, field: str, bound: Items) -> None:
    """Raises FieldInvalid."""
    if not bound.least <= len(items) <= bound.most:
        raise invalid(field, f"must have {bound}" if items else "is missing", len(items))


def bytes_in(content: bytes, field: str, bound: Bytes) -> bytes:
    """Raises FieldInvalid."""
    if len(content) != bound.length:
        raise invalid(field, f"must have {bound}", len(content))
    return content


def is_derived(user_id: uuid.UUID) -> bool:
    """Whether an id is of the kind that sagas and legs get, which are derived from public ids.

    Streams of all kinds share one id space: a user with such an id would occupy the stream of a later settlement.
    """
    return user_id.version == DERIVED
