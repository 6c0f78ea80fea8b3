"""The work that one principal may ask for per second, in plain calls."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cells.buckets import Buckets
from server.shell.calls.denials import RateExceeded
from server.shell.identity.principal import Principal, Role

# A bucket holds the allowance of this much time.
BURST_S = 2.0
# They do our own work: a delayed settlement is delayed money.
_UNBOUNDED = frozenset({Role.PEER, Role.ROUTER})
_PEOPLE = frozenset({Role.USER, Role.DELEGATE})


@dataclass(slots=True, kw_only=True)
class Throttle:
    """`user_calls_per_s` for people and delegates, `client_calls_per_s` for programs; 0: no limit."""

    user_calls_per_s: float = 0.0
    client_calls_per_s: float = 0.0
    monotonic_s: Callable[[], float] = time.monotonic
    _people: Buckets | None = field(init=False)
    _programs: Buckets | None = field(init=False)

    def __post_init__(self) -> None:
        self._people = _buckets(self.user_calls_per_s)
        self._programs = _buckets(self.client_calls_per_s)

    def check(self, principal: Principal, cost: Callable[[], int] = lambda: 1) -> None:
        """Takes the cost of a call from the caller's bucket, if it has one. Raises RateExceeded."""
        buckets = self._people if principal.role in _PEOPLE else self._programs
        if buckets is None or principal.role in _UNBOUNDED:
            return
        name = str(principal)
        wait_s = buckets.take(name, self.monotonic_s(), cost())
        if wait_s:
            raise RateExceeded(principal=name, calls_per_s=f"{buckets.per_s:g}", wait_ms=math.ceil(wait_s * 1_000))


def _buckets(per_s: float) -> Buckets | None:
    return Buckets(per_s=per_s, holds_s=BURST_S) if per_s > 0 else None
