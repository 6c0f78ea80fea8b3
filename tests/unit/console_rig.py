"""A console in the event loop of its test, over a router that does not answer; its visitors and their browsers."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from httpx2 import ASGITransport, AsyncClient
from starlette.applications import Starlette

from server.cli.access import PLAIN
from server.console.app import build_app
from server.console.console import COOKIE, make_client
from server.console.settings import ConsoleSettings
from server.console.visitor import VISITOR, Visitor
from server.shell.identity.principal import PRINCIPAL_KEY, Principal, Role

HERE = "http://127.0.0.1"


def visitor(role: Role, name: str = "ann", *, until_s: float = 4e9) -> Visitor:
    principal = Principal(role=role, name=name)
    return Visitor(principal=principal, proof=lambda: ((PRINCIPAL_KEY, str(principal)),), until_s=until_s)


@contextmanager
def as_visitor(role: Role, name: str = "ann") -> Iterator[Visitor]:
    """What runs within is asked by that visitor."""
    made = visitor(role, name)
    token = VISITOR.set(made)
    yield made
    VISITOR.reset(token)


@asynccontextmanager
async def console_app(public_url: str = "") -> AsyncIterator[Starlette]:
    settings = ConsoleSettings(router="127.0.0.1:1", public_url=public_url)
    async with make_client(settings, PLAIN) as client:
        yield build_app(settings, client, PLAIN)


@asynccontextmanager
async def browser(
    app: Starlette, signed_in: Visitor | None = None, *, base_url: str = HERE, raises: bool = True
) -> AsyncIterator[AsyncClient]:
    """With the session of the visitor, if one has signed in; an error of the app is its own unless it `raises`."""
    cookies = {COOKIE: app.state.console.sessions.begin(signed_in)} if signed_in is not None else None
    transport = ASGITransport(app=app, raise_app_exceptions=raises)
    async with AsyncClient(transport=transport, base_url=base_url, cookies=cookies) as made:
        yield made
