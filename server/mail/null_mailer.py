"""The Notifier of a cell that has no mail server configured."""

from dataclasses import dataclass

from cells.notices import Notice

SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class NullMailer:
    async def notify(self, notice: Notice) -> str:  # noqa: ARG002 - the port's signature
        return SKIPPED
