"""Limits that gRPC lacks: connections per address, and unauthenticated calls per connection.

gRPC reports no connections and cannot close one on demand. They are sockets of this process, though: we find those of a
listener among its open files and shut them down, which gRPC takes for a close by the other side.
"""

import asyncio
import ipaddress
import os
import socket
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISSOCK
from typing import NamedTuple
from urllib.parse import unquote

import structlog

from cells.background import Background, in_background
from server.shell.rpc import Context
from server.shell.settings.addresses import Address, parse_address

log = structlog.get_logger()

POLL_S = 1.0
# Between two checks, if one is due.
PAUSE_S = 0.05
# Unauthenticated calls over one connection, beyond the authenticated ones.
DENIED_MAX = 100
# Connections whose denied calls are counted; beyond that, the one counted longest ago is dropped.
COUNTED_MAX = 10_000
_OPEN_FILES = Path("/dev/fd")
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})


class _Connection(NamedTuple):
    socket: socket.socket
    # The other side's address.
    remote: Address


@dataclass(slots=True, kw_only=True)
class Connections(Background):
    """Connections to `ports`, which are added once known. `of_one_max` limits those of one address; 0: no limit."""

    of_one_max: int
    ports: set[int] = field(default_factory=set)
    # The connections found by the last check.
    _known: set[Address] = field(default_factory=set)
    _denied: OrderedDict[Address, int] = field(default_factory=OrderedDict)
    _to_cut: set[Address] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def denied(self, context: Context) -> None:
        """Counts an unauthenticated call. Cuts the connection if there are too many and it has no certificate."""
        remote = None if context.auth_context().get("x509_pem_cert") else _remote(context.peer())
        if remote is None:
            return
        count = self._denied.pop(remote, 0) + 1
        self._denied[remote] = count
        if len(self._denied) > COUNTED_MAX:
            self._denied.popitem(last=False)
        if count >= DENIED_MAX:
            self._to_cut.add(remote)
            self._wake.set()

    def admitted(self, context: Context) -> None:
        """Counts an authenticated call, which offsets one unauthenticated call over the same connection."""
        # Looked up only if any call was denied: every call passes here.
        remote = _remote(context.peer()) if self._denied else None
        if remote is not None and remote in self._denied:
            self._denied[remote] -= 1
            if self._denied[remote] <= 0:
                del self._denied[remote]

    @in_background("connections", every_s=PAUSE_S)
    async def _look_and_wait(self) -> None:
        self.look()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        self._wake.clear()

    def look(self) -> None:
        """Cuts connections with too many denied calls, and the newest of an address that has too many."""
        remotes = [connection.remote for connection in self._connections()]
        too_many = self._too_many(remotes)
        cut = too_many | self._to_cut
        if cut:
            for connection in self._connections():
                if connection.remote in cut:
                    with suppress(OSError):
                        connection.socket.shutdown(socket.SHUT_RDWR)
            log.warning("connections_cut", too_many_count=len(too_many), denied_count=len(self._to_cut))
        self._known = set(remotes) - cut
        for remote in self._denied.keys() - self._known:
            del self._denied[remote]
        self._to_cut.clear()

    def _too_many(self, remotes: list[Address]) -> set[Address]:
        if not self.of_one_max:
            return set()
        kept: Counter[str] = Counter()
        cut: set[Address] = set()
        for remote in sorted(remotes, key=lambda each: each not in self._known):
            kept[remote.host] += 1
            if kept[remote.host] > self.of_one_max:
                cut.add(remote)
        return cut

    def _connections(self) -> Iterator[_Connection]:
        for found in _sockets():
            with suppress(OSError):
                if found.family in _FAMILIES and found.getsockname()[1] in self.ports:
                    host, port = found.getpeername()[:2]
                    yield _Connection(found, Address(_plain(host), port))


def _sockets() -> Iterator[socket.socket]:
    """The sockets that this process has open, each as a duplicate that is closed after it was yielded."""
    for file in [*_OPEN_FILES.iterdir()]:
        with suppress(OSError):
            number = os.dup(int(file.name))
            if S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=number) as found:
                    yield found
            else:
                os.close(number)


def _remote(peer: str) -> Address | None:
    """Parses gRPC's "ipv4:127.0.0.1:5001" and "ipv6:%5B::1%5D:5001"; None: not TCP."""
    scheme, _, address = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return None
    try:
        found = parse_address(address)
    except ValueError:
        return None
    return Address(_plain(found.host), found.port)


def _plain(host: str) -> str:
    """An IPv4 address in its plain form, even if it reached an IPv6 socket."""
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)
