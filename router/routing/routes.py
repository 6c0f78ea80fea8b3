"""How each RPC of a cell finds its cell: by a user, or by the name of a resource. One table for client and proxy.

A method that is not in the table needs metadata: CELL_KEY names the cell, or USER_KEY a user who is at home there.
Metadata take precedence over the table.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from cellbook.v1 import (
    auction_pb2,
    audit_pb2,
    contact_pb2,
    event_pb2,
    ledger_pb2,
    move_pb2,
    operations_pb2,
    saga_pb2,
    settlement_pb2,
)
from server.shell.fields.spelling import spelled
from server.shell.rpc import request_parser

CELL_KEY = "cellbook-cell"
USER_KEY = "cellbook-user"
PACKAGE = "/cellbook.v1."
ROUTER_SERVICE = "/cellbook.v1.RouterService/"

_NAME = re.compile(r"cells/([a-z0-9-]{1,32})/")


def no_routing_target(method: str) -> str:
    """The problem of a call that does not name its target."""
    return (
        f"{method} does not say which cell it is for: name it in metadata {CELL_KEY!r}, or in {USER_KEY!r} "
        "a user who is at home there"
    )


class RoutingTarget(NamedTuple):
    """The target of a call: a cell, or the home of a user."""

    cell: str = ""
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """The field that decides: a user's id, or a resource's name. For a batch, that of the first item."""

    path: str
    is_name: bool = False

    def target(self, value: str) -> RoutingTarget | None:
        """None if the value is not valid; any cell can refuse it."""
        if not self.is_name:
            return RoutingTarget(user_id=spelled(value)) if value else None
        found = _NAME.match(value)
        return RoutingTarget(cell=found[1]) if found is not None else None


# The cells' services. They are imported so that each method's kind is known: a call that is passed on as a stream, like
# one of a newer version, can lose a status that arrives before its message has been sent.
SERVED = (
    auction_pb2, audit_pb2, contact_pb2, event_pb2, ledger_pb2, move_pb2, operations_pb2, saga_pb2, settlement_pb2,
)  # fmt: skip

_LEDGER = {
    "OpenAccount": Route("user_id"),
    "Deposit": Route("user_id"),
    "BatchDeposit": Route("items.user_id"),
    "Withdraw": Route("user_id"),
    "Transfer": Route("from_user_id"),
    "Reserve": Route("user_id"),
    "Capture": Route("user_id"),
    "Release": Route("user_id"),
    "GetBalance": Route("user_id"),
    "GetAccount": Route("user_id"),
}
_AUCTION = {
    # At the owner's home, unless the metadata name another cell.
    "RegisterAsset": Route("owner_user_id"),
    "GetAsset": Route("name", is_name=True),
    "CreateAuction": Route("asset", is_name=True),
    "GetAuction": Route("name", is_name=True),
    "WatchAuction": Route("auction", is_name=True),
    "PlaceBid": Route("bidder_user_id"),
    "BatchPlaceBids": Route("items.bidder_user_id"),
    "CloseAuction": Route("auction", is_name=True),
    "CancelAuction": Route("auction", is_name=True),
}

_EVENT = {"ListUserEvents": Route("user_id")}
_MOVE = {
    "BeginMove": Route("user_id"),
    "ListEarlierEvents": Route("user_id"),
}

ROUTES: dict[str, Route] = {
    f"/{file.DESCRIPTOR.services_by_name[service].full_name}/{rpc}": route
    for file, service, routes in (
        (ledger_pb2, "LedgerService", _LEDGER),
        (auction_pb2, "AuctionService", _AUCTION),
        (event_pb2, "EventService", _EVENT),
        (move_pb2, "MoveService", _MOVE),
    )
    for rpc, route in routes.items()
}


def named_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> RoutingTarget | None:
    """The target that the caller's metadata name."""
    said = {key: value for key, value in metadata or () if key in (CELL_KEY, USER_KEY) and isinstance(value, str)}
    if CELL_KEY in said:
        return RoutingTarget(cell=said[CELL_KEY])
    return RoutingTarget(user_id=spelled(said[USER_KEY])) if USER_KEY in said else None


def routing_target_of(method: str, request: Message) -> RoutingTarget | None:
    """The target of a request by the table; None: it names none."""
    route = ROUTES.get(method)
    return None if route is None else route.target(text_in(request, route.path))


def routing_target_in(method: str, request: bytes) -> RoutingTarget | None:
    """The same for an encoded request. Bytes that are no such message name none: any cell reports it."""
    if method not in ROUTES:
        return None
    try:
        return routing_target_of(method, request_parser(method)(request))
    except DecodeError:
        return None


def is_for_cells(method: str) -> bool:
    return method.startswith(PACKAGE) and not method.startswith(ROUTER_SERVICE)


def text_in(message: Message, path: str) -> str:
    """The text at a dotted path, of the first item if a field on the path is repeated; empty if there is none."""
    name, _, rest = path.partition(".")
    value = getattr(message, name)
    if not rest:
        return str(value)
    if isinstance(value, Message):
        return text_in(value, rest)
    return text_in(value[0], rest) if value else ""
