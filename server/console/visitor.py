"""The visitor who is signed in. Each call to router and cells carries the visitor's proof, never the console's own."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

import grpc
from grpc import aio

from server.cli.access import Access, Metadata
from server.cli.client import Client
from server.shell.identity.principal import Principal, Role

STATUS_TEXTS = {
    grpc.StatusCode.UNAVAILABLE: "it cannot be reached, or cannot do it now",
    grpc.StatusCode.DEADLINE_EXCEEDED: "it has not answered in time",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "it is too busy",
}


class NotSignedIn(Exception):
    """The request needs a visitor. The message says why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    principal: Principal
    # The metadata that prove, or in development state, who calls.
    proof: Callable[[], Metadata]
    # Unix time in seconds: the proof is not valid any longer.
    until_s: float

    @property
    def role(self) -> Role:
        return self.principal.role


# Of the request that is being answered, and of all calls made for it. None: nobody is signed in. Each request sets it:
# one that comes over the connection of another one can begin in that one's context.
VISITOR: ContextVar[Visitor | None] = ContextVar("visitor", default=None)


def current_visitor() -> Visitor:
    """Raises NotSignedIn."""
    visitor = VISITOR.get()
    if visitor is None:
        raise NotSignedIn("sign in first")
    return visitor


class VisitorClient(Client):
    """Says no addresses of router and cells: any visitor reads its errors."""

    def router_text(self) -> str:
        return "the router"

    def status_text(self, error: aio.AioRpcError) -> str:
        return STATUS_TEXTS.get(error.code(), error.code().name)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitorAccess(Access):
    """As the console's own access, but every call is the visitor's.

    Without a visitor there is no call: router and cells would take the console's certificate for the caller.
    """

    def metadata(self, principal: str) -> Metadata:  # noqa: ARG002 - a command line chooses; here the visitor calls
        """Raises NotSignedIn."""
        proof = current_visitor().proof()
        if not proof:
            raise NotSignedIn("sign in first")
        return proof
