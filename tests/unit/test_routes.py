"""The table that says where a call goes: the same by its bytes and by its message."""

import subprocess
import sys

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1 import auction_pb2, ledger_pb2
from router.routing.routes import (
    ROUTES,
    RoutingTarget,
    is_for_cells,
    named_in,
    routing_target_in,
    routing_target_of,
    text_in,
)
from server.shell.rpc import known_method
from tests.roles import full_name, rpcs

USER = "6f1de43c-97b2-4f11-a52e-f3ab3a1cf1fd"
REQUESTS = [
    (
        "LedgerService/Transfer",
        ledger_pb2.TransferRequest(to_user_id="b", from_user_id="a"),
        RoutingTarget(user_id="a"),
    ),
    (
        "LedgerService/Deposit",
        ledger_pb2.DepositRequest(external_reference="x", user_id=USER.upper()),
        RoutingTarget(user_id=USER),
    ),
    ("LedgerService/GetBalance", ledger_pb2.GetBalanceRequest(), None),
    (
        "AuctionService/CreateAuction",
        auction_pb2.CreateAuctionRequest(end_time_ms=2**62, asset="cells/eu-west/assets/x", seller_user_id="s"),
        RoutingTarget(cell="eu-west"),
    ),
    ("AuctionService/GetAsset", auction_pb2.GetAssetRequest(name="assets/x"), None),
    (
        "AuctionService/BatchPlaceBids",
        auction_pb2.BatchPlaceBidsRequest(
            items=[auction_pb2.PlaceBidRequest(bidder_user_id=user, auction="cells/x/auctions/y") for user in "ab"]
        ),
        RoutingTarget(user_id="a"),
    ),
    ("LedgerService/GetCommand", ledger_pb2.GetCommandRequest(command_id="c"), None),
]


@pytest.mark.parametrize(("method", "request_", "target"), REQUESTS, ids=[method for method, _, _ in REQUESTS])
def test_a_target_is_found_in_the_bytes_as_in_the_message(
    method: str, request_: Message, target: RoutingTarget | None
) -> None:
    """Both ways of reading the table say the same."""
    method = f"/cellbook.v1.{method}"
    assert routing_target_of(method, request_) == target
    assert routing_target_in(method, request_.SerializeToString()) == target


@pytest.mark.parametrize("data", [b"\x0a\xff", b"\xff" * 40, b"\x0a\x05ab", b"\x0b\x0b", b"\x12\x02\xff\xfe", b"\x00"])
def test_bytes_that_are_no_message_have_no_goal(data: bytes) -> None:
    """They are passed on for the cell to refuse, and break nothing here."""
    assert routing_target_in("/cellbook.v1.LedgerService/GetBalance", data) in {None, RoutingTarget(user_id="ab")}


def test_every_call_of_ledger_and_auctions_is_in_the_table_or_names_nothing() -> None:
    """A new one is routed when it is made; what is in the table is there and holds text."""
    unrouted = {"GetCommand", "ListAuctions"}
    for file, service in ((ledger_pb2, "LedgerService"), (auction_pb2, "AuctionService")):
        for rpc in file.DESCRIPTOR.services_by_name[service].methods:
            name = f"/{rpc.containing_service.full_name}/{rpc.name}"
            assert (name in ROUTES) != (rpc.name in unrouted), name
    for name, route in ROUTES.items():
        assert text_in(GetMessageClass(known_method(name).input_type)(), route.path) == ""


def test_the_router_knows_every_method_of_this_version() -> None:
    """By itself, whatever else is imported here. One that it did not know would be passed on as a stream of streams.

    A caller of such a one has few at once, and reads INTERNAL in place of a denial that comes before its message.
    """
    imports = "import sys; import router.routing.routes; from server.shell.rpc import method_of"
    known = f"{imports}; print(*map(bool, map(method_of, sys.argv[1:])))"
    methods = [full_name(rpc) for rpc in rpcs() if is_for_cells(full_name(rpc))]
    said = subprocess.run([sys.executable, "-c", known, *methods], capture_output=True, check=True, text=True).stdout
    assert [name for name, word in zip(methods, said.split(), strict=True) if word != "True"] == []


def test_a_cell_that_is_named_comes_before_a_user() -> None:
    """And both before the request."""
    assert named_in((("cellbook-user", "A"), ("cellbook-cell", "x"))) == RoutingTarget(cell="x")
    assert named_in((("cellbook-user", f"{{{USER.upper()}}}"),)) == RoutingTarget(user_id=USER)
    assert named_in((("other", "A"),)) is None
