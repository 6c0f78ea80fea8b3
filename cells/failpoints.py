"""Places where a test may have the process die or a leg refused, to show that nothing is lost there.

None is set outside of tests.
"""

import os
import signal

from cells.domain.record import dataclass
from cells.domain.refusals import RefusedByFailpoint


@dataclass(frozen=True, slots=True)
class Failpoints:
    """Names look like "before-send/escrow-out/action": a point, a leg, a direction."""

    names: frozenset[str] = frozenset()

    def hit(self, point: str, leg: str, direction: str) -> None:
        """Kills this process as kill -9 would, if the place is set."""
        if self.names and f"{point}/{leg}/{direction}" in self.names:
            os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self, leg: str, direction: str) -> None:
        """Raises a definite refusal, if "refuse/{leg}/{direction}" is set."""
        if self.names and f"refuse/{leg}/{direction}" in self.names:
            raise RefusedByFailpoint(leg=leg)
