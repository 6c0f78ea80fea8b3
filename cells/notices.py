"""The port to the mail of persons, and what goes through it."""

from typing import NamedTuple, Protocol
from uuid import UUID


class Notice(NamedTuple):
    """A notice to a person; the same `notice_id` is the same notice."""

    notice_id: UUID
    user_id: UUID
    # AUCTION_WON, ASSET_SOLD, SETTLEMENT_FAILED_FOR_WINNER or SETTLEMENT_FAILED_FOR_SELLER
    notice: str
    auction: str
    currency: str
    amount_minor: int


class Notifier(Protocol):
    async def notify(self, notice: Notice) -> str:
        """Makes sure that the person is notified, once: QUEUED, or SKIPPED if there is no mail. Raises on failure."""
