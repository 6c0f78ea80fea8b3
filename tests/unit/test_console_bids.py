"""The outcome of a bid, as its cell tells it: a bid that may still happen is sent again as it was, or not at all."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from google.rpc import status_pb2
from starlette.requests import Request

from cellbook.v1 import ledger_pb2
from server.cli.client import LedgerRefusal, NoAnswer
from server.console.auctions import lot
from server.console.visitor import VISITOR, Visitor
from server.shell.identity.principal import Principal, Role

BIDDER = "01890a5d-ac96-774b-bcce-b302099a8057"
SENT = "01890a5d-ac96-774b-bcce-b302099a8058"


@pytest.fixture(autouse=True)
def visitor() -> Iterator[None]:
    principal = Principal(role=Role.USER, name=BIDDER)
    token = VISITOR.set(Visitor(principal=principal, proof=tuple, until_s=4e9))
    yield
    VISITOR.reset(token)


def answer(state: "ledger_pb2.CommandState.ValueType", refused: str = "") -> ledger_pb2.GetCommandResponse:
    refusal = status_pb2.Status(message=refused) if refused else None
    return ledger_pb2.GetCommandResponse(command_id=SENT, state=state, refusal=refusal)


def refusal(reason: str) -> LedgerRefusal:
    return LedgerRefusal(method="GetCommand", reason=reason, message="said why", facts={})


async def bid_after(monkeypatch: pytest.MonkeyPatch, told: Any, site: str = "none") -> lot.Bid:  # noqa: ANN401 - an answer or an error
    """Where the bidder's cell answers, or fails, like that."""
    home = Mock(ask=AsyncMock(side_effect=[told]))
    ledger = Mock(home_of=AsyncMock(return_value=home))
    monkeypatch.setattr(lot, "ledger_of", lambda _request: ledger)
    headers = [(b"sec-fetch-site", site.encode())]
    query = f"bid={SENT}&bidder={BIDDER}&amount=7.50".encode()
    return await lot.sent_bid(Request({"type": "http", "method": "GET", "query_string": query, "headers": headers}))


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


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_link_of_others_offers_no_bid_to_send(monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    """They would choose its amount."""
    bid = await bid_after(monkeypatch, refusal("COMMAND_NOT_FOUND"), site)
    assert (bid.command_id != SENT, bid.amount, bid.is_open) == (True, "", False)
