"""Places where a test may have the process die, a leg refused or a saga held, to show that nothing is lost there.

None is set outside of tests and `cellbook chaos`.
"""

import asyncio
import os
import signal
from pathlib import Path

from cells.domain.record import dataclass
from cells.domain.refusals import RefusedByFailpoint

HOLD_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Failpoints:
    """Names look like "before-send/escrow-out/action": a point, a leg, a direction.

    "@/path" names a file with more of them, one a line, looked into at each place: it may change meanwhile.
    """

    names: frozenset[str] = frozenset()

    def hit(self, point: str, leg: str, direction: str) -> None:
        """Kills this process as kill -9 would, if the place is set."""
        if self._is_set(f"{point}/{leg}/{direction}"):
            os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self, leg: str, direction: str) -> None:
        """Raises a definite refusal, if "refuse/{leg}/{direction}" is set."""
        if self._is_set(f"refuse/{leg}/{direction}"):
            raise RefusedByFailpoint(leg=leg)

    async def hold(self, leg: str, direction: str) -> None:
        """Holds the saga before the leg for as long as "hold/{leg}/{direction}" is set."""
        while self._is_set(f"hold/{leg}/{direction}"):  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(HOLD_POLL_S)

    def _is_set(self, name: str) -> bool:
        return name in self.names or any(name in _lines(file) for file in self.names if file.startswith("@"))


def _lines(file: str) -> list[str]:
    try:
        return Path(file.removeprefix("@")).read_text().splitlines()
    except FileNotFoundError:
        return []
