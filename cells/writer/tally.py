"""Counts the commits of this process, for its metrics and its status."""

from dataclasses import dataclass

from cells.store.ports import Clock
from cells.writer.batch import Commit


@dataclass(slots=True, kw_only=True)
class CommitTally:
    clock: Clock
    # Events and commands, with those that were refused, since the process began.
    events: int = 0
    commands: int = 0
    # When the last event was written, on the monotonic clock; None: none was.
    last_s: float | None = None

    def follow(self, commit: Commit) -> None:
        self.commands += commit.commands
        if commit.events:
            self.events += len(commit.events)
            self.last_s = self.clock.monotonic_s()

    @property
    def age_s(self) -> float | None:
        """The time since the last event was written; None: none was."""
        return None if self.last_s is None else self.clock.monotonic_s() - self.last_s
