"""Contacts in the cell's database, sealed; and the list of erased persons, which a restored backup must not undo."""

import asyncio
import hmac
from base64 import b32encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg
import structlog

from cells.domain.refusals import Unavailable
from cells.sql import queries
from server.contacts.erasures import Erasures
from server.contacts.refusals import CodeWrong, ContactErased, ContactNotFound, ContactSealed
from server.contacts.seals import Seal, SealBroken, new_key
from server.shell.postgres.database import Connection, Pool, session_of

if TYPE_CHECKING:
    from server.mail.outbox import Outbox

log = structlog.get_logger()

SQL = queries("cells.sql", "contacts.sql")
KEY, NAME, EMAIL = "key", "name", "email"
# 50 bits: too many to guess.
CODE_CHARS = 10
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    name: str
    email: str
    # True once the owner has confirmed the address, or a service vouches for it.
    proven: bool = False


class Known(NamedTuple):
    contact: Contact
    code: str
    sealed_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """`seal` is the cell's. An erasure is recorded outside the database before it is carried out."""

    pool: Pool
    seal: Seal
    erasures: Erasures

    async def prepare(self) -> None:
        """Repeats erasures that the database lacks: it may come from an older backup.

        Raises ErasuresInvalid, Unavailable.
        """
        noted = await asyncio.to_thread(self.erasures.noted)
        async with self.transaction() as connection:
            await connection.execute(SQL["note_erasures"], sorted(noted))
            deleted = await connection.execute(SQL["erase"], sorted(noted))
            erased = {row["user_id"] for row in await connection.fetch(SQL["erased"])}
            last = await connection.fetchrow(SQL["last_put"])
        if not deleted.endswith(" 0"):
            log.warning("erased_again", contacts_count=int(deleted.split()[-1]))
        if erased - noted:
            # The file, or a part of it, was lost.
            await asyncio.to_thread(self.erasures.note, sorted(erased - noted))
        if last is not None:
            self._look_at_key(last["sealed_key"], last["user_id"])

    async def put(self, user_id: UUID, contact: Contact, asking: "Outbox | None" = None) -> bool:
        """Replaces the contact, under a key of its own, and requests confirmation of an unproven address.

        Returns whether the address is proven: it stays so while it is unchanged. Raises ContactErased, and as `asking`
        does.
        """
        key = new_key()
        own = Seal(key)
        sealed = self.seal.seal(key, user_id, KEY)
        name, email = own.seal(contact.name.encode(), user_id, NAME), own.seal(contact.email.encode(), user_id, EMAIL)
        async with self.transaction() as connection:
            await connection.execute(SQL["lock"], str(user_id))
            proven = contact.proven or await self._is_proven(connection, user_id, contact.email)
            if await connection.execute(SQL["put"], user_id, sealed, name, email, proven) == "INSERT 0 0":
                raise ContactErased(user_id=str(user_id))
            if not proven and asking is not None:
                await asking.ask(connection, user_id, self.tag_of(contact.email))
        return proven

    async def get(self, user_id: UUID) -> Contact:
        """Raises ContactNotFound, ContactSealed."""
        return (await self._opened(user_id)).contact

    async def code_of(self, user_id: UUID) -> str:
        """The code that proves the address. It changes with every change of the contact. Raises as `get`."""
        return (await self._opened(user_id)).code

    async def prove(self, user_id: UUID, code: str) -> None:
        """Raises CodeWrong, and as `get`."""
        known = await self._opened(user_id)
        if not hmac.compare_digest(known.code.encode(), code.encode()):
            raise CodeWrong(user_id=str(user_id))
        async with self.transaction() as connection:
            if await connection.execute(SQL["prove"], user_id, known.sealed_key) != "UPDATE 1":
                # It was changed at this very moment.
                raise CodeWrong(user_id=str(user_id))
        log.info("address_proven")

    def tag_of(self, email: str) -> str:
        """The same tag for all recognizable spellings of one mailbox; it is meaningful in this cell only."""
        local, _, domain = email.lower().rpartition("@")
        mailbox = f"cellbook/address/{local.partition('+')[0]}@{domain}"
        return hmac.digest(self.seal.key, mailbox.encode(), "sha256").hex()

    async def _is_proven(self, connection: Connection, user_id: UUID, email: str) -> bool:
        row = await connection.fetchrow(SQL["get"], user_id)
        if row is None or not row["proven"]:
            return False
        try:
            return self._open(user_id, row).contact.email == email
        except SealBroken:
            return False

    async def _opened(self, user_id: UUID) -> "Known":
        async with self.transaction() as connection:
            row = await connection.fetchrow(SQL["get"], user_id)
        if row is None:
            raise ContactNotFound(user_id=str(user_id))
        try:
            return self._open(user_id, row)
        except SealBroken:
            raise ContactSealed(user_id=str(user_id)) from None

    def _open(self, user_id: UUID, row: asyncpg.Record) -> "Known":
        key = self.seal.open(row["sealed_key"], user_id, KEY)
        own = Seal(key)
        name, email = (own.open(row[field], user_id, field).decode() for field in (NAME, EMAIL))
        digest = hmac.digest(key, f"cellbook/confirm/{user_id}/{email}".encode(), "sha256")
        contact = Contact(name=name, email=email, proven=row["proven"])
        return Known(contact, b32encode(digest).decode()[:CODE_CHARS], row["sealed_key"])

    async def erase(self, user_id: UUID) -> None:
        """Erases for good. It is first recorded outside the database, so that every later start completes it."""
        async with self.transaction() as connection:
            if await connection.fetchval(SQL["is_erased"], user_id):
                return
        try:
            await asyncio.to_thread(self.erasures.note, [user_id])
        except OSError as error:
            raise Unavailable(problem=f"the file of erasures: {error.strerror}") from error
        async with self.transaction() as connection:
            await connection.execute(SQL["lock"], str(user_id))
            await connection.execute(SQL["note_erasures"], [user_id])
            await connection.execute(SQL["erase"], [user_id])
        log.info("contact_erased")

    async def is_erased(self, user_id: UUID) -> bool:
        async with self.transaction() as connection:
            return bool(await connection.fetchval(SQL["is_erased"], user_id))

    async def forget(self, user_id: UUID) -> None:
        """Destroys key and row here: the person's data is at its new home, and may come back."""
        async with self.transaction() as connection:
            await connection.execute(SQL["lock"], str(user_id))
            await connection.execute(SQL["erase"], [user_id])

    def _look_at_key(self, sealed_key: bytes, user_id: UUID) -> None:
        """With a wrong key mail does not work, but the ledger does: the cell starts, and logs the problem."""
        try:
            self.seal.open(sealed_key, user_id, KEY)
        except SealBroken:
            log.error(  # noqa: TRY400 - where it was sealed tells nothing
                "vault_key_wrong", problem="contacts do not open: vault_key_file is not what sealed the last one"
            )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        try:
            async with session_of(self.pool) as connection, connection.transaction():
                yield connection
        except _LOST as error:
            raise Unavailable(problem=str(error)) from error
