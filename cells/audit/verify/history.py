"""Copies of users' histories in other cells, which an export brings along: the arrival that counts them binds them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple


class Copy(NamedTuple):
    """The first so many events, and the last link of the chain over their leaf hashes."""

    events: int
    chain: str


@dataclass(slots=True)
class Histories:
    """By user and cell."""

    _found: dict[tuple[str, str], Copy] = field(default_factory=dict)
    # As the last arrival says, and its position.
    _said: dict[tuple[str, str], tuple[Copy, int]] = field(default_factory=dict)

    def copied(self, cell: str, event: dict[str, Any], leaf_hash: str) -> None:
        key = str(event.get("aggregate_id")), cell
        events, chain = self._found.get(key, Copy(0, ""))
        self._found[key] = Copy(events + 1, sha256(bytes.fromhex(chain + leaf_hash)).hexdigest())

    def arrived(self, position: int, event: dict[str, Any]) -> None:
        """An arrival of before copies were bound says nothing of them."""
        payload = event["payload"]
        for cell, chain in payload.get("history", {}).items():
            events = max(home["events"] for home in payload["earlier_homes"] if home["cell"] == cell)
            self._said[event["aggregate_id"], cell] = Copy(events, chain), position

    def problems(self) -> Iterator[tuple[int, str]]:
        """Where arrivals are, and what of their copies is not as they say."""
        for (user_id, cell), (said, position) in self._said.items():
            found = self._found.get((user_id, cell), Copy(0, ""))
            if found != said:
                yield position, f"the {said.events} events of {cell} that it counts are not those brought along"
