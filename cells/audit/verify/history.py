"""Copies of users' histories from other cells in an export: the arrival that counts them binds them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple


class Copy(NamedTuple):
    """The number of first events, and the last link of the chain over their leaf hashes."""

    events: int
    chain: str


@dataclass(slots=True)
class Histories:
    """By user and cell."""

    _found: dict[tuple[str, str], Copy] = field(default_factory=dict)
    # The last arrival's copy, and its position.
    _said: dict[tuple[str, str], tuple[Copy, int]] = field(default_factory=dict)

    def copied(self, cell: str, event: dict[str, Any], leaf_hash: str) -> None:
        key = str(event.get("aggregate_id")), cell
        events, chain = self._found.get(key, Copy(0, ""))
        self._found[key] = Copy(events + 1, sha256(bytes.fromhex(chain + leaf_hash)).hexdigest())

    def arrived(self, position: int, event: dict[str, Any]) -> None:
        """Adds an arrival. UserImport from before copies were bound are ignored."""
        payload = event["payload"]
        for cell, chain in payload.get("history", {}).items():
            events = max(home["events"] for home in payload["earlier_homes"] if home["cell"] == cell)
            self._said[event["aggregate_id"], cell] = Copy(events, chain), position

    def problems(self) -> Iterator[tuple[int, str]]:
        """The positions of arrivals, and the differences of their copies."""
        for (user_id, cell), (said, position) in self._said.items():
            found = self._found.get((user_id, cell), Copy(0, ""))
            if found != said:
                yield position, f"the {said.events} events of {cell} that it counts are not those brought along"
