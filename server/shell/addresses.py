"""Addresses as settings and wire name them: "host:port"."""

import ipaddress
import re
from typing import NamedTuple

PORT_MAX = 65535
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    # Without brackets.
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost may resolve to anything."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Raises ValueError, with what is expected."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > PORT_MAX:
        raise ValueError("expected host:port, as in 127.0.0.1:50051 or [::1]:50051")
    return Address(found["host"].strip("[]"), int(found["port"]))
