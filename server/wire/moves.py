"""MoveService, and the leg of a move that crosses cells: a user leaves one cell for another."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cellbook.v1 import event_pb2, move_pb2, settlement_pb2, types_pb2
from cells.domain.account.balance import Balance, EarlierHome, Hold, MoveCommand
from cells.domain.moves.commands import ArriveUser, BeginMove
from cells.domain.refusals import UnknownCurrency
from cells.domain.time.hlc import Stamp
from cells.domain.values import CURRENCY_EXPONENTS
from cells.encoding.codec import canonical, leaf_hash, parsed, recanonical
from cells.moves.user_bundle import MovedEvent, MovedPlace, UserBundle
from cells.requests import Outcome
from cells.store.ports import EventRow, OutcomeRow
from server.shell.fields.bounds import (
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
from server.wire.common import (
    id_to_proto,
    money_to_proto,
    parse_cell,
    parse_money,
    parse_optional_uuid,
    parse_uuid,
    receipt_to_proto,
    stamp_to_proto,
)
from server.wire.events import event_to_proto

# As JSON escapes it. A plain text may look the same.
NUL = "\\u0000"
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- the beginning ----------------------------------------------------------------------------------------------------


def parse_begin(request: move_pb2.BeginMoveRequest) -> BeginMove:
    return BeginMove(
        user_id=parse_uuid(request.user_id, "user_id"),
        to_cell=parse_cell(request.to_cell, "to_cell"),
        region=region_in(request.region, "region") if request.HasField("region") else None,
        from_epoch=number_in(request.from_epoch, "from_epoch", EPOCH_OR_NONE) or None,
    )


def begun_to_proto(outcome: Outcome) -> move_pb2.BeginMoveResponse:
    return move_pb2.BeginMoveResponse(
        receipt=receipt_to_proto(outcome),
        saga_id=outcome.result["saga_id"],
        cell=outcome.result["cell"],
        epoch=int(outcome.result["epoch"]),
    )


# --- the arrival ------------------------------------------------------------------------------------------------------


def arrive_user_to_proto(action: ArriveUser) -> settlement_pb2.ArriveUser:
    return settlement_pb2.ArriveUser(
        user_id=str(action.user_id),
        from_cell=action.from_cell,
        epoch=action.epoch,
        balances=[_balance_to_proto(currency, balance) for currency, balance in sorted(action.balances.items())],
        holds=[_hold_to_proto(hold_id, hold) for hold_id, hold in sorted(action.holds.items())],
        earlier_homes=earlier_homes_to_proto(action.earlier_homes),
        begun_by=_begun_by_to_proto(action.begun_by) if action.begun_by is not None else None,
    )


def _begun_by_to_proto(command: MoveCommand) -> settlement_pb2.MoveCommand:
    return settlement_pb2.MoveCommand(
        command_id=str(command.command_id), principal=command.principal, fingerprint=command.fingerprint
    )


def _balance_to_proto(currency: str, balance: Balance) -> settlement_pb2.MovedBalance:
    return settlement_pb2.MovedBalance(
        currency=currency,
        available_minor=balance.available_minor,
        reserved_minor=balance.reserved_minor,
        pending_minor=balance.pending_minor,
    )


def _hold_to_proto(hold_id: UUID, hold: Hold) -> settlement_pb2.MovedHold:
    return settlement_pb2.MovedHold(
        hold_id=str(hold_id),
        amount=money_to_proto(hold.currency, hold.amount_minor),
        expire_time_ms=hold.expire_time_ms or 0,
        saga_id=id_to_proto(hold.saga_id),
        bids=[
            settlement_pb2.MovedBid(bid_id=str(bid), amount_minor=amount)
            for bid, amount in sorted(hold.bids_minor.items())
        ],
        auction_cell=hold.auction_cell,
    )


def earlier_homes_to_proto(homes: Sequence[EarlierHome]) -> list[types_pb2.EarlierHome]:
    return [types_pb2.EarlierHome(cell=home.cell, epoch=home.epoch, events=home.events) for home in homes]


def parse_arrive_user(message: settlement_pb2.ArriveUser) -> ArriveUser:
    """Raises Invalid."""
    items_in(message.balances, "balances", CURRENCIES)
    items_in(message.holds, "holds", HOLDS)
    items_in(message.earlier_homes, "earlier_homes", HOMES)
    return ArriveUser(
        user_id=parse_uuid(message.user_id, "user_id"),
        from_cell=parse_cell(message.from_cell, "from_cell"),
        epoch=number_in(message.epoch, "epoch", EPOCH),
        balances=dict(_parse_balance(balance, "balances") for balance in message.balances),
        holds=dict(_parse_hold(hold, "holds") for hold in message.holds),
        earlier_homes=tuple(_parse_earlier_home(home, "earlier_homes") for home in message.earlier_homes),
        begun_by=_parse_begun_by(message.begun_by) if message.HasField("begun_by") else None,
    )


def _parse_begun_by(message: settlement_pb2.MoveCommand) -> MoveCommand:
    return MoveCommand(
        principal=text_in(message.principal, "begun_by.principal", PRINCIPAL_OR_NONE),
        command_id=parse_uuid(message.command_id, "begun_by.command_id"),
        fingerprint=bytes_in(message.fingerprint, "begun_by.fingerprint", HASH),
    )


def _parse_balance(message: settlement_pb2.MovedBalance, field: str) -> tuple[str, Balance]:
    if message.currency not in CURRENCY_EXPONENTS:
        raise UnknownCurrency(field=f"{field}.currency", currency=message.currency)
    balance = Balance(
        available_minor=_parse_minor(message.available_minor, f"{field}.available_minor"),
        reserved_minor=_parse_minor(message.reserved_minor, f"{field}.reserved_minor"),
        pending_minor=_parse_minor(message.pending_minor, f"{field}.pending_minor"),
    )
    _parse_minor(balance.total_minor, field)
    return message.currency, balance


def _parse_minor(amount_minor: int, field: str) -> int:
    return number_in(amount_minor, field, AMOUNT_OR_NONE)


def _parse_hold(message: settlement_pb2.MovedHold, field: str) -> tuple[UUID, Hold]:
    items_in(message.bids, f"{field}.bids", HOLDS)
    amount = parse_money(message.amount, f"{field}.amount")
    hold = Hold(
        currency=amount.currency,
        amount_minor=amount.amount_minor,
        expire_time_ms=number_in(message.expire_time_ms, f"{field}.expire_time_ms", TIME_OR_NONE) or None,
        saga_id=parse_optional_uuid(message.saga_id, f"{field}.saga_id"),
        bids_minor={
            parse_uuid(bid.bid_id, f"{field}.bids.bid_id"): _parse_minor(bid.amount_minor, f"{field}.bids.amount_minor")
            for bid in message.bids
        },
        auction_cell=parse_cell(message.auction_cell, f"{field}.auction_cell") if message.auction_cell else "",
    )
    return parse_uuid(message.hold_id, f"{field}.hold_id"), hold


def _parse_earlier_home(message: types_pb2.EarlierHome, field: str) -> EarlierHome:
    return EarlierHome(
        parse_cell(message.cell, f"{field}.cell"),
        number_in(message.epoch, f"{field}.epoch", EPOCH),
        number_in(message.events, f"{field}.events", POSITION),
    )


# --- bundle ----------------------------------------------------------------------------------------------------------


def baggage_to_proto(bundle: UserBundle) -> move_pb2.BringBaggageRequest:
    return move_pb2.BringBaggageRequest(
        saga_id=str(bundle.saga_id),
        user_id=str(bundle.user_id),
        events=[event_to_proto(event.row, event.cell) for event in bundle.events],
        outcomes=[_outcome_to_proto(row) for row in bundle.outcomes],
        called_off=bundle.called_off,
    )


def held_to_proto(held: Mapping[str, int]) -> move_pb2.BringBaggageResponse:
    return move_pb2.BringBaggageResponse(
        held=[move_pb2.HeldEvents(cell=cell, events=events) for cell, events in sorted(held.items())]
    )


def _outcome_to_proto(row: OutcomeRow) -> move_pb2.CarriedOutcome:
    return move_pb2.CarriedOutcome(
        command_id=str(row.command_id),
        fingerprint=row.fingerprint,
        # The database has its own spelling of JSON.
        outcome_json=recanonical(row.outcome),
        position=row.position,
        hlc=stamp_to_proto(Stamp(row.hlc_physical, row.hlc_logical)),
        principal=row.principal,
        cell=row.cell or "",
    )


def parse_bundle(request: move_pb2.BringBaggageRequest, caller: str, now: datetime) -> UserBundle:
    """Brought by the cell `caller`. Raises Invalid, above all if an event does not match its hash."""
    items_in(request.events, "events", MOVED)
    items_in(request.outcomes, "outcomes", MOVED)
    user_id = parse_uuid(request.user_id, "user_id")
    return UserBundle(
        saga_id=parse_uuid(request.saga_id, "saga_id"),
        user_id=user_id,
        events=[_parse_event(event, user_id) for event in request.events],
        outcomes=[_parse_outcome(outcome, user_id, caller, now) for outcome in request.outcomes],
        called_off=request.called_off,
    )


def _parse_event(event: event_pb2.Event, user_id: UUID) -> MovedEvent:
    row = EventRow(
        position=number_in(event.position, "events.position", POSITION),
        event_id=parse_uuid(event.event_id, "events.event_id"),
        event_type=text_in(event.event_type, "events.event_type", EVENT_TYPE),
        aggregate_id=parse_uuid(event.aggregate_id, "events.aggregate_id"),
        stream_version=number_in(event.stream_version, "events.stream_version", POSITION),
        causation_id=parse_optional_uuid(event.causation_id, "events.causation_id"),
        correlation_id=parse_uuid(event.correlation_id, "events.correlation_id"),
        hlc_physical=number_in(event.hlc.physical_ms, "events.hlc.physical_ms", STAMP),
        hlc_logical=number_in(event.hlc.logical, "events.hlc.logical", LOGICAL),
        vector_clock=_parse_vector(event.vector_clock, "events.vector_clock"),
        payload=_parse_json(event.payload_json, "events.payload_json"),
        metadata=_parse_json(event.metadata_json, "events.metadata_json"),
        user_id=parse_optional_uuid(event.user_id, "events.user_id"),
        recorded_at=_parse_moment(event.recorded_at_us),
        leaf_hash=bytes_in(event.leaf_hash, "events.leaf_hash", HASH),
    )
    if row.aggregate_id != user_id:
        raise invalid("events.aggregate_id", "must be the user's own", event.aggregate_id)
    if leaf_hash(row) != row.leaf_hash:
        raise invalid("events.leaf_hash", f"is not that of the event at position {row.position}", row.leaf_hash.hex())
    return MovedEvent(parse_cell(event.cell, "events.cell"), row)


def _parse_vector(vector: Mapping[str, int], field: str) -> str:
    items_in(vector, field, CELLS)
    return canonical({parse_cell(cell, field): number_in(at, field, POSITION_OR_NONE) for cell, at in vector.items()})


def _parse_moment(recorded_at_us: int) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=number_in(recorded_at_us, "events.recorded_at_us", RECORDED_AT))


def _parse_json(text: str, field: str) -> str:
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
    if NUL in text and any("\x00" in said for said in _parse_texts(content)):
        raise invalid(field, "holds a NUL, which no database stores", text)
    return text


def _parse_texts(content: object) -> Iterator[str]:
    match content:
        case str():
            yield content
        case list():
            for each in content:
                yield from _parse_texts(each)
        case dict():
            for key, value in content.items():
                yield key
                yield from _parse_texts(value)
        case _:
            pass


def _parse_outcome(outcome: move_pb2.CarriedOutcome, user_id: UUID, caller: str, now: datetime) -> OutcomeRow:
    return OutcomeRow(
        command_id=parse_uuid(outcome.command_id, "outcomes.command_id"),
        fingerprint=bytes_in(outcome.fingerprint, "outcomes.fingerprint", HASH),
        outcome=_parse_json(outcome.outcome_json, "outcomes.outcome_json"),
        position=number_in(outcome.position, "outcomes.position", POSITION_OR_NONE),
        hlc_physical=number_in(outcome.hlc.physical_ms, "outcomes.hlc.physical_ms", STAMP),
        hlc_logical=number_in(outcome.hlc.logical, "outcomes.hlc.logical", LOGICAL),
        recorded_at=now,
        user_id=user_id,
        principal=text_in(outcome.principal, "outcomes.principal", PRINCIPAL_OR_NONE),
        cell=parse_cell(outcome.cell or caller, "outcomes.cell"),
    )


# --- earlier events ---------------------------------------------------------------------------------------------------


def parse_place(token: str) -> MovedPlace | None:
    """Where a page begins: after this event."""
    if not token:
        return None
    cell, _, position = token.partition("/")
    if not position.isdecimal() or len(position) > len(str(POSITION.most)):
        raise invalid("page_token", "is not a token of this list", token)
    return MovedPlace(parse_cell(cell, "page_token"), int(position))


def earlier_to_proto(events: Sequence[MovedEvent], size: int) -> move_pb2.ListEarlierEventsResponse:
    """One page of at most `size`; a further event means that there is a next page."""
    last = events[size - 1] if len(events) > size else None
    return move_pb2.ListEarlierEventsResponse(
        events=[event_to_proto(event.row, event.cell) for event in events[:size]],
        next_page_token=f"{last.cell}/{last.row.position}" if last is not None else "",
    )
