"""Mail to a person of this cell. Without a mail server the step is recorded as skipped."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class NoMail:
    """The Notifier of a cell that has no mail server configured."""

    async def notify(
        self,
        *,
        user_id: UUID,  # noqa: ARG002 - the port's signature
        auction: str,  # noqa: ARG002
        notice: str,  # noqa: ARG002
        currency: str,  # noqa: ARG002
        amount_minor: int,  # noqa: ARG002
    ) -> str:
        return "SKIPPED"
