"""Who may open which page of the console: each page and each role, and no call without a visitor."""

from collections.abc import AsyncIterator

import pytest
from starlette.testclient import TestClient

from server.cli.access import PLAIN
from server.console.app import OPEN, PAGES, build_app
from server.console.console import COOKIE, make_client
from server.console.pages import Page, may_call
from server.console.settings import ConsoleSettings
from server.console.visitor import VISITOR, NotSignedIn, Visitor, VisitorAccess
from server.shell.identity.principal import PRINCIPAL_KEY, Principal, Role

FAR_S = 4e9


@pytest.fixture
async def console() -> AsyncIterator[TestClient]:
    """A console whose router does not answer."""
    settings = ConsoleSettings(router="127.0.0.1:1")
    with TestClient(
        build_app(settings, make_client(settings, PLAIN), PLAIN), base_url="http://127.0.0.1", follow_redirects=False
    ) as made:
        yield made


def visitor(role: Role) -> Visitor:
    name = "01890a5d-ac96-774b-bcce-b302099a8057" if role is Role.USER else "somebody"
    principal = Principal(role=role, name=name)
    return Visitor(principal=principal, proof=lambda: ((PRINCIPAL_KEY, str(principal)),), until_s=FAR_S)


def asked(console: TestClient, page: Page) -> int:
    path = page.path.replace("{", "").replace("}", "").replace(":path", "")
    return console.request(page.method, path, data={} if page.method == "POST" else None).status_code


def test_every_page_wants_a_visitor(console: TestClient) -> None:
    """Whoever is not signed in is led to do so, and the ledger is not asked."""
    assert {asked(console, page) for page in PAGES} == {303}
    assert {(page.method, asked(console, page)) for page in OPEN if page.method == "GET"} <= {
        ("GET", 200),
        ("GET", 400),
    }


@pytest.mark.parametrize("role", list(Role))
def test_a_page_is_denied_to_every_role_that_may_not_call_what_it_needs(console: TestClient, role: Role) -> None:
    """By the policy tables alone; a form without its token is refused whoever sends it."""
    sessions = console.app.state.console.sessions  # type: ignore[attr-defined]
    console.cookies.set(COOKIE, sessions.begin(visitor(role)))
    for page in PAGES:
        denied = not all(may_call(role, need) for need in page.needs)
        status = asked(console, page)
        assert (status == 403) if denied or page.method == "POST" else (status != 403), (page.path, status)


def test_each_page_says_what_it_needs() -> None:
    """Only the first page needs nothing; every call that is named is in the policy tables."""
    assert [page.path for page in PAGES if not page.needs] == ["/"]
    assert all(isinstance(may_call(Role.AUDITOR, need), bool) for page in PAGES for need in page.needs)


def test_without_a_visitor_there_is_no_call() -> None:
    """The certificate of the console never speaks for anybody."""
    access = VisitorAccess()
    with pytest.raises(NotSignedIn):
        access.metadata("operator/cellbook")
    silent = Visitor(principal=Principal(role=Role.AUDITOR, name="a"), proof=tuple, until_s=FAR_S)
    token = VISITOR.set(silent)
    try:
        with pytest.raises(NotSignedIn):
            access.metadata("operator/cellbook")
    finally:
        VISITOR.reset(token)
