"""How many calls or streams may be under way at once: in all, and of one principal.

People and programs share one room, of which nobody gets all. Operators, cells and routers have a room of their own,
so that whoever fills the other one keeps no operator out and no settlement waiting.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cells.domain.refusals import Refused
from server.shell.principal import Principal, Role

_RESERVED = frozenset({Role.OPERATOR, Role.PEER, Role.ROUTER})
_PEOPLE = frozenset({Role.USER, Role.DELEGATE})

# The refusal for so many, of whom.
Full = Callable[[int, str], Refused]


@dataclass(slots=True)
class _Room:
    size: int
    # Of these, how many one principal may have.
    one: int
    taken: int = 0


class Budget:
    """`shared` are for people and programs, `person` of them at most for one user or delegate; `reserved` come on top.

    One program gets at most half of what is shared, one operator, cell or router half of what is reserved.
    """

    def __init__(self, full: Full, *, shared: int, person: int, reserved: int) -> None:
        self._full = full
        shared_room, reserved_room = _Room(shared, _half(shared)), _Room(reserved, _half(reserved))
        self._rooms = {role: reserved_room if role in _RESERVED else shared_room for role in Role}
        self._ones = {role: min(person, shared) if role in _PEOPLE else self._rooms[role].one for role in Role}
        # Who has any under way -> how many.
        self._held: dict[tuple[Role, str], int] = {}

    def enter(self, principal: Principal) -> None:
        """Takes a place, to be given back by `leave`. Raises what `full` makes: there is none."""
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
        """Of all rooms."""
        return sum(self._held.values())


def _half(size: int) -> int:
    return -(-size // 2)
