"""Mail to an unproven address: a fixed text with a code, a few times a day.

Without this limit any user could make us send mail to any address, as often as they like and in words of their own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from cells.sql import queries
from server.contacts.refusals import ConfirmationsExhausted
from server.mail.outbox import Outbox

if TYPE_CHECKING:
    from server.shell.postgres.database import Connection

SQL = queries("cells.sql", "confirmations.sql")
QUEUE = queries("cells.sql", "outbox.sql")["put"]
# The notice that asks for confirmation; its `auction` is the address's tag.
CONFIRM_ADDRESS = "CONFIRM_ADDRESS"
A_DAY_FOR_AN_ADDRESS = 3
A_DAY_FOR_A_PERSON = 5


@dataclass(frozen=True, slots=True)
class Confirmations:
    outbox: Outbox

    async def ask(self, connection: "Connection", user_id: UUID, address_tag: str) -> None:
        """Queues a mail in the transaction that sets the address. Raises ConfirmationsExhausted."""
        confirmation_id = uuid4()
        await connection.execute(SQL["lock"])
        await connection.execute(SQL["forget"])
        bounds = (A_DAY_FOR_AN_ADDRESS, A_DAY_FOR_A_PERSON)
        if await connection.execute(SQL["note"], confirmation_id, user_id, address_tag, *bounds) == "INSERT 0 0":
            raise ConfirmationsExhausted(user_id=str(user_id))
        await connection.execute(QUEUE, confirmation_id, user_id, CONFIRM_ADDRESS, address_tag, "", 0)

    def asked(self) -> None:
        """Call this when that transaction is durable: there is mail to send."""
        self.outbox.news.set()
