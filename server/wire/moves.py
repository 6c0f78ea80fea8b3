"""MoveService, and the leg of a move that crosses cells: a user leaves one cell for another."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from cellbook.v1 import event_pb2, settlement_pb2
from cellbook.v1 import move_pb2 as pb
from cells.domain.account.balance import Balance, Hold
from cells.domain.moves.commands import ArriveUser
from cells.domain.time.hlc import Stamp
from cells.encoding.codec import canonical, leaf_hash, recanonical
from cells.moves.user_bundle import MovedEvent, MovedPlace, UserBundle
from cells.store.ports import EventRow, OutcomeRow
from server.shell.fields.bounds import (
    AMOUNT_OR_NONE,
    CELLS,
    CURRENCIES,
    HOLDS,
    MOVED,
    POSITION,
    POSITION_OR_NONE,
    invalid,
    items_in,
    number_in,
)
from server.shell.fields.parse import parse_cell, parse_uuid
from server.wire.convert import parse, to_proto
from server.wire.events import event_to_proto
from server.wire.fields import parse_currency, parse_money
from server.wire.pages import cut

# --- the arrival ------------------------------------------------------------------------------------------------------


def arrive_user_to_proto(action: ArriveUser) -> settlement_pb2.ArriveUser:
    return to_proto(
        settlement_pb2.ArriveUser,
        action,
        balances=[
            to_proto(settlement_pb2.MovedBalance, balance, currency=currency)
            for currency, balance in sorted(action.balances.items())
        ],
        holds=[_hold_to_proto(hold_id, hold) for hold_id, hold in sorted(action.holds.items())],
    )


def _hold_to_proto(hold_id: UUID, hold: Hold) -> settlement_pb2.MovedHold:
    bids = [
        settlement_pb2.MovedBid(bid_id=str(bid), amount_minor=amount) for bid, amount in sorted(hold.bids_minor.items())
    ]
    return to_proto(settlement_pb2.MovedHold, hold, hold_id=hold_id, bids=bids)


def parse_arrive_user(message: settlement_pb2.ArriveUser) -> ArriveUser:
    """Raises Invalid."""
    items_in(message.balances, "balances", CURRENCIES)
    items_in(message.holds, "holds", HOLDS)
    return parse(
        ArriveUser,
        message,
        balances=dict(_parse_balance(each) for each in message.balances),
        holds=dict(_parse_hold(each) for each in message.holds),
    )


def _parse_balance(message: settlement_pb2.MovedBalance) -> tuple[str, Balance]:
    currency = parse_currency(message.currency, "balances.currency")
    balance = parse(Balance, message, "balances")
    number_in(balance.total_minor, "balances", AMOUNT_OR_NONE)
    return currency, balance


def _parse_hold(message: settlement_pb2.MovedHold) -> tuple[UUID, Hold]:
    items_in(message.bids, "holds.bids", HOLDS)
    currency, amount_minor = parse_money(message.amount, "holds.amount")
    bids_minor = {
        parse_uuid(bid.bid_id, "holds.bids.bid_id"): number_in(
            bid.amount_minor, "holds.bids.amount_minor", AMOUNT_OR_NONE
        )
        for bid in message.bids
    }
    hold = parse(Hold, message, "holds", currency=currency, amount_minor=amount_minor, bids_minor=bids_minor)
    return parse_uuid(message.hold_id, "holds.hold_id"), hold


# --- bundle ----------------------------------------------------------------------------------------------------------


def baggage_to_proto(bundle: UserBundle) -> pb.BringBaggageRequest:
    return pb.BringBaggageRequest(
        saga_id=str(bundle.saga_id),
        user_id=str(bundle.user_id),
        events=[event_to_proto(event.row, event.cell) for event in bundle.events],
        outcomes=[_outcome_to_proto(row) for row in bundle.outcomes],
        called_off=bundle.called_off,
    )


def _outcome_to_proto(row: OutcomeRow) -> pb.CarriedOutcome:
    # The database has its own spelling of JSON.
    outcome = recanonical(row.outcome)
    return to_proto(pb.CarriedOutcome, row, outcome_json=outcome, hlc=Stamp(row.hlc_physical, row.hlc_logical))


def parse_bundle(request: pb.BringBaggageRequest, caller: str, now: datetime) -> UserBundle:
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
    row = parse(EventRow, event, "events", vector_clock="")
    row = row._replace(vector_clock=_parse_vector(event))
    if row.aggregate_id != user_id:
        raise invalid("events.aggregate_id", "must be the user's own", event.aggregate_id)
    if leaf_hash(row) != row.leaf_hash:
        raise invalid("events.leaf_hash", f"is not that of the event at position {row.position}", row.leaf_hash.hex())
    return MovedEvent(parse_cell(event.cell, "events.cell"), row)


def _parse_vector(event: event_pb2.Event) -> str:
    vector, field = event.vector_clock, "events.vector_clock"
    items_in(vector, field, CELLS)
    return canonical({parse_cell(cell, field): number_in(at, field, POSITION_OR_NONE) for cell, at in vector.items()})


def _parse_outcome(outcome: pb.CarriedOutcome, user_id: UUID, caller: str, now: datetime) -> OutcomeRow:
    cell = parse_cell(outcome.cell or caller, "outcomes.cell")
    return parse(OutcomeRow, outcome, "outcomes", recorded_at=now, user_id=user_id, cell=cell)


# --- earlier events ---------------------------------------------------------------------------------------------------


def parse_place(token: str) -> MovedPlace | None:
    """Where a page begins: after this event."""
    if not token:
        return None
    cell, _, position = token.partition("/")
    if not position.isdecimal() or len(position) > len(str(POSITION.most)):
        raise invalid("page_token", "is not a token of this list", token)
    return MovedPlace(parse_cell(cell, "page_token"), int(position))


def earlier_to_proto(events: Sequence[MovedEvent], size: int) -> pb.ListEarlierEventsResponse:
    page, last = cut(events, size)
    return pb.ListEarlierEventsResponse(
        events=[event_to_proto(event.row, event.cell) for event in page],
        next_page_token=f"{last.cell}/{last.row.position}" if last is not None else "",
    )
