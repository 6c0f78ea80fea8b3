"""Shared by all pages: the way to router and cells, the sessions, the templates."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from cellbook.v1 import router_pb2
from server.cli.access import Access
from server.cli.audit.statement import BUCKETS, amounts, changes
from server.cli.client import CellStubs, Client
from server.cli.reach import Reach, reach_of
from server.cli.texts import amount, enum_text, now_ms, point_text, span_text
from server.console import formats
from server.console.pages import Page, may_call
from server.console.sessions import Sessions
from server.console.settings import ConsoleSettings
from server.console.visitor import VISITOR, VisitorAccess, VisitorClient

if TYPE_CHECKING:
    # They import this module.
    from server.console.oidc import Provider
    from server.console.operator.evacuations import Evacuation
    from server.console.operator.jobs import Jobs
    from server.console.operator.rebuild import Rebuild
    from server.console.operator.status import Courses

TEMPLATES = Path(__file__).with_name("templates")
COOKIE = "cellbook_session"
ADDING_UP_MAX = 2
ZONE_COOKIE = "cellbook_zone"
# Rooms and pages in the navigation, in this order.
Navigation = Mapping[str, tuple[Page, ...]]


def make_templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        money=formats.money,
        short=formats.short,
        span=span_text,
        enum=enum_text,
        point_text=point_text,
        amount=amount,
        amounts=amounts,
        buckets=BUCKETS,
        changes=changes,
    )
    return made


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The router and its cells, on behalf of the visitor of the request."""

    client: Client
    _cells: dict[tuple[str, ...], CellStubs] = field(default_factory=dict)

    async def listed(self, *, count_users: bool = False) -> router_pb2.ListCellsResponse:
        """As the router lists them now. Raises as `Client.once`."""
        request = router_pb2.ListCellsRequest(count_users=count_users)
        return await self.client.ask_router(self.client.router.ListCells, request)

    async def reach(self, cell: str = "") -> Reach:
        """All cells, or only the one named. Raises as `listed`, and CellNotListed."""
        return reach_of(self.client, (await self.listed()).cells, self._stubs, cell)

    async def home_of(self, user_id: str) -> CellStubs:
        """Raises as `listed`, and LedgerRefusal."""
        request = router_pb2.ResolveUserRequest(user_id=user_id)
        return self._stubs((await self.client.ask_router(self.client.router.ResolveUser, request)).cell)

    def process(self, cell: router_pb2.Cell, endpoint: str) -> CellStubs:
        """One process of the cell, whether it leads or not."""
        return self._stubs(router_pb2.Cell(name=cell.name, region=cell.region, endpoints=[endpoint]))

    def _stubs(self, cell: router_pb2.Cell) -> CellStubs:
        key = (cell.name, *cell.endpoints)
        if key not in self._cells:
            self._cells[key] = self.client.cell_of(cell)
        return self._cells[key]


@dataclass(slots=True, kw_only=True)
class ConsoleApp:
    settings: ConsoleSettings
    ledger: Ledger
    # How the console itself reaches router and cells; in development also the proofs of any visitor.
    access: Access
    navigation: Navigation
    # None: visitors do not sign in by one.
    provider: "Provider | None"
    courses: "Courses"
    rebuilds: "Jobs[Rebuild]"
    evacuations: "Jobs[Evacuation]"
    # Statements with up to 100,000 movements, each of which may take 100 MB.
    adding_up: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ADDING_UP_MAX))
    sessions: Sessions = field(default_factory=Sessions)
    # Live pages by visitor.
    streams: Counter[str] = field(default_factory=Counter)
    templates: Environment = field(default_factory=make_templates)


def make_client(settings: ConsoleSettings, access: Access) -> Client:
    return VisitorClient(settings.router, VisitorAccess(tls=access.tls))


def console_of(request: Request) -> ConsoleApp:
    console: ConsoleApp = request.app.state.console
    return console


def ledger_of(request: Request) -> Ledger:
    return console_of(request).ledger


async def cell_in(request: Request) -> CellStubs:
    """The cell in the path. Raises as `Ledger.reach`."""
    return (await ledger_of(request).reach(request.path_params["cell"])).only


def render(request: Request, template: str, *, status: int = 200, **context: object) -> HTMLResponse:
    """A page."""
    return HTMLResponse(render_text(request, template, **context), status)


def render_text(request: Request, template: str, **context: object) -> str:
    """A page, or a part of one. All that it shows is escaped."""
    console, visitor = console_of(request), VISITOR.get()
    zone = formats.zone_of(request.cookies.get(ZONE_COOKIE, ""))
    rooms = {
        room: [page for page in pages if visitor is not None and page.title and page.is_open_to(visitor.role)]
        for room, pages in console.navigation.items()
    }
    shared: dict[str, Any] = {
        "visitor": visitor,
        "rooms": {room: pages for room, pages in rooms.items() if pages},
        "path": request.url.path,
        "form_token": request.state.form_token,
        "moment": lambda at_ms, *, exact=False: formats.moment(at_ms, zone, exact=exact),
        "may": lambda rpc: visitor is not None and may_call(visitor.role, rpc),
        "now_ms": now_ms(),
    }
    return console.templates.get_template(template).render(shared | context)
