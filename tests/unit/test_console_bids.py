"""The outcome of a bid, as its cell tells it: a bid that may still happen is sent again as it was, or not at all."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from google.rpc import status_pb2
from starlette.requests import Request

from cellbook.v1 import ledger_pb2
from server.cli.client import LedgerRefusal, NoAnswer
from server.console.auctions import lot
from server.console.sessions import Sessions
from server.console.visitor import VISITOR
from server.shell.identity.principal import Role
from tests.unit.console_rig import as_visitor, visitor

BIDDER = "01890a5d-ac96-774b-bcce-b302099a8057"
SENT = "01890a5d-ac96-774b-bcce-b302099a8058"
SESSIONS = Sessions()


@pytest.fixture(autouse=True)
def bidder() -> Iterator[None]:
    with as_visitor(Role.USER, BIDDER):
        yield


def answer(state: "ledger_pb2.CommandState.ValueType", refused: str = "") -> ledger_pb2.GetCommandResponse:
    refusal = status_pb2.Status(message=refused) if refused else None
    return ledger_pb2.GetCommandResponse(command_id=SENT, state=state, refusal=refusal)


def refusal(reason: str) -> LedgerRefusal:
    return LedgerRefusal(method="GetCommand", reason=reason, message="said why", facts={})


async def bid_after(
    monkeypatch: pytest.MonkeyPatch,
    told: Any,  # noqa: ANN401 - an answer or an error
    change: Callable[[str], str] = lambda link: link,
) -> lot.Bid:
    """On the page to which the form leads, where the bidder's cell answers, or fails, like that."""
    home = Mock(client=Mock(once=AsyncMock(side_effect=[told])))
    ledger = Mock(home_of=AsyncMock(return_value=home))
    monkeypatch.setattr(lot, "ledger_of", lambda _request: ledger)
    monkeypatch.setattr(lot, "console_of", lambda _request: Mock(sessions=SESSIONS))
    bid = lot.Bid(command_id=SENT, bidder=BIDDER, amount="7.50")
    path, _, query = change(lot.seen_path(Mock(), Mock(path="/auctions/here/x"), bid)).partition("?")
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    return await lot.sent_bid(Request(scope))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (answer(ledger_pb2.COMMAND_STATE_IN_PROGRESS), "under way"),
        (NoAnswer("us-east: UNAVAILABLE"), "not known"),
        (refusal("COMMAND_NOT_FOUND"), "has not arrived"),
    ],
)
async def test_a_bid_that_may_still_happen_keeps_its_id(
    monkeypatch: pytest.MonkeyPatch, told: object, said: str
) -> None:
    """And its amount: whoever sends it again cannot bid twice."""
    bid = await bid_after(monkeypatch, told)
    assert (bid.command_id, bid.bidder, bid.amount, bid.is_open) == (SENT, BIDDER, "7.50", True)
    assert said in bid.problem


@pytest.mark.parametrize(
    ("told", "problem", "success"),
    [
        (answer(ledger_pb2.COMMAND_STATE_ACCEPTED), "", "accepted"),
        (answer(ledger_pb2.COMMAND_STATE_REFUSED, "too little money"), "too little money", ""),
        (refusal("COMMAND_ID_EXPIRED"), "said why", ""),
    ],
)
async def test_the_next_bid_after_a_definite_answer_is_another_one(
    monkeypatch: pytest.MonkeyPatch, told: object, problem: str, success: str
) -> None:
    """With an id of its own."""
    bid = await bid_after(monkeypatch, told)
    assert bid.command_id != SENT
    assert not bid.is_open
    assert problem in bid.problem
    assert success in bid.success


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link.partition("&signed")[0],
        lambda link: link.replace("7.50", "700"),
        lambda link: link.replace("/x?", "/y?"),
        lambda link: link.replace(f"bidder={BIDDER}", f"bidder={SENT}"),
    ],
    ids=["not signed", "another amount", "another auction", "another bidder"],
)
async def test_a_link_of_others_offers_no_bid_to_send(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]
) -> None:
    """They would choose its amount. What became of the visitor's own command is said all the same."""
    bid = await bid_after(monkeypatch, refusal("COMMAND_NOT_FOUND"), change)
    assert (bid.command_id != SENT, bid.amount, bid.is_open) == (True, "", False)
    assert "has not arrived" in bid.problem


async def test_a_link_of_another_visitor_offers_no_bid_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is made for one of them."""

    def by_another(link: str) -> str:
        VISITOR.set(visitor(Role.SERVICE, "shop"))
        return link

    bid = await bid_after(monkeypatch, refusal("COMMAND_NOT_FOUND"), by_another)
    assert (bid.bidder, bid.amount, bid.is_open) == ("", "", False)
