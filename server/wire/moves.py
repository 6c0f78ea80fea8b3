"""MoveService, and the leg of a move that crosses cells: a user leaves one cell for another."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cellbook.v1 import event_pb2, move_pb2, settlement_pb2, types_pb2
from cells.baggage import Baggage, MovedEvent, MovedPlace
from cells.codec import canonical, leaf_hash, parsed, recanonical
from cells.domain.hlc import Stamp
from cells.domain.move_commands import ArriveUser, BeginMove
from cells.domain.purse import Balance, EarlierHome, Hold, MoveCommand
from cells.domain.refusals import UnknownCurrency
from cells.domain.values import CURRENCY_EXPONENTS
from cells.ports import EventRow, OutcomeRow
from cells.requests import Outcome
from server.shell.bounds import (
    AMOUNT_OR_NONE,
    CELLS,
    CURRENCIES,
    EPOCH,
    EPOCH_OR_NONE,
    EVENT_TYPE,
    HASH,
    HOLDS,
    HOMES,
    JSON,
    LOGICAL,
    MOVED,
    POSITION,
    POSITION_OR_NONE,
    PRINCIPAL_OR_NONE,
    RECORDED_AT,
    STAMP,
    TIME_OR_NONE,
    bytes_in,
    invalid,
    items_in,
    number_in,
    region_in,
    text_in,
)
from server.wire.common import cell_in, id_out, money_in, money_out, optional_uuid_in, receipt_out, stamp_out, uuid_in
from server.wire.events import event_out

# As JSON escapes it. A plain text may look the same.
NUL = "\\u0000"
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- the beginning ----------------------------------------------------------------------------------------------------


def begin_in(request: move_pb2.BeginMoveRequest) -> BeginMove:
    return BeginMove(
        user_id=uuid_in(request.user_id, "user_id"),
        to_cell=cell_in(request.to_cell, "to_cell"),
        region=region_in(request.region, "region") if request.HasField("region") else None,
        from_epoch=number_in(request.from_epoch, "from_epoch", EPOCH_OR_NONE) or None,
    )


def begun_out(outcome: Outcome) -> move_pb2.BeginMoveResponse:
    return move_pb2.BeginMoveResponse(
        receipt=receipt_out(outcome),
        saga_id=outcome.result["saga_id"],
        cell=outcome.result["cell"],
        epoch=int(outcome.result["epoch"]),
    )


# --- the arrival ------------------------------------------------------------------------------------------------------


def arrive_user_out(action: ArriveUser) -> settlement_pb2.ArriveUser:
    return settlement_pb2.ArriveUser(
        user_id=str(action.user_id),
        from_cell=action.from_cell,
        epoch=action.epoch,
        balances=[_balance_out(currency, balance) for currency, balance in sorted(action.balances.items())],
        holds=[_hold_out(hold_id, hold) for hold_id, hold in sorted(action.holds.items())],
        earlier_homes=earlier_homes_out(action.earlier_homes),
        begun_by=_begun_by_out(action.begun_by) if action.begun_by is not None else None,
    )


def _begun_by_out(command: MoveCommand) -> settlement_pb2.MoveCommand:
    return settlement_pb2.MoveCommand(
        command_id=str(command.command_id), principal=command.principal, fingerprint=command.fingerprint
    )


def _balance_out(currency: str, balance: Balance) -> settlement_pb2.MovedBalance:
    return settlement_pb2.MovedBalance(
        currency=currency,
        available_minor=balance.available_minor,
        reserved_minor=balance.reserved_minor,
        pending_minor=balance.pending_minor,
    )


def _hold_out(hold_id: UUID, hold: Hold) -> settlement_pb2.MovedHold:
    return settlement_pb2.MovedHold(
        hold_id=str(hold_id),
        amount=money_out(hold.currency, hold.amount_minor),
        expire_time_ms=hold.expire_time_ms or 0,
        saga_id=id_out(hold.saga_id),
        bids=[
            settlement_pb2.MovedBid(bid_id=str(bid), amount_minor=amount)
            for bid, amount in sorted(hold.bids_minor.items())
        ],
        auction_cell=hold.auction_cell,
    )


def earlier_homes_out(homes: Sequence[EarlierHome]) -> list[types_pb2.EarlierHome]:
    return [types_pb2.EarlierHome(cell=home.cell, epoch=home.epoch, events=home.events) for home in homes]


def arrive_user_in(message: settlement_pb2.ArriveUser) -> ArriveUser:
    """Raises Invalid."""
    items_in(message.balances, "balances", CURRENCIES)
    items_in(message.holds, "holds", HOLDS)
    items_in(message.earlier_homes, "earlier_homes", HOMES)
    return ArriveUser(
        user_id=uuid_in(message.user_id, "user_id"),
        from_cell=cell_in(message.from_cell, "from_cell"),
        epoch=number_in(message.epoch, "epoch", EPOCH),
        balances=dict(_balance_in(balance, "balances") for balance in message.balances),
        holds=dict(_hold_in(hold, "holds") for hold in message.holds),
        earlier_homes=tuple(_earlier_home_in(home, "earlier_homes") for home in message.earlier_homes),
        begun_by=_begun_by_in(message.begun_by) if message.HasField("begun_by") else None,
    )


def _begun_by_in(message: settlement_pb2.MoveCommand) -> MoveCommand:
    return MoveCommand(
        principal=text_in(message.principal, "begun_by.principal", PRINCIPAL_OR_NONE),
        command_id=uuid_in(message.command_id, "begun_by.command_id"),
        fingerprint=bytes_in(message.fingerprint, "begun_by.fingerprint", HASH),
    )


def _balance_in(message: settlement_pb2.MovedBalance, field: str) -> tuple[str, Balance]:
    if message.currency not in CURRENCY_EXPONENTS:
        raise UnknownCurrency(field=f"{field}.currency", currency=message.currency)
    balance = Balance(
        available_minor=_minor_in(message.available_minor, f"{field}.available_minor"),
        reserved_minor=_minor_in(message.reserved_minor, f"{field}.reserved_minor"),
        pending_minor=_minor_in(message.pending_minor, f"{field}.pending_minor"),
    )
    _minor_in(balance.total_minor, field)
    return message.currency, balance


def _minor_in(amount_minor: int, field: str) -> int:
    return number_in(amount_minor, field, AMOUNT_OR_NONE)


def _hold_in(message: settlement_pb2.MovedHold, field: str) -> tuple[UUID, Hold]:
    items_in(message.bids, f"{field}.bids", HOLDS)
    amount = money_in(message.amount, f"{field}.amount")
    hold = Hold(
        currency=amount.currency,
        amount_minor=amount.amount_minor,
        expire_time_ms=number_in(message.expire_time_ms, f"{field}.expire_time_ms", TIME_OR_NONE) or None,
        saga_id=optional_uuid_in(message.saga_id, f"{field}.saga_id"),
        bids_minor={
            uuid_in(bid.bid_id, f"{field}.bids.bid_id"): _minor_in(bid.amount_minor, f"{field}.bids.amount_minor")
            for bid in message.bids
        },
        auction_cell=cell_in(message.auction_cell, f"{field}.auction_cell") if message.auction_cell else "",
    )
    return uuid_in(message.hold_id, f"{field}.hold_id"), hold


def _earlier_home_in(message: types_pb2.EarlierHome, field: str) -> EarlierHome:
    return EarlierHome(
        cell_in(message.cell, f"{field}.cell"),
        number_in(message.epoch, f"{field}.epoch", EPOCH),
        number_in(message.events, f"{field}.events", POSITION),
    )


# --- baggage ----------------------------------------------------------------------------------------------------------


def baggage_out(baggage: Baggage) -> move_pb2.BringBaggageRequest:
    return move_pb2.BringBaggageRequest(
        saga_id=str(baggage.saga_id),
        user_id=str(baggage.user_id),
        events=[event_out(event.row, event.cell) for event in baggage.events],
        outcomes=[_outcome_out(row) for row in baggage.outcomes],
        called_off=baggage.called_off,
    )


def held_out(held: Mapping[str, int]) -> move_pb2.BringBaggageResponse:
    return move_pb2.BringBaggageResponse(
        held=[move_pb2.HeldEvents(cell=cell, events=events) for cell, events in sorted(held.items())]
    )


def _outcome_out(row: OutcomeRow) -> move_pb2.CarriedOutcome:
    return move_pb2.CarriedOutcome(
        command_id=str(row.command_id),
        fingerprint=row.fingerprint,
        # The database has its own spelling of JSON.
        outcome_json=recanonical(row.outcome),
        position=row.position,
        hlc=stamp_out(Stamp(row.hlc_physical, row.hlc_logical)),
        principal=row.principal,
        cell=row.cell or "",
    )


def baggage_in(request: move_pb2.BringBaggageRequest, caller: str, now: datetime) -> Baggage:
    """Brought by the cell `caller`. Raises Invalid, above all if an event does not match its hash."""
    items_in(request.events, "events", MOVED)
    items_in(request.outcomes, "outcomes", MOVED)
    user_id = uuid_in(request.user_id, "user_id")
    return Baggage(
        saga_id=uuid_in(request.saga_id, "saga_id"),
        user_id=user_id,
        events=[_event_in(event, user_id) for event in request.events],
        outcomes=[_outcome_in(outcome, user_id, caller, now) for outcome in request.outcomes],
        called_off=request.called_off,
    )


def _event_in(event: event_pb2.Event, user_id: UUID) -> MovedEvent:
    row = EventRow(
        position=number_in(event.position, "events.position", POSITION),
        event_id=uuid_in(event.event_id, "events.event_id"),
        event_type=text_in(event.event_type, "events.event_type", EVENT_TYPE),
        aggregate_id=uuid_in(event.aggregate_id, "events.aggregate_id"),
        stream_version=number_in(event.stream_version, "events.stream_version", POSITION),
        causation_id=optional_uuid_in(event.causation_id, "events.causation_id"),
        correlation_id=uuid_in(event.correlation_id, "events.correlation_id"),
        hlc_physical=number_in(event.hlc.physical_ms, "events.hlc.physical_ms", STAMP),
        hlc_logical=number_in(event.hlc.logical, "events.hlc.logical", LOGICAL),
        vector_clock=_vector_in(event.vector_clock, "events.vector_clock"),
        payload=_json_in(event.payload_json, "events.payload_json"),
        metadata=_json_in(event.metadata_json, "events.metadata_json"),
        user_id=optional_uuid_in(event.user_id, "events.user_id"),
        recorded_at=_moment_in(event.recorded_at_us),
        leaf_hash=bytes_in(event.leaf_hash, "events.leaf_hash", HASH),
    )
    if row.aggregate_id != user_id:
        raise invalid("events.aggregate_id", "must be the user's own", event.aggregate_id)
    if leaf_hash(row) != row.leaf_hash:
        raise invalid("events.leaf_hash", f"is not that of the event at position {row.position}", row.leaf_hash.hex())
    return MovedEvent(cell_in(event.cell, "events.cell"), row)


def _vector_in(vector: Mapping[str, int], field: str) -> str:
    items_in(vector, field, CELLS)
    return canonical({cell_in(cell, field): number_in(at, field, POSITION_OR_NONE) for cell, at in vector.items()})


def _moment_in(recorded_at_us: int) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=number_in(recorded_at_us, "events.recorded_at_us", RECORDED_AT))


def _json_in(text: str, field: str) -> str:
    """Canonical JSON, as it is hashed and stored. NUL is searched in the parsed text, where escapes are resolved."""
    if not JSON.least <= len(text) <= JSON.most:
        raise invalid(field, f"must be {JSON}", len(text))
    try:
        content = parsed(text)
        as_stored = canonical(content)
    except (ValueError, RecursionError):
        raise invalid(field, "is no JSON", text) from None
    if not isinstance(content, dict) or as_stored != text:
        raise invalid(field, "is not canonical", text)
    if NUL in text and any("\x00" in said for said in _texts_in(content)):
        raise invalid(field, "holds a NUL, which no database stores", text)
    return text


def _texts_in(content: object) -> Iterator[str]:
    match content:
        case str():
            yield content
        case list():
            for each in content:
                yield from _texts_in(each)
        case dict():
            for key, value in content.items():
                yield key
                yield from _texts_in(value)
        case _:
            pass


def _outcome_in(outcome: move_pb2.CarriedOutcome, user_id: UUID, caller: str, now: datetime) -> OutcomeRow:
    return OutcomeRow(
        command_id=uuid_in(outcome.command_id, "outcomes.command_id"),
        fingerprint=bytes_in(outcome.fingerprint, "outcomes.fingerprint", HASH),
        outcome=_json_in(outcome.outcome_json, "outcomes.outcome_json"),
        position=number_in(outcome.position, "outcomes.position", POSITION_OR_NONE),
        hlc_physical=number_in(outcome.hlc.physical_ms, "outcomes.hlc.physical_ms", STAMP),
        hlc_logical=number_in(outcome.hlc.logical, "outcomes.hlc.logical", LOGICAL),
        recorded_at=now,
        user_id=user_id,
        principal=text_in(outcome.principal, "outcomes.principal", PRINCIPAL_OR_NONE),
        cell=cell_in(outcome.cell or caller, "outcomes.cell"),
    )


# --- earlier events ---------------------------------------------------------------------------------------------------


def place_in(token: str) -> MovedPlace | None:
    """Where a page begins: after this event."""
    if not token:
        return None
    cell, _, position = token.partition("/")
    if not position.isdecimal() or len(position) > len(str(POSITION.most)):
        raise invalid("page_token", "is not a token of this list", token)
    return MovedPlace(cell_in(cell, "page_token"), int(position))


def earlier_out(events: Sequence[MovedEvent], size: int) -> move_pb2.ListEarlierEventsResponse:
    """One page of at most `size`; a further event means that there is a next page."""
    last = events[size - 1] if len(events) > size else None
    return move_pb2.ListEarlierEventsResponse(
        events=[event_out(event.row, event.cell) for event in events[:size]],
        next_page_token=f"{last.cell}/{last.row.position}" if last is not None else "",
    )
