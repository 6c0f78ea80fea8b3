"""Requests that no browser of ours sends: they end in an answer, take no more than their share, and leak nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import jwt
import pytest
from httpx2 import AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request

from cellbook.v1 import audit_pb2
from server.cli.client import CallDenied
from server.console import serving
from server.console.auditor import accounts
from server.console.console import COOKIE, ZONE_COOKIE, Ledger
from server.console.serving import FORM_BYTES_MAX, FORM_COOKIE, HEADERS, STREAMS_OF_ONE_MAX, BadInput, event_stream
from server.console.sessions import IDLE_S
from server.console.sign_in import visitor_of
from server.console.visitor import NotSignedIn
from server.shell.identity.principal import Role
from tests.unit.console_rig import HERE, as_visitor, browser, console_app, visitor

ANN = visitor(Role.OPERATOR)


@pytest.fixture
async def app() -> AsyncIterator[Starlette]:
    async with console_app() as made:
        yield made


@pytest.fixture
async def console(app: Starlette) -> AsyncIterator[AsyncClient]:
    """Of an operator who is signed in."""
    async with browser(app, ANN) as made:
        yield made


@pytest.fixture
def request_of_ann(app: Starlette) -> Iterator[Request]:
    with as_visitor(Role.OPERATOR) as ann:
        session_id = app.state.console.sessions.begin(ann)
        yield Request({"type": "http", "method": "GET", "headers": [], "app": app, "state": {"session_id": session_id}})


@pytest.mark.parametrize("zone", ["Nowhere/Land", "America", "../../etc/passwd", "x" * 5_000, "a\x7fb"])
async def test_a_zone_that_is_none_is_utc(console: AsyncClient, zone: str) -> None:
    """A browser may know one that this machine does not have."""
    answer = await console.get("/", headers={"cookie": f"{ZONE_COOKIE}={zone}; {COOKIE}={console.cookies[COOKIE]}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/sagas?after={}-x",
        "/auditor/trace?subject=x&limit={}",
        "/auctions/eu-west/x/live?from={}",
    ],
)
@pytest.mark.parametrize("number", ["9" * 30, "9" * 5_000, "\u0663", "-1"])
async def test_a_number_that_fits_no_field_is_refused(console: AsyncClient, path: str, number: str) -> None:
    answer = await console.get(path.format(number))
    assert (answer.status_code, "expected a number" in answer.text) == (400, True)


async def test_a_form_keeps_to_the_length_that_it_says(console: AsyncClient) -> None:
    """In chunks it could be of any length."""
    headers = {"transfer-encoding": "chunked", "content-length": "10"}
    content = b"a=" + b"b" * (2 * FORM_BYTES_MAX)
    assert (await console.post("/sign-in", headers=headers, content=content)).status_code == 413


async def test_a_form_that_does_not_arrive_is_not_waited_for(
    app: Starlette, console: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FORM_WITHIN_S", 0.01)

    async def slow() -> AsyncIterator[bytes]:
        yield b"a="
        await asyncio.Event().wait()

    headers = {"content-length": "10", "content-type": "application/x-www-form-urlencoded"}
    answer = await console.post("/sign-in", headers=headers, content=slow())
    assert answer.status_code == 408


async def test_an_unforeseen_error_has_the_headers(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of itself, and runs no script either."""
    monkeypatch.setattr(serving, "_begin", Mock(side_effect=ZeroDivisionError("of the books")))
    async with browser(app, raises=False) as console:
        for path in ("/", "/nowhere"):
            answer = await console.get(path)
            assert (answer.status_code, "of the books" in answer.text) == (500, False)
            assert HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("resource", "title", "said"),
    [
        (
            f"user {ANN.principal.name}",
            "The user moves to us-east",
            "is moving from eu-west to us-east, or has moved there",
        ),
        ("cells/us-east/auctions/x", "It is in another cell", "cells/us-east/auctions/x is in us-east, not in eu-west"),
    ],
)
async def test_a_cell_where_it_is_not_says_where_it_is(
    app: Starlette, console: AsyncClient, monkeypatch: pytest.MonkeyPatch, resource: str, title: str, said: str
) -> None:
    """That the cell is the wrong one is no denial to its visitor."""
    facts = {"resource": resource, "cell": "us-east", "here": "eu-west", "epoch": "2"}
    denied = CallDenied("GetAccount: WRONG_CELL: it lives elsewhere", "WRONG_CELL", facts)
    monkeypatch.setattr(Ledger, "listed", AsyncMock(side_effect=denied))
    answer = await console.get("/auctions")
    assert (answer.status_code, title in answer.text, said in answer.text) == (409, True, True)


async def test_a_stranger_with_a_token_learns_no_addresses(request_of_ann: Request) -> None:
    """Not of the router, to which the console takes the token, either."""
    token = jwt.encode({"sub": "ben", "role": "auditor", "exp": time.time() + 60}, "x" * 32)
    with pytest.raises(BadInput) as refused:
        await visitor_of(request_of_ann, token)
    assert "127.0.0.1" not in str(refused.value)


@pytest.mark.parametrize(("public_url", "prefix"), [("https://books.example.org", "__Host-"), ("", "")])
async def test_a_cookie_of_a_neighbor_signs_nobody_in(public_url: str, prefix: str) -> None:
    """By https, where browsers can tell whose it is."""
    async with console_app(public_url) as app, browser(app, base_url=public_url or HERE) as console:
        first = await console.get("/sign-in")
        assert ("strict-transport-security" in first.headers) == bool(prefix)
        set_by = first.headers["set-cookie"]
        token = app.state.console.sessions.form_token(console.cookies[f"{prefix}{FORM_COOKIE}"])
        form = {"form_token": token, "role": "auditor", "name": "ann", "next": "/"}
        set_by += (await console.post("/sign-in", data=form)).headers["set-cookie"]
        assert set_by.count("Secure") == (2 if prefix else 0)
        session = console.cookies[f"{prefix}{COOKIE}"]
        assert (await console.get("/")).status_code == 200
        console.cookies.clear()
        tossed = await console.get("/", headers={"cookie": f"{COOKIE}={session}"})
        assert (tossed.status_code == 200) == (not prefix)
        mine = {"cookie": f"{prefix}{COOKIE}={session}"}
        form = {"form_token": app.state.console.sessions.form_token(session)}
        ended = await console.post("/sign-out", data=form, headers=mine)
        assert f"{prefix}{COOKIE}=" in ended.headers["set-cookie"]
        assert "Max-Age=0" in ended.headers["set-cookie"]


# --- answers that are sent for long -----------------------------------------------------------------------------------


async def said(answer: Any) -> str:  # noqa: ANN401 - a response that is a stream
    return "".join([part async for part in answer.body_iterator])


async def test_a_text_cannot_add_a_line_to_a_stream(request_of_ann: Request) -> None:
    """A browser ends a line at each kind of line break."""

    async def items() -> AsyncIterator[str]:
        yield "one\rretry: 1\r\nevent: x\n\rdata: two"

    lines = (await said(event_stream(request_of_ann, items()))).splitlines()
    assert lines == ["data: one", "data: retry: 1", "data: event: x", "data: ", "data: data: two", ""]


@pytest.mark.parametrize("by", ["signing out", "time"])
async def test_a_live_page_ends_with_its_session(app: Starlette, request_of_ann: Request, by: str) -> None:
    """At once, and not with the next thing that it has to say; what it waited for is called off."""
    sessions, called_off = app.state.console.sessions, asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "begun"
        try:
            await asyncio.Event().wait()
        finally:
            called_off.set()

    now_s = time.time()
    sessions.wall_s = lambda: now_s
    lines = event_stream(request_of_ann, items()).body_iterator  # type: ignore[attr-defined]
    await anext(lines)
    now_s += IDLE_S - 0.1 if by == "time" else 0
    waiting = asyncio.ensure_future(anext(lines, "ended"))
    await asyncio.sleep(0)
    if by == "time":
        # Another page is loaded in the session, which goes on therefore; then none.
        sessions.find(request_of_ann.state.session_id)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        now_s += IDLE_S
        sessions.find(request_of_ann.state.session_id)
    else:
        sessions.end(request_of_ann.state.session_id)
    assert await asyncio.wait_for(waiting, 5) == "ended"
    assert called_off.is_set()


async def test_one_visitor_holds_so_many_live_pages(app: Starlette, request_of_ann: Request) -> None:
    """A further one asks again later, and one that is closed makes room."""
    end = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "begun"
        await end.wait()

    opened = [event_stream(request_of_ann, items()).body_iterator for _ in range(STREAMS_OF_ONE_MAX)]  # type: ignore[attr-defined]
    for each in opened:
        assert "begun" in await anext(each)
    assert (await said(event_stream(request_of_ann, items()))).startswith("retry: ")
    await opened[0].aclose()
    again = event_stream(request_of_ann, items()).body_iterator  # type: ignore[attr-defined]
    assert "begun" in await anext(again)
    for each in (*opened, again):
        await each.aclose()
    assert not app.state.console.streams


async def test_a_download_breaks_off_with_the_session(app: Starlette, request_of_ann: Request) -> None:
    """By an error, so that nobody takes the part for the whole."""

    async def others() -> AsyncIterator[audit_pb2.GetStatementResponse]:
        yield audit_pb2.GetStatementResponse()

    lines = accounts._lines(request_of_ann, audit_pb2.GetStatementResponse(), others())
    assert "position" in await anext(lines)
    app.state.console.sessions.end(request_of_ann.state.session_id)
    with pytest.raises(NotSignedIn):
        await anext(lines)
