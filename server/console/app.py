"""The application: its pages by room, and what lies around all of them."""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from server.cli.access import Access
from server.cli.client import Client
from server.console import oidc, sign_in
from server.console.auctions import bids, listing, live, lot
from server.console.auditor import accounts, books, proofs, search, traces
from server.console.console import ConsoleApp, Ledger, Navigation, render
from server.console.operator import cells, doctor, evacuations, moves, rebuild, sagas
from server.console.operator.jobs import Jobs
from server.console.operator.status import Courses
from server.console.pages import get, pages_in
from server.console.serving import Headers, not_found, open_route, route
from server.console.settings import ConsoleSettings
from server.console.support import find, things, user
from server.shell.settings.addresses import parse_address

STATIC = Path(__file__).with_name("static")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


@get("/")
async def home(request: Request) -> Response:
    """The pages that the visitor's role may open."""
    return render(request, "home.html")


@get("/livez")
async def alive(_request: Request) -> Response:
    """For probes: the console serves. Whether router and cells do, its pages say."""
    return PlainTextResponse("ok\n")


async def broken(_request: Request, _error: Exception) -> Response:
    """An unforeseen error, which the server logs. It may lie in how pages are made, so this is none."""
    return PlainTextResponse("An error of the console, which is in its log. Go back, and try again.\n", 500)


NAVIGATION: Navigation = {
    "Audit": pages_in(search, traces, proofs, accounts, books),
    "Operations": pages_in(cells, evacuations, sagas, rebuild, moves, doctor),
    "Support": pages_in(find, user, things),
    "Market": pages_in(listing, lot, live, bids),
}
# Without a visitor.
OPEN = (*pages_in(sign_in, oidc), alive)
PAGES = (home, *(page for pages in NAVIGATION.values() for page in pages))


class App(Starlette):
    """Its answers have our headers, those to unforeseen errors, too."""

    def build_middleware_stack(self) -> ASGIApp:
        console: ConsoleApp = self.state.console
        return Headers(super().build_middleware_stack(), is_https=console.settings.is_https)


def build_app(settings: ConsoleSettings, client: Client, access: Access) -> Starlette:
    app = App(
        routes=[
            *map(open_route, OPEN),
            *map(route, PAGES),
            Mount("/static", Static(directory=STATIC), name="static"),
        ],
        middleware=[
            # A name that somebody points at this address is refused: their pages would be of our origin.
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts(settings), www_redirect=False),
        ],
        exception_handlers={404: not_found, Exception: broken},
    )
    app.state.console = ConsoleApp(
        settings=settings,
        ledger=Ledger(client=client),
        access=access,
        navigation=NAVIGATION,
        provider=oidc.Provider(settings=settings) if settings.oidc_issuer else None,
        courses=Courses(),
        rebuilds=Jobs(),
        evacuations=Jobs(),
    )
    return app


def hosts(settings: ConsoleSettings) -> list[str]:
    """Browsers and probes may ask for the console by these names."""
    public = urlsplit(settings.public_url).hostname
    return [*([public] if public else []), parse_address(settings.listen).host, *LOCAL_HOSTS]


class Static(StaticFiles):
    """Files that are the same for everybody."""

    def file_response(self, *args: object, **how: object) -> Response:
        response = super().file_response(*args, **how)  # type: ignore[arg-type]
        response.headers["cache-control"] = "public, max-age=3600"
        return response
