"""The contacts of a cell that keeps none."""

from uuid import UUID


class NoContacts:
    async def fetch(self, user_id: UUID, from_cell: str, saga_id: UUID) -> None:
        """Does nothing."""

    async def forget(self, user_id: UUID) -> None:
        """Does nothing."""
