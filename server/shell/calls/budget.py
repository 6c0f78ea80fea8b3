"""Limits on concurrent calls or streams, in total and per principal.

People and programs share one pool, and none of them gets all of it. Operators, cells and routers have a pool of their
own, so a full shared pool keeps no operator out and delays no settlement.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cells.domain.refusals import Refused
from server.shell.identity.principal import Principal, Role

_RESERVED = frozenset({Role.OPERATOR, Role.PEER, Role.ROUTER})
_PEOPLE = frozenset({Role.USER, Role.DELEGATE})

# Makes the refusal, from the number under way and the principal.
Full = Callable[[int, str], Refused]


@dataclass(slots=True)
class _Room:
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
        shared_room, reserved_room = _Room(shared, _half(shared)), _Room(reserved, _half(reserved))
        self._rooms = {role: reserved_room if role in _RESERVED else shared_room for role in Role}
        self._ones = {role: min(person, shared) if role in _PEOPLE else self._rooms[role].one for role in Role}
        # (role, name) -> how many are under way.
        self._held: dict[tuple[Role, str], int] = {}

    def enter(self, principal: Principal) -> None:
        """Takes a slot, which `leave` gives back. Raises what `full` makes if no slot is free."""
        role = principal.role
        room, who = self._rooms[role], (role, principal.name)
        held = self._held.get(who, 0)
        if held >= self._ones[role]:
            raise self._full(held, str(principal))
        if room.taken >= room.size:
            raise self._full(room.taken, "all callers together")
        self._held[who] = held + 1
        room.taken += 1

    def leave(self, principal: Principal) -> None:
        role = principal.role
        who = (role, principal.name)
        self._rooms[role].taken -= 1
        held = self._held[who] - 1
        if held:
            self._held[who] = held
        else:
            del self._held[who]

    @property
    def taken(self) -> int:
        """Slots taken, over all pools."""
        return sum(self._held.values())


def _half(size: int) -> int:
    return -(-size // 2)
