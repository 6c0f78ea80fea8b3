"""Who may open which page of the console: each page and each role, and no call without a visitor."""

import re
from collections.abc import AsyncIterator

import pytest
from httpx2 import AsyncClient, Response
from starlette.applications import Starlette

from server.console.app import OPEN, PAGES
from server.console.console import COOKIE
from server.console.pages import Page, may_call
from server.console.visitor import VISITOR, NotSignedIn, Visitor, VisitorAccess
from server.shell.identity.principal import Principal, Role
from tests.unit.console_rig import browser, console_app, visitor


@pytest.fixture
async def app() -> AsyncIterator[Starlette]:
    async with console_app() as made:
        yield made


@pytest.fixture
async def console(app: Starlette) -> AsyncIterator[AsyncClient]:
    async with browser(app) as made:
        yield made


def somebody(role: Role) -> Visitor:
    return visitor(role, "01890a5d-ac96-774b-bcce-b302099a8057" if role is Role.USER else "somebody")


async def asked(console: AsyncClient, page: Page, form_token: str = "") -> Response:
    path = re.sub(r"\{(\w+)(:\w+)?\}", r"\1", page.path)
    form = {"form_token": form_token} if page.method == "POST" else None
    return await console.request(page.method, path, data=form)


async def test_every_page_wants_a_visitor(console: AsyncClient) -> None:
    """Without a session the answer leads to the sign-in, and the ledger is not asked."""
    assert {(await asked(console, page)).status_code for page in PAGES} == {303}
    assert {(await asked(console, page)).status_code for page in OPEN if page.method == "GET"} <= {200, 400}


@pytest.mark.parametrize("role", list(Role))
async def test_a_page_is_denied_to_every_role_that_may_not_call_what_it_needs(
    app: Starlette, console: AsyncClient, role: Role
) -> None:
    """By the policy tables alone. A button is a page, too, and without the form's token nobody may press it."""
    sessions = app.state.console.sessions
    session_id = sessions.begin(somebody(role))
    console.cookies.set(COOKIE, session_id)
    for page in PAGES:
        answer = await asked(console, page, sessions.form_token(session_id))
        if all(may_call(role, need) for need in page.needs):
            assert answer.status_code != 403, (page.path, answer.text)
            # The router's address, which does not answer. The doctor is for operators, who look for it.
            assert "127.0.0.1" not in answer.text or page.path == "/operator/doctor", page.path
            assert page.method == "GET" or (await asked(console, page)).status_code == 403, page.path
        else:
            assert (answer.status_code, "Not for your role" in answer.text) == (403, True), page.path


async def test_a_request_takes_no_visitor_from_the_one_before(app: Starlette, console: AsyncClient) -> None:
    """Over one connection, such as a proxy's, a request can begin in the context of another visitor's."""
    mine = {"cookie": f"{COOKIE}={app.state.console.sessions.begin(somebody(Role.OPERATOR))}"}
    assert "operator/somebody" in (await console.get("/", headers=mine)).text
    assert VISITOR.get() is not None
    assert (await console.get("/")).status_code == 303


def test_each_page_says_what_it_needs() -> None:
    """Only the first page needs nothing; every call that is named is in the policy tables."""
    assert [page.path for page in PAGES if not page.needs] == ["/"]
    assert all(isinstance(may_call(Role.AUDITOR, need), bool) for page in PAGES for need in page.needs)


def test_without_a_visitor_there_is_no_call() -> None:
    """The certificate of the console never speaks for anybody."""
    access = VisitorAccess()
    with pytest.raises(NotSignedIn):
        access.metadata("operator/cellbook")
    silent = Visitor(principal=Principal(role=Role.AUDITOR, name="a"), proof=tuple, until_s=4e9)
    token = VISITOR.set(silent)
    try:
        with pytest.raises(NotSignedIn):
            access.metadata("operator/cellbook")
    finally:
        VISITOR.reset(token)
