"""Limits of one principal: its calls and streams under way, and its work per second in plain calls.

People and programs share one pool of calls, and none of them gets all of it. Operators, cells and routers have a pool
of their own, so a full shared pool keeps no operator out and delays no settlement.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cells.buckets import Buckets
from cells.domain.refusals import Refused
from server.shell.calls.denials import RateExceeded, TooManyCalls, TooManyStreams
from server.shell.identity.principal import Principal, Role

# Concurrent calls, below gRPC's own limit (hosting/host.py).
CALLS_SHARED = 8_000
CALLS_RESERVED = 1_000
CALLS_PERSON = 256
STREAMS_SHARED = 1_000
STREAMS_PERSON = 10
# Streams that are open to everybody have a budget of their own, so they keep nobody from following the log.
WATCHES = frozenset({"/cellbook.v1.AuctionService/WatchAuction"})
# How much larger it is.
WATCHERS_TIMES = 4
# A bucket holds the allowance of this much time.
BURST_S = 2.0
_PEOPLE = frozenset({Role.USER, Role.DELEGATE})
_RESERVED = frozenset({Role.OPERATOR, Role.PEER, Role.ROUTER})
# They do our own work: a delayed settlement is delayed money.
_UNBOUNDED = frozenset({Role.PEER, Role.ROUTER})

# Makes the refusal, from the number under way and the principal.
Full = Callable[[int, str], Refused]


@dataclass(slots=True)
class _Pool:
    size: int
    # The most that one principal may hold of these.
    one: int
    taken: int = 0


class Budget:
    """`shared` is for people and programs, of which one user or delegate holds at most `person`; `reserved` is added.

    One program gets at most half of `shared`; one operator, cell or router at most half of `reserved`.
    """

    def __init__(self, full: Full, *, shared: int, person: int, reserved: int) -> None:
        self._full = full
        shared_pool, reserved_pool = _Pool(shared, _half(shared)), _Pool(reserved, _half(reserved))
        self._pools = {role: reserved_pool if role in _RESERVED else shared_pool for role in Role}
        self._ones = {role: min(person, shared) if role in _PEOPLE else self._pools[role].one for role in Role}
        # Principal -> how many are under way.
        self._held: dict[str, int] = {}

    def enter(self, principal: Principal) -> None:
        """Takes a slot, which `leave` gives back. Raises what `full` makes if no slot is free."""
        pool, caller = self._pools[principal.role], str(principal)
        held = self._held.get(caller, 0)
        if held >= self._ones[principal.role]:
            raise self._full(held, caller)
        if pool.taken >= pool.size:
            raise self._full(pool.taken, "all callers together")
        self._held[caller] = held + 1
        pool.taken += 1

    def leave(self, principal: Principal) -> None:
        caller = str(principal)
        self._pools[principal.role].taken -= 1
        held = self._held[caller] - 1
        if held:
            self._held[caller] = held
        else:
            del self._held[caller]

    @property
    def taken(self) -> int:
        """Slots taken, over all pools."""
        return sum(self._held.values())


def _half(size: int) -> int:
    return -(-size // 2)


def calls_budget() -> Budget:
    return Budget(
        lambda count, principal: TooManyCalls(open_count=count, principal=principal),
        shared=CALLS_SHARED,
        person=CALLS_PERSON,
        reserved=CALLS_RESERVED,
    )


def streams_budget(shared: int = STREAMS_SHARED) -> Budget:
    """Adds a quarter for operators, cells and routers."""
    return Budget(
        lambda count, principal: TooManyStreams(open_count=count, principal=principal),
        shared=shared,
        person=STREAMS_PERSON,
        reserved=-(-shared // 4),
    )


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
