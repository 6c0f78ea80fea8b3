"""Between cells and to auditors: legs, sagas and events on the wire."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from cellbook.v1 import event_pb2, saga_pb2, settlement_pb2
from cells.domain.account.balance import Balance, EarlierHome, Hold
from cells.domain.account.barrier import command_id
from cells.domain.commands import (
    CompensateLeg,
    CreditPending,
    LegAction,
    NotifyParty,
    PayOutEscrow,
    PinHold,
    ReceiveEscrow,
    ReceiveTransfer,
    ReleaseBid,
    ReserveForBid,
    SendToEscrow,
    SendTransfer,
    SettlePending,
    SubmitBid,
    TransferOwnership,
)
from cells.domain.moves.commands import AnnounceMove, ArriveUser, DepartUser, LeaveUser, StopFlows, TellHome
from cells.domain.record import replace
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.saga import LegProgress, LegState, Saga, SagaState
from cells.domain.sagas.saga_events import RemoteBidFacts
from cells.domain.values import Direction, LegId, Money
from cells.requests import CaughtUp, Lane
from cells.sagas.admin import SagaView
from cells.sagas.executions import SagaExecution
from cells.store.ports import EventRow, LegCall
from server.services import sagas
from server.wire import events, legs
from tests.integration import rows
from tests.unit.test_wire import CALL, CELL, U1, U2, U3, U4, USD, outcome_of, refusal_of

# --- legs ---

BID = SubmitBid(auction_id=U2, bid_id=U3, bidder_id=U1, bidder_cell="eu-west", amount=USD, valid_until_ms=9)
ACTIONS: list[LegAction] = [
    PinHold(user_id=U1, auction_id=U2, bid_id=U3, amount=USD),
    SendToEscrow(user_id=U1, auction_id=U2, bid_id=U3, amount=USD, to_cell="eu-west", clearing_id=U4),
    ReceiveEscrow(auction_id=U2, amount=USD, from_cell="eu-west", clearing_id=U4),
    PayOutEscrow(auction_id=U2, amount=USD, to_cell="eu-west", clearing_id=U4),
    CreditPending(user_id=U1, auction_id=U2, amount=USD, from_cell="eu-west", clearing_id=U4),
    TransferOwnership(asset_id=U4, auction_id=U2, from_user_id=U1, to_user_id=U3, to_cell="eu-west"),
    SettlePending(user_id=U1, auction_id=U2, amount=USD, fee_minor=0),
    SettlePending(user_id=U1, auction_id=U2, amount=USD, fee_minor=1_000),
    *(
        NotifyParty(user_id=U1, auction=f"cells/eu-west/auctions/{U2}", amount=USD, notice=notice)
        for notice in ("AUCTION_WON", "ASSET_SOLD", "SETTLEMENT_FAILED_FOR_WINNER", "SETTLEMENT_FAILED_FOR_SELLER")
    ),
    ReserveForBid(user_id=U1, auction_id=U2, bid_id=U3, amount=USD),
    BID,
    replace(BID, maximum=Money("USD", 2_000)),
    ReleaseBid(user_id=U1, auction_id=U2, bid_id=U3, currency="USD"),
    SendTransfer(user_id=U1, to_user_id=U3, amount=USD, to_cell="eu-west", clearing_id=U4),
    ReceiveTransfer(user_id=U3, from_user_id=U1, amount=USD, from_cell="eu-west", clearing_id=U4, valid_until_ms=9),
    ArriveUser(user_id=U1, from_cell="eu-west", epoch=2),
    ArriveUser(
        user_id=U1,
        from_cell="eu-west",
        epoch=2,
        balances={"USD": Balance(available_minor=1, reserved_minor=2, pending_minor=3)},
        holds={
            U2: Hold(currency="USD", amount_minor=2, expire_time_ms=9, bids_minor={U3: 2, U4: 1}),
            U3: Hold(currency="USD", amount_minor=2, saga_id=U4),
        },
        earlier_homes=(EarlierHome("us-east", 1, 7),),
    ),
]
# Taken by the orchestrating cell, or by no cell.
AT_HOME = {AnnounceMove, StopFlows, DepartUser, LeaveUser, TellHome}


def leg_call(action: LegAction) -> LegCall:
    leg_id = LegId(U4, "escrow-out", 1)
    return LegCall(leg_id=leg_id, action=action, orchestrator="eu-west", causation_id=U3, user_id=U1)


def test_every_action_of_a_leg_is_tried() -> None:
    """The list above has one of each kind."""
    assert {type(action) for action in ACTIONS} == set(LegAction.__args__) - AT_HOME
    kinds = settlement_pb2.Leg.DESCRIPTOR.oneofs_by_name["action"].fields
    assert {legs.leg_to_proto(leg_call(action)).WhichOneof("action") for action in ACTIONS} == {
        kind.name for kind in kinds
    }


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_a_leg_arrives_as_it_was_sent(action: LegAction) -> None:
    """Over the wire and back, nothing of a leg is lost."""
    sent = leg_call(action)
    content = legs.leg_to_proto(sent).SerializeToString()
    assert legs.leg_from_proto(settlement_pb2.Leg.FromString(content)) == sent


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_a_leg_with_any_field_missing_is_refused(action: LegAction) -> None:
    """Every field is required, except a fee, which may be 0, a maximum, lists, and fields unknown to older cells."""
    whole = legs.leg_to_proto(leg_call(action))
    kind = str(whole.WhichOneof("action"))
    for field in getattr(whole, kind).DESCRIPTOR.fields:
        if field.name in {"fee_minor", "begun_by", "maximum"} or field.is_repeated:
            continue
        leg = settlement_pb2.Leg()
        leg.CopyFrom(whole)
        getattr(leg, kind).ClearField(field.name)
        refused = refusal_of(lambda leg=leg: legs.leg_from_proto(leg))  # type: ignore[misc]
        assert str(refused.facts["field"]).split(".")[0] == field.name


def test_a_leg_without_a_known_action_is_refused() -> None:
    """An action of a newer version looks like a missing one."""
    leg = legs.leg_to_proto(leg_call(ACTIONS[0]))
    leg.ClearField("action")
    assert refusal_of(lambda: legs.leg_from_proto(leg)).facts["field"] == "leg.action"


def test_a_fee_is_no_more_than_the_price() -> None:
    """A fee beyond the amount would take money that is not there."""
    leg = legs.leg_to_proto(leg_call(SettlePending(user_id=U1, auction_id=U2, amount=USD, fee_minor=1_001)))
    assert refusal_of(lambda: legs.leg_from_proto(leg)).facts["field"] == "fee_minor"


def test_a_leg_is_a_command_named_by_the_saga() -> None:
    """Its id follows from the leg, its flow is the saga, it is urgent, and the barrier stores its outcome."""
    leg = leg_call(ACTIONS[0])
    request = legs.parse_leg_request(
        leg, Direction.COMPENSATION, cell="us-east", call=CALL, now_s=1.0, size_bytes=9, sent_ms=7
    )
    assert request.command == CompensateLeg(leg_id=leg.leg_id, action=leg.action, orchestrator="eu-west")
    assert request.command_id == command_id(request.command, "us-east")
    assert (request.correlation_id, request.causation_id, request.user_id) == (U4, U3, U1)
    assert (request.fingerprint, request.lane, request.deadline_s) == (b"", Lane.URGENT, 6.0)


@pytest.mark.parametrize(
    ("result", "expected"), [("UNDONE", "UNDONE"), ("TOMBSTONED", "TOMBSTONED"), ("APPLIED", "PIVOT_DONE")]
)
def test_a_compensation_says_what_it_came_to(result: str, expected: str) -> None:
    """A pivot that had been applied is reported as such."""
    response = legs.compensated_to_proto(outcome_of(LegMark(LegResult(result), U1)))
    name = settlement_pb2.CompensationResult.Name(response.result)
    assert name == f"COMPENSATION_RESULT_{expected}"
    assert (response.event_id, response.replayed, response.token.position) == (str(U1), True, 12)


# --- sagas ---


def test_every_word_of_a_saga_is_on_the_wire() -> None:
    """Kinds, states and leg states have the same names on both sides, except UNSPECIFIED."""
    assert set(sagas.KINDS.values()) == set(SagaKind)
    assert set(sagas.STATES.values()) == set(SagaState)
    on_wire = {name.removeprefix("LEG_STATE_") for name, _ in saga_pb2.LegState.items()}
    assert on_wire == {state.name for state in LegState} | {"UNSPECIFIED"}


def test_a_saga_shows_its_legs() -> None:
    """Each leg with its cell and state, and the attempts of the current one."""
    facts = RemoteBidFacts(
        auction_id=U1,
        auction_cell="eu-west",
        bid_id=U2,
        bidder_id=U3,
        bidder_cell=CELL,
        currency="USD",
        amount_minor=8,
        valid_until_ms=9,
        command_id=U4,
    )
    saga = Saga(
        kind=SagaKind.REMOTE_BID,
        facts=facts,
        state=SagaState.RUNNING,
        legs=(LegProgress(state=LegState.DONE, effect_id=U2), LegProgress(state=LegState.SKIPPED)),
        cursor=1,
        deadline_ms=None,
        started_ms=4,
    )
    message = sagas.saga_to_proto(
        SagaView(U4, saga, 6, SagaExecution(saga_id=U4, saga=saga, attempts=3, last_error="no answer"), stuck=False)
    )
    assert message.auction == f"cells/eu-west/auctions/{U1}"
    assert (message.amount.amount_minor, message.deadline_ms, message.attempts) == (8, 0, 3)
    assert [(leg.leg, leg.cell, leg.event_id, leg.pivot) for leg in message.legs] == [
        ("reserve", CELL, str(U2), False),
        ("submit", "eu-west", "", True),
    ]
    assert message.legs[1].state == saga_pb2.LEG_STATE_SKIPPED
    assert [(party.role, party.user_id, party.cell) for party in message.parties] == [("bidder", str(U3), CELL)]


def test_a_release_has_no_amount() -> None:
    """Only the cell of the hold knows how much it frees."""
    assert not sagas.saga_to_proto(SagaView(U4, rows.saga(), 1, None, stuck=False)).HasField("amount")


# --- events ---


def row_of(payload: dict[str, object]) -> EventRow:
    return rows.event_row(
        7,
        event_id=U1,
        stream_version=3,
        correlation_id=U4,
        vector_clock='{"eu-west":4,"us-east":7}',
        payload=json.dumps(payload),
        recorded_at=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
    )


def test_an_event_leaves_as_it_is_stored() -> None:
    """Every column of the row is on the wire, and its postings are spelled out."""
    lines = [
        {"account": f"users/{U2}/available", "currency": "USD", "amount_minor": "9007199254740993"},
        {"account": "external", "currency": "USD", "amount_minor": "-9007199254740993"},
    ]
    row = row_of({"amount_minor": "9007199254740993", "postings": lines})
    event = events.item_to_proto(row, CELL).event
    assert (event.cell, event.position, event.event_id, event.stream_version) == (CELL, 7, str(U1), 3)
    assert (event.causation_id, event.user_id, event.correlation_id) == ("", "", str(U4))
    assert dict(event.vector_clock) == {"eu-west": 4, "us-east": 7}
    assert event.recorded_at_us == 1_767_323_045_678_901
    assert [line.amount_minor for line in event.postings] == [9007199254740993, -9007199254740993]
    assert event.payload_json == row.payload
    assert event.leaf_hash == row.leaf_hash


def test_text_that_looks_like_postings_is_none() -> None:
    """A description that says "postings" moves no money."""
    assert not events.event_to_proto(row_of({"description": 'the "postings"'}), CELL).postings
    assert events.item_to_proto(CaughtUp(9), CELL).caught_up.position == 9


def test_a_filter_keeps_what_it_is_given() -> None:
    """Repeated types count once, empty fields filter nothing."""
    user_id = uuid4()
    found = events.parse_filter(
        event_pb2.EventFilter(event_types=["DEPOSITED", "BID_PLACED", "DEPOSITED"], user_id=str(user_id))
    )
    assert found.event_types == ("DEPOSITED", "BID_PLACED")
    assert (found.aggregate_id, found.correlation_id, found.user_id) == (None, None, user_id)
    refused = refusal_of(lambda: events.parse_filter(event_pb2.EventFilter(event_types=["x"] * 201)))
    assert refused.facts["field"] == "filter.event_types"
