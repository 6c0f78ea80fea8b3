"""Messages and values: converted by the names of their fields, which are all there; and those of their own kind."""

from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2, settlement_pb2, types_pb2
from cells.audit.history.moments import BEGINNING
from cells.audit.reconcile.trial import TrialBalance
from cells.domain.account.account import Hold
from cells.domain.auction.auction import AuctionState
from cells.domain.audit.refusals import SumTooLarge
from cells.domain.commands import CreateAuction, SubmitBid
from cells.domain.events import Deposited
from cells.domain.refusals import FieldInvalid
from cells.domain.results import NewHold
from cells.domain.time.hlc import Stamp
from cells.domain.values import AMOUNT_MAX_MINOR, LegId, Money
from cells.encoding import codec
from cells.moves.user_bundle import MovedEvent, UserBundle
from cells.store.ports import EventRow, OutcomeRow
from server.wire.convert import answered, members, parse, to_proto
from server.wire.history import trial_to_proto
from server.wire.moves import baggage_to_proto, parse_bundle
from tests.integration.rows import NOW, event_row
from tests.strategies import PATIENT, TEXT
from tests.unit.test_wire import U1, U2, U3, U4, outcome_of


def test_a_value_s_field_that_the_message_lacks_must_be_given() -> None:
    """The name of both is said at the first use."""
    with pytest.raises(TypeError, match=r"CreateAuctionRequest has no field for CreateAuction\.asset_id"):
        parse(CreateAuction, auction_pb2.CreateAuctionRequest())


def test_a_message_s_field_that_the_value_lacks_must_be_given() -> None:
    """Nothing is left out in silence; what the message does not have cannot be given either."""
    with pytest.raises(TypeError, match="Hold has no hold_id"):
        to_proto(ledger_pb2.Hold, Hold(currency="USD", amount_minor=5))
    with pytest.raises(TypeError, match="Hold has no other"):
        to_proto(ledger_pb2.Hold, Hold(currency="USD", amount_minor=5), hold_id=U1, other=1)


def test_none_is_left_out_and_money_is_put_together() -> None:
    """A hold's currency and amount are one field of its message."""
    hold = Hold(currency="USD", amount_minor=5, saga_id=U2)
    expected = ledger_pb2.Hold(hold_id=str(U1), amount=types_pb2.Money(currency="USD", amount_minor=5), saga_id=str(U2))
    assert to_proto(ledger_pb2.Hold, hold, hold_id=U1, auction="", bid_ids=()) == expected


def test_a_message_of_zeroes_is_there() -> None:
    """A stamp of 0 is no missing stamp."""
    point = to_proto(types_pb2.AsOfPoint, cell="us-east", position=0, hlc=Stamp(0, 0), recorded_at_us=0)
    assert point.HasField("hlc")


def test_the_id_of_a_person_says_so_on_the_wire() -> None:
    """`bidder_id` is `bidder_user_id`, both ways."""
    bid = SubmitBid(
        auction_id=U1, bid_id=U2, bidder_id=U3, bidder_cell="eu-west", amount=Money("USD", 5), valid_until_ms=9
    )
    message = to_proto(settlement_pb2.SubmitBid, bid)
    assert message.bidder_user_id == str(U3)
    assert parse(SubmitBid, message) == bid


def test_a_refusal_names_the_place_in_the_request() -> None:
    """Where a message is nested, its own place comes first."""
    with pytest.raises(FieldInvalid) as refused:
        parse(LegId, settlement_pb2.Leg(saga_id="junk"), "leg")
    assert refused.value.facts["field"] == "leg.saga_id"


def test_an_answer_says_what_the_result_says() -> None:
    """The receipt, the result's fields, and the balance that some of them make up."""
    result = NewHold(hold_id=U1, currency="USD", available_minor=7, reserved_minor=5, pending_minor=0)
    answer = answered(ledger_pb2.ReserveResponse, outcome_of(result))
    assert (answer.hold_id, answer.balance.available_minor, answer.balance.reserved_minor) == (str(U1), 7, 5)
    assert (answer.receipt.command_id, answer.receipt.replayed) == (str(U4), True)
    assert (answer.receipt.token.position, answer.receipt.hlc.logical) == (12, 4)


def test_members_of_an_enum_go_by_their_names() -> None:
    """The wire's prefix is left out; a member that the domain does not have is found at once."""
    assert set(members(auction_pb2.AuctionState.DESCRIPTOR, AuctionState).values()) == set(AuctionState)
    with pytest.raises(KeyError):
        members(audit_pb2.TraceRole.DESCRIPTOR, AuctionState)


# --- events and outcomes that move with a user arrive as they were stored, with any text in them ----------------------


USER = uuid4()
# Plain characters without a special meaning.
BACKSLASHES = "invoice \\u0000 4711"


def deposited(reference: str) -> EventRow:
    return event_row(1, Deposited(currency="USD", amount_minor=5, external_reference=reference), aggregate_id=USER)


def moved(row: EventRow, outcome: str) -> UserBundle:
    """The same as the new home reads it."""
    stored = OutcomeRow(uuid4(), bytes(32), outcome, 1, 1, 1, NOW, USER, "service/shop")
    sent = UserBundle(saga_id=uuid4(), user_id=USER, events=[MovedEvent("us-east", row)], outcomes=[stored])
    return parse_bundle(baggage_to_proto(sent), "us-east", NOW)


@PATIENT
@given(st.lists(st.sampled_from(["\\", "u0000", "\\u0000", "\\n", '"', "é"]), max_size=8).map("".join) | TEXT)
@example(BACKSLASHES)
@example("\\\\u0000")
def test_any_stored_text_moves(reference: str) -> None:
    """A backslash and four digits are five characters, not an escape."""
    row, outcome = deposited(reference), codec.canonical({"refused": {"reason": reference}})
    arrived = moved(row, outcome)
    assert [event.row for event in arrived.events] == [row]
    assert [each.outcome for each in arrived.outcomes] == [outcome]


@pytest.mark.parametrize("content", [{"a": "x\x00"}, {"a\x00": 1}, {"a": [{"b": ["\x00"]}]}])
def test_what_no_database_stores_is_refused_by_name(content: object) -> None:
    """A NUL, anywhere in a peer's JSON."""
    with pytest.raises(FieldInvalid) as refused:
        moved(deposited("r"), codec.canonical(content))
    assert refused.value.facts["field"] == "outcomes.outcome_json"
    assert "NUL" in str(refused.value)


def test_json_of_a_thousand_brackets_is_refused() -> None:
    """It is not an internal error."""
    sent = UserBundle(saga_id=uuid4(), user_id=USER, events=[MovedEvent("us-east", deposited("r"))], outcomes=[])
    request = baggage_to_proto(sent)
    request.events[0].payload_json = "[" * 100_000
    with pytest.raises(FieldInvalid, match="is no JSON"):
        parse_bundle(request, "us-east", NOW)


# --- sums of the past on the wire -------------------------------------------------------------------------------------


def trial(amount_minor: int) -> TrialBalance:
    return TrialBalance({("users/available", "JPY"): amount_minor}, BEGINNING)


@pytest.mark.parametrize("amount_minor", [AMOUNT_MAX_MINOR, -AMOUNT_MAX_MINOR])
def test_a_sum_that_fits_is_told(amount_minor: int) -> None:
    """To the last bit."""
    [line] = trial_to_proto(trial(amount_minor), "us-east").accounts
    assert line.amount_minor == amount_minor


@pytest.mark.parametrize("amount_minor", [AMOUNT_MAX_MINOR + 1, -(2**70)])
def test_a_sum_that_does_not_fit_is_refused(amount_minor: int) -> None:
    """It is neither wrong nor an internal error: the sum of all users may exceed one user's maximum."""
    with pytest.raises(SumTooLarge, match=f"users/available is {amount_minor} JPY"):
        trial_to_proto(trial(amount_minor), "us-east")
