"""Addresses as settings and the wire write them: "host:port"."""

import ipaddress
import re
from collections.abc import Sequence
from socket import SOCK_STREAM, gaierror, getaddrinfo
from typing import NamedTuple

PORT_MAX = 65535
LOOPBACK = "127.0.0.1"
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    # Without brackets.
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host is a DNS name, which may resolve to another address the next time."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost may resolve to any address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Raises ValueError, which says what is expected."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > PORT_MAX:
        raise ValueError("expected host:port, as in 127.0.0.1:50051 or [::1]:50051")
    return Address(found["host"].strip("[]"), int(found["port"]))


def target_of(endpoints: Sequence[str]) -> str:
    """The gRPC target for several addresses. gRPC cannot resolve several names together, so names are resolved here.

    A name that does not resolve now is left out; if none resolves, gRPC reports it.

    Raises:
        ValueError: no endpoint is given, or one is none.
    """
    if not endpoints:
        raise ValueError("no endpoint")
    addresses = [parse_address(endpoint) for endpoint in endpoints]
    if len(addresses) == 1:
        return str(addresses[0])
    found = [known for address in addresses for known in _looked_up(address)]
    if not found:
        return str(addresses[0])
    scheme = "ipv6" if any(":" in address.host for address in found) else "ipv4"
    chosen = [str(address) for address in found if (":" in address.host) == (scheme == "ipv6")]
    return f"{scheme}:" + ",".join(dict.fromkeys(chosen))


def _looked_up(address: Address) -> list[Address]:
    try:
        found = getaddrinfo(address.host, address.port, type=SOCK_STREAM)
    except gaierror:
        return []
    return [Address(str(sockaddr[0]), address.port) for *_, sockaddr in found]
