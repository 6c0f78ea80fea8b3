"""Messages and values are converted by the names of their fields; a field that has no counterpart is found."""

from uuid import UUID

import pytest

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2, settlement_pb2, types_pb2
from cells.domain.account.account import Hold
from cells.domain.auction.auction import AuctionState
from cells.domain.commands import Capture, CreateAuction, SubmitBid
from cells.domain.refusals import FieldInvalid
from cells.domain.results import NewHold
from cells.domain.time.hlc import Stamp
from cells.domain.values import LegId, Money
from cells.requests import Outcome
from server.wire.convert import answered, members, parse, to_proto

U1, U2, U3 = (UUID(int=n) for n in range(1, 4))


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


def test_an_unset_field_is_none_and_a_set_one_is_checked() -> None:
    """Whether a field is set is not the same as whether it is 0."""
    request = ledger_pb2.CaptureRequest(user_id=str(U1), hold_id=str(U2), to_user_id=str(U3))
    assert parse(Capture, request).amount_minor is None
    request.amount_minor = 7
    assert parse(Capture, request).amount_minor == 7


def test_a_refusal_names_the_place_in_the_request() -> None:
    """Where a message is nested, its own place comes first."""
    with pytest.raises(FieldInvalid) as refused:
        parse(LegId, settlement_pb2.Leg(saga_id="junk"), "leg")
    assert refused.value.facts["field"] == "leg.saga_id"


def test_an_answer_says_what_the_result_says() -> None:
    """The receipt, the result's fields, and the balance that some of them make up."""
    result = NewHold(hold_id=U1, currency="USD", available_minor=7, reserved_minor=5, pending_minor=0)
    outcome = Outcome(
        command_id=U2,
        principal="service/shop",
        result=result,
        cell="us-east",
        position=3,
        hlc=Stamp(5, 6),
        replayed=True,
    )
    answer = answered(ledger_pb2.ReserveResponse, outcome)
    assert (answer.hold_id, answer.balance.available_minor, answer.balance.reserved_minor) == (str(U1), 7, 5)
    assert (answer.receipt.command_id, answer.receipt.replayed) == (str(U2), True)
    assert (answer.receipt.token.position, answer.receipt.hlc.logical) == (3, 6)


def test_members_of_an_enum_go_by_their_names() -> None:
    """The wire's prefix is left out; a member that the domain does not have is found at once."""
    assert set(members(auction_pb2.AuctionState.DESCRIPTOR, AuctionState).values()) == set(AuctionState)
    with pytest.raises(KeyError):
        members(audit_pb2.TraceRole.DESCRIPTOR, AuctionState)
