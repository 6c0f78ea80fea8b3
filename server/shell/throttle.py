"""How many calls a second one principal may make: a token bucket each, as GCRA keeps it, in a bounded table."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from server.shell.denials import RateExceeded
from server.shell.principal import Principal, Role

# As many buckets; the one that was used longest ago makes room, and begins anew full.
BUCKETS_MAX = 10_000
# A bucket holds what may be called in this time.
BURST_S = 2.0
# They do our own work: a settlement that waits is money that waits.
_UNBOUNDED = frozenset({Role.PEER, Role.ROUTER})
_PEOPLE = frozenset({Role.USER, Role.DELEGATE})


@dataclass(slots=True, kw_only=True)
class Throttle:
    """`user_calls_per_s` of people and delegates, `client_calls_per_s` of programs; 0: as many as they like."""

    user_calls_per_s: float = 0.0
    client_calls_per_s: float = 0.0
    monotonic_s: Callable[[], float] = time.monotonic
    # Principal -> when its bucket will be full again.
    _full_s: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def check(self, principal: Principal) -> None:
        """Takes one call out of the caller's bucket. Raises RateExceeded."""
        role = principal.role
        rate = self.user_calls_per_s if role in _PEOPLE else self.client_calls_per_s
        if rate <= 0 or role in _UNBOUNDED:
            return
        name, now_s = str(principal), self.monotonic_s()
        full_s = max(self._full_s.get(name, now_s), now_s) + 1 / rate
        over_s = full_s - now_s - max(BURST_S, 1 / rate)
        # A nanosecond for what floats round.
        if over_s > 1e-9:  # noqa: PLR2004 - as the line above says
            raise RateExceeded(principal=name, calls_per_s=f"{rate:g}", wait_ms=math.ceil(over_s * 1_000))
        self._full_s[name] = full_s
        self._full_s.move_to_end(name)
        if len(self._full_s) > BUCKETS_MAX:
            self._full_s.popitem(last=False)
