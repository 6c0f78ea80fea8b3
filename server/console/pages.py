"""A page: its path, its view, and the calls that it needs. The policy tables decide who may open it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from router.policies import POLICIES as ROUTER_POLICIES
from server.process.policies import POLICIES as CELL_POLICIES
from server.shell.calls.policy import PolicyTable
from server.shell.identity.principal import Role

View = Callable[[Request], Awaitable[Response]]

_EVERY: PolicyTable = {**CELL_POLICIES, **ROUTER_POLICIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`needs` are the calls without which the page is of no use: "AuditService.Trace"."""

    path: str
    view: View
    needs: tuple[str, ...]
    # In the navigation; empty: links and forms lead there.
    title: str = ""
    method: Literal["GET", "POST"] = "GET"

    def is_open_to(self, role: Role) -> bool:
        return all(may_call(role, need) for need in self.needs)


def get(path: str, *needs: str, title: str = "") -> Callable[[View], Page]:
    """Makes a view a page."""
    return lambda view: Page(path=path, view=view, needs=needs, title=title)


def post(path: str, *needs: str) -> Callable[[View], Page]:
    """Makes a view a button, which a form sends."""
    return lambda view: Page(path=path, view=view, needs=needs, method="POST")


def pages_in(*modules: ModuleType) -> tuple[Page, ...]:
    """All pages of the modules, in the order in which they stand there."""
    return tuple(each for module in modules for each in vars(module).values() if isinstance(each, Page))


def may_call(role: Role, rpc: str) -> bool:
    """By the policy tables of router and cells. Raises KeyError for a call that there is not."""
    return role in _EVERY[f"/cellbook.v1.{rpc.replace('.', '/')}"].roles
