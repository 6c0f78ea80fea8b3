"""Input from the wire is checked, and output is complete."""

from collections.abc import Callable
from functools import partial
from uuid import UUID

import pytest
from google.rpc import error_details_pb2

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2, types_pb2
from cells.domain.account.account import Account, Balance, Hold
from cells.domain.auction.auction import AuctionState, Bid
from cells.domain.commands import Capture, CreateAuction, PlaceBid, Release
from cells.domain.record import replace
from cells.domain.refusals import BidTooLow, Invalid, Refused, WrongCell
from cells.domain.results import Closed, NewAuction, Result, Sold
from cells.domain.time.hlc import Stamp
from cells.domain.values import Money
from cells.requests import CommandState, Lane, Outcome, Read
from server.services import auctions, ledger, sagas
from server.shell.calls.call import Call
from server.shell.fields.bounds import REFERENCE, Text, text_in
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.shell.fields.spelling import spelled
from server.shell.identity.principal import Principal, Role
from server.wire import fields, requests
from server.wire.convert import parse
from server.wire.fields import Name, parse_name
from server.wire.pages import BY_ID
from server.wire.requests import content_of, fingerprint
from server.wire.trace import parse_subject
from tests.integration import rows

CELL = "us-east"
U1, U2, U3, U4 = (UUID(int=n) for n in range(1, 5))
SHOP = Principal(role=Role.SERVICE, name="shop")
CALL = Call("/cellbook.v1.LedgerService/Deposit", SHOP, 5.0, 1)
USD = Money("USD", 1_000)


def outcome_of(result: Result | None = None, refusal: Refused | None = None) -> Outcome:
    state = CommandState.ACCEPTED if refusal is None else CommandState.REFUSED
    return Outcome(
        command_id=U4,
        principal="service/shop",
        state=state,
        result=result or Result(),
        refusal=refusal,
        cell=CELL,
        position=12,
        hlc=Stamp(3, 4),
        replayed=True,
    )


def refusal_of(action: Callable[[], object]) -> Invalid:
    with pytest.raises(Invalid) as caught:
        action()
    return caught.value


# --- values from proto ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is missing"),
        ("junk", "is not a UUID"),
        (str(U1).replace("-", "")[:-1], "is not a UUID"),
        (str(U1).replace("-", "") + "----", "is not a UUID"),
        ("{" + str(U1), "is not a UUID"),
        ("{{" + str(U1) + "}}", "is not a UUID"),
        ("urn:" + str(U1), "is not a UUID"),
        (" " + str(U1), "is not a UUID"),
        (str(U1) + "\n", "is not a UUID"),
        (str(U1).replace("0", "_", 1), "is not a UUID"),
        ("\u0660" + str(U1)[1:], "is not a UUID"),
        (str(UUID(int=0)), "must not be the nil UUID"),
        ("x" * 10_000, "is not a UUID"),
    ],
)
def test_what_is_not_a_uuid_is_refused(text: str, problem: str) -> None:
    """Only spellings of RFC 9562 are ids, and never the nil one."""
    refused = refusal_of(lambda: parse_uuid(text, "user_id"))
    assert refused.facts == {"field": "user_id", "problem": problem, "value": text[:80]}


@pytest.mark.parametrize("text", ["", "junk", "eu-west/671", "users/1"])
def test_what_cannot_be_traced_is_refused_with_what_can(text: str) -> None:
    """A subject need not be a UUID."""
    said = str(refusal_of(lambda: parse_subject(text)).facts["problem"])
    assert said.startswith("is no UUID, no 'cells/")
    assert "deposits/" in said


@pytest.mark.parametrize("digits", [str(U1), str(U1).replace("-", "")])
@pytest.mark.parametrize("form", ["{}", "{{{}}}", "urn:uuid:{}", "urn:uuid:{{{}}}"])
def test_a_uuid_has_several_spellings_and_one_meaning(form: str, digits: str) -> None:
    """In capitals or not."""
    text = form.format(digits)
    assert parse_uuid(text, "user_id") == parse_uuid(text.upper(), "user_id") == U1
    assert spelled(text) == spelled(text.upper()) == str(U1)


def test_the_greatest_amount_passes() -> None:
    """The whole signed 64-bit range can be used."""
    assert fields.parse_money(types_pb2.Money(currency="USD", amount_minor=2**63 - 1)).amount_minor == 2**63 - 1


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x\udfffy"])
def test_text_that_cannot_be_stored_is_refused(text: str) -> None:
    """NUL and lone surrogates never reach the database."""
    refused = refusal_of(lambda: text_in(text, "description", Text(0, 10)))
    assert "send one line of visible characters" in str(refused.facts["problem"])
    assert str(refused.facts["value"]).isascii()


def test_text_is_counted_in_characters() -> None:
    """The bounds count characters, not bytes, and include both ends."""
    assert text_in("é" * 200, "external_reference", REFERENCE) == "é" * 200
    assert refusal_of(lambda: text_in("é" * 201, "f", REFERENCE)).facts["value"] == ascii("é" * 80)[:80]
    assert refusal_of(lambda: text_in("", "f", REFERENCE)).facts["problem"] == "is missing"


# --- names ---


def test_names_go_both_ways() -> None:
    """A formatted name parses back to its parts."""
    assert parse_name(fields.asset_name("eu-west", U1), "f", "assets") == Name("eu-west", U1)
    assert parse_name(fields.auction_name("eu-west", U1), "f", "auctions") == Name("eu-west", U1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(U1),
        f"cells/eu-west/assets/{U1}",
        f"cells/eu-west/auctions/{UUID(int=0)}",
        f"cells//auctions/{U1}",
        f"cells/EU WEST/auctions/{U1}",
        f"cells/{'x' * 33}/auctions/{U1}",
        f"/cells/eu-west/auctions/{U1}",
        f"cells/eu-west/auctions/{U1}/",
        f"cells/eu-west/auctions/{U1}\n",
        "cells/eu-west/auctions/1",
        "cells/eu-west/auctions/",
    ],
)
def test_bad_names_are_refused(text: str) -> None:
    """A name has exactly four parts, and the requested collection."""
    assert refusal_of(lambda: parse_name(text, "auction", "auctions")).facts["field"] == "auction"


def test_a_name_of_another_cell_leads_there() -> None:
    """A resource elsewhere is refused with its cell's name; only a bid may name another cell's auction."""
    name = fields.auction_name("eu-west", U1)
    with pytest.raises(WrongCell) as caught:
        fields.parse_local_id(name, "auction", "auctions", CELL)
    assert caught.value.facts == {"resource": name, "cell": "eu-west", "here": CELL}
    request = auction_pb2.PlaceBidRequest(
        auction=name, bidder_user_id=str(U2), amount=types_pb2.Money(currency="USD", amount_minor=7)
    )
    assert parse(PlaceBid, request) == PlaceBid(
        auction_id=U1, auction_cell="eu-west", bidder_id=U2, amount=Money("USD", 7)
    )


# --- pages ---


def test_pages_have_bounds() -> None:
    """No size means 100, a larger one is reduced to 1,000, a negative one is refused."""
    assert tuple(map(parse_page_size, (0, 7, 2**31 - 1))) == (100, 7, 1_000)
    assert refusal_of(lambda: parse_page_size(-1)).facts["field"] == "page_size"


@pytest.mark.parametrize("token", ["x", "junk", "é", "====", "AAAA", "!" + BY_ID.token(U1), "\x00"])
def test_bad_page_tokens_are_refused(token: str) -> None:
    """A token must be exactly one that was issued."""
    assert refusal_of(lambda: BY_ID.parse(token)).facts["field"] == "page_token"
    assert BY_ID.parse(BY_ID.token(U1)) == U1


# --- the envelope ---


def test_a_command_travels_with_its_circumstances() -> None:
    """Id, flow, principal, deadline and size come from the call; clients wait in the clients' lane."""
    message = ledger_pb2.ReleaseRequest(command_id=str(U4), user_id=str(U1), hold_id=str(U2))
    command = parse(Release, message)
    request = requests.parse_request(message, command, user_id=U1, call=CALL, now_s=100.0)
    assert (request.command_id, request.correlation_id, request.causation_id) == (U4, U4, None)
    assert (request.principal, request.user_id, request.lane) == ("service/shop", U1, Lane.CLIENT)
    assert (request.deadline_s, request.size_bytes) == (105.0, message.ByteSize())
    endless = CALL._replace(timeout_s=None)
    assert requests.parse_request(message, command, user_id=U1, call=endless, now_s=1.0).deadline_s is None


def test_a_fingerprint_tells_requests_apart() -> None:
    """It is equal for the same request, and differs for another principal, method or content."""
    message = ledger_pb2.ReleaseRequest(command_id=str(U4), user_id=str(U1), hold_id=str(U2))
    same = ledger_pb2.ReleaseRequest.FromString(message.SerializeToString())
    other = ledger_pb2.ReleaseRequest(command_id=str(U4), user_id=str(U1), hold_id=str(U3))
    others = {
        fingerprint(CALL, content_of(message)),
        fingerprint(CALL._replace(principal=Principal(role=Role.SERVICE, name="other")), content_of(message)),
        fingerprint(CALL._replace(method="/cellbook.v1.LedgerService/Withdraw"), content_of(message)),
        fingerprint(CALL, content_of(other)),
    }
    assert fingerprint(CALL, content_of(message)) == fingerprint(CALL, content_of(same))
    assert len(others) == 4
    assert {len(content) for content in others} == {32}


# --- the ledger ---


def test_an_account_comes_in_order() -> None:
    """Balances by currency, holds by id; no expiry and no saga are 0 and empty."""
    account = Account(
        home_epoch=2,
        balances={"USD": Balance(available_minor=1), "EUR": Balance(reserved_minor=2, pending_minor=3)},
        holds={
            U3: Hold(currency="USD", amount_minor=4, expire_time_ms=9),
            U2: Hold(currency="EUR", amount_minor=5, saga_id=U4),
        },
    )
    response = ledger.account_to_proto(U1, Read(state=account, stream_version=8, position=21), None, CELL)
    assert [balance.currency for balance in response.balances] == ["EUR", "USD"]
    assert [hold.hold_id for hold in response.holds] == [str(U2), str(U3)]
    assert [(hold.expire_time_ms, hold.saga_id) for hold in response.holds] == [(0, str(U4)), (9, "")]
    assert (response.home_epoch, response.stream_version, response.token.position) == (2, 8, 21)


def test_a_refused_command_is_answered_as_the_call_was() -> None:
    """GetCommand carries the refusal as the full status, with all facts."""
    outcome = outcome_of(refusal=BidTooLow(amount_minor=1, least_minor=2, currency="USD"))
    response = ledger.command_to_proto(outcome)
    info = error_details_pb2.ErrorInfo()
    assert response.refusal.details[0].Unpack(info)
    assert (info.reason, info.metadata["least_minor"]) == ("BID_TOO_LOW", "2")
    assert response.state == ledger_pb2.COMMAND_STATE_REFUSED
    assert (response.hlc.physical_ms, response.hlc.logical, response.token.position) == (3, 4, 12)


def test_what_a_command_made_goes_by_its_name() -> None:
    """Ids of assets and auctions leave the cell as resource names."""
    response = ledger.command_to_proto(outcome_of(NewAuction(auction_id=U2)))
    assert dict(response.result) == {"auction": f"cells/us-east/auctions/{U2}"}
    assert not response.HasField("refusal")


# --- auctions ---


def test_an_auction_s_terms_have_defaults() -> None:
    """No increment means one minor unit, no timeout the cell's own, no extension none."""
    expected = CreateAuction(
        asset_id=U1,
        seller_id=U2,
        opening=USD,
        increment_minor=1,
        end_time_ms=1_000,
        extension_ms=0,
        settlement_timeout_ms=None,
    )
    request = auction_pb2.CreateAuctionRequest(
        asset=fields.asset_name(CELL, U1),
        seller_user_id=str(U2),
        opening_price=types_pb2.Money(currency="USD", amount_minor=1_000),
        end_time_ms=1_000,
    )
    assert auctions.parse_create_auction(request, CELL) == expected


def test_a_capture_is_of_all_or_of_some() -> None:
    """Whether a field is set is not the same as whether it is 0: unset means all of the hold, and 0 is refused."""
    request = ledger_pb2.CaptureRequest(user_id=str(U1), hold_id=str(U2), to_user_id=str(U3))
    assert parse(Capture, request).amount_minor is None
    request.amount_minor = 7
    assert parse(Capture, request).amount_minor == 7
    request.amount_minor = 0
    assert refusal_of(lambda: parse(Capture, request)).reason == "AMOUNT_NOT_POSITIVE"


@pytest.mark.parametrize("state", AuctionState)
def test_every_state_of_an_auction_goes_both_ways(state: AuctionState) -> None:
    """Each has its value on the wire, and can be requested by it."""
    bid = Bid(bid_id=U3, bidder_id=U4, bidder_cell="eu-west", amount_minor=9)
    auction = replace(rows.auction(state=state), highest_bid=bid)
    message = auctions.auction_to_proto(U4, auction, 3, CELL)
    assert auctions.parse_states(auction_pb2.ListAuctionsRequest(state=message.state)) == (state.value,)
    assert message.highest_bid.bidder_cell == "eu-west"
    assert auction_pb2.AuctionState.Name(message.state) == f"AUCTION_STATE_{state}"


def test_unknown_states_are_refused() -> None:
    """A value of a newer version is not taken for "all"."""
    unknown = auction_pb2.ListAuctionsRequest.FromString(b"\x08\x63")
    refused = refusal_of(lambda: auctions.parse_states(unknown))
    assert refused.facts == {"field": "state", "problem": "is not a value known here", "value": "99"}
    # Fields 1 and 2.
    for content, field in ((b"\x08\x63", "states"), (b"\x08\x00", "states"), (b"\x10\x63", "kind")):
        request = saga_pb2.ListSagasRequest.FromString(content)
        assert refusal_of(partial(sagas.parse_filter, request)).facts["field"] == field


def test_a_closed_auction_names_its_winner() -> None:
    """The winning bid and the settlement are set if there was a bid, and unset otherwise."""
    won = Sold(
        state=AuctionState.SETTLING,
        bid_id=U1,
        bidder_id=U2,
        bidder_cell="eu-west",
        currency="USD",
        amount_minor=500,
        saga_id=U3,
    )
    response = auctions.closed_to_proto(outcome_of(won))
    assert (response.state, response.saga_id) == (auction_pb2.AUCTION_STATE_SETTLING, str(U3))
    assert (response.winning_bid.bid_id, response.winning_bid.amount.amount_minor) == (str(U1), 500)
    unsold = auctions.closed_to_proto(outcome_of(Closed(state=AuctionState.UNSOLD)))
    assert unsold.state == auction_pb2.AUCTION_STATE_UNSOLD
    assert not unsold.HasField("winning_bid")
