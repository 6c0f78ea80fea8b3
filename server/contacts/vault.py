"""Contacts in the cell's database, sealed; and who was erased, which a restored backup must not undo."""

import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import asyncpg
import structlog

from cells.domain.refusals import Unavailable
from cells.sql import queries
from server.contacts.refusals import ContactErased, ContactNotFound
from server.contacts.seals import Seal, new_key
from server.shell.database import Pool

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

log = structlog.get_logger()

SQL = queries("cells.sql", "contacts.sql")
KEY, NAME, EMAIL = "key", "name", "email"
# Quoted: generic for the type checker only.
Acquired: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    name: str
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """`seal` is the cell's. `erasures` is a file outside of the database: a line a person, only ever added to."""

    pool: Pool
    seal: Seal
    erasures: Path

    async def prepare(self) -> None:
        """Erases again whom the database has forgotten to be erased: it may come from an older backup."""
        erased = self._noted()
        if not erased:
            return
        async with self._transaction() as connection:
            await connection.execute(SQL["note_erasures"], erased)
            deleted = await connection.execute(SQL["erase"], erased)
        if not deleted.endswith(" 0"):
            log.warning("erased_again", contacts_count=int(deleted.split()[-1]))

    async def put(self, user_id: UUID, contact: Contact) -> None:
        """Replaces what there is, under a key of its own. Raises ContactErased."""
        key = new_key()
        own = Seal(key)
        row = (
            self.seal.seal(key, user_id, KEY),
            own.seal(contact.name.encode(), user_id, NAME),
            own.seal(contact.email.encode(), user_id, EMAIL),
        )
        async with self._transaction() as connection:
            await connection.execute(SQL["lock"], str(user_id))
            if await connection.execute(SQL["put"], user_id, *row) == "INSERT 0 0":
                raise ContactErased(user_id=str(user_id))

    async def get(self, user_id: UUID) -> Contact:
        """Raises ContactNotFound, SealBroken."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["get"], user_id)
        if row is None:
            raise ContactNotFound(user_id=str(user_id))
        own = Seal(self.seal.open(row["sealed_key"], user_id, KEY))
        name, email = (own.open(row[field], user_id, field).decode() for field in (NAME, EMAIL))
        return Contact(name=name, email=email)

    async def erase(self, user_id: UUID) -> None:
        """For good. Noted outside of the database first: from then on no start leaves it undone."""
        self._note(user_id)
        async with self._transaction() as connection:
            await connection.execute(SQL["lock"], str(user_id))
            await connection.execute(SQL["note_erasures"], [user_id])
            await connection.execute(SQL["erase"], [user_id])
        log.info("contact_erased")

    def _noted(self) -> list[UUID]:
        if not self.erasures.exists():
            return []
        return [UUID(json.loads(line)["user_id"]) for line in self.erasures.read_text().splitlines() if line.strip()]

    def _note(self, user_id: UUID) -> None:
        line = json.dumps({"user_id": str(user_id), "erased_at": datetime.now(UTC).isoformat(timespec="seconds")})
        handle = os.open(self.erasures, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line + "\n")
            file.flush()
            os.fsync(handle)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Acquired]:
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                yield connection
        except _LOST as error:
            raise Unavailable(problem=str(error)) from error
