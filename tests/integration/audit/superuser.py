"""What a superuser does to a log behind everybody's back to hide a change, and what an auditor is told then."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg

from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify.export import Findings, check_export
from cells.audit.verify.note import Checkpoint, Malformed, VerifierKey, any_of
from cells.audit.verify.tree import Frontier
from cells.encoding.codec import leaf_hash
from cells.store.ports import EventRow
from cells.store.rows import event_of
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.proof_rig import KEYS, export_of, exported, exporter_of
from tests.integration.database import ask, copy_database, opened_raw
from tests.integration.played import HERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Superuser:
    """May do all that PostgreSQL can, and knows how hashes are made; has no key."""

    dsn: str
    held: list[Checkpoint] = field(default_factory=list)

    async def sql(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        return await ask(self.dsn, query, *arguments)

    async def rehash(self, first: int = 1, last: int = 2**62) -> None:
        """Makes the stored hashes right again."""
        async with opened_raw(self.dsn) as store:
            rows = await store.events(from_position=first, limit=1_000)
        for row in rows:
            if row.position <= last and leaf_hash(row) != row.leaf_hash:
                await self.sql(
                    "UPDATE event_store SET leaf_hash = $2 WHERE position = $1", row.position, leaf_hash(row)
                )

    async def retile(self) -> None:
        """Makes the tree anew from the stored hashes."""
        frontier = Frontier()
        await self.sql("TRUNCATE log_tiles")
        for (leaf,) in await self.sql("SELECT leaf_hash FROM event_store ORDER BY position"):
            for tile in frontier.add(leaf):
                await self.sql("INSERT INTO log_tiles VALUES ($1, $2, $3, $4)", *tile)

    async def move(self, by: int, first: int) -> None:
        """Positions, and what the events say of their own."""
        positions = await self.sql("SELECT position FROM event_store WHERE position >= $1 ORDER BY 1", first)
        for (position,) in reversed(positions) if by > 0 else positions:
            await self.sql(
                """UPDATE event_store SET position = position + $2,
                       vector_clock = jsonb_set(vector_clock, '{us-east}', to_jsonb(position + $2))
                   WHERE position = $1""",
                position,
                by,
            )
        await self.sql("UPDATE head SET position = position + $1", by)

    async def found(self) -> Findings:
        return check_export(await export_of(self.dsn), [KEYS.log.verifier], self.held)


AMOUNT = """UPDATE event_store SET payload = jsonb_set(payload, '{home_epoch}', '7') WHERE position = $1"""


async def change(evil: Superuser, position: int) -> None:
    await evil.sql(AMOUNT, position)


async def change_and_hash(evil: Superuser, position: int) -> None:
    await change(evil, position)
    await evil.rehash(position, position)


async def change_all_with_it(evil: Superuser, position: int) -> None:
    await change_and_hash(evil, position)
    await evil.retile()


async def change_late(evil: Superuser, position: int) -> None:
    """One that no full tile covers yet."""
    await change(evil, position + 263)


async def delete(evil: Superuser, position: int) -> None:
    await evil.sql("DELETE FROM event_store WHERE position = $1", position)


async def delete_late(evil: Superuser, position: int) -> None:
    """One that no full tile covers yet: the rows behind it are as they were."""
    await delete(evil, position + 263)


async def delete_and_close_the_gap(evil: Superuser, position: int) -> None:
    await delete(evil, position)
    await evil.move(-1, position + 1)
    await evil.rehash()
    await evil.retile()


async def insert(evil: Superuser, position: int) -> None:
    """A copy of an event before it, under another id, with all that follows moved on and the hashes made right."""
    await evil.move(1, position)
    await evil.sql(
        """INSERT INTO event_store
           SELECT $1::bigint, gen_random_uuid(), event_type, gen_random_uuid(), stream_version, causation_id,
                  correlation_id, hlc_physical, hlc_logical + 1,
                  jsonb_set(vector_clock, '{us-east}', to_jsonb($1::bigint)), payload, metadata, user_id, recorded_at,
                  leaf_hash
           FROM event_store WHERE position = $1::bigint - 1""",
        position,
    )
    await evil.rehash()
    await evil.retile()


async def swap(evil: Superuser, position: int) -> None:
    """Two neighbours change places, hashes and tree with them."""
    for old, new in ((position, -1), (position + 1, position), (-1, position + 1)):
        await evil.sql(
            """UPDATE event_store SET position = $2::bigint,
                   vector_clock = jsonb_set(vector_clock, '{us-east}', to_jsonb($2::bigint))
               WHERE position = $1""",
            old,
            new,
        )
    await evil.rehash()
    await evil.retile()


async def swap_and_time(evil: Superuser, position: int) -> None:
    """So do their times."""
    await evil.sql(
        """UPDATE event_store e SET hlc_physical = o.hlc_physical, hlc_logical = o.hlc_logical
           FROM event_store o
           WHERE e.position IN ($1::bigint, $1::bigint + 1) AND o.position = 2 * $1::bigint + 1 - e.position""",
        position,
    )
    await swap(evil, position)


async def hash_alone(evil: Superuser, position: int) -> None:
    await evil.sql("UPDATE event_store SET leaf_hash = sha256('x') WHERE position = $1", position)


async def poison(evil: Superuser, position: int) -> None:
    """What no cell can have written."""
    await evil.sql("UPDATE event_store SET payload = '{\"amount\": 1.5}' WHERE position = $1", position)
    await evil.sql('UPDATE event_store SET event_type = E\'A"\\n{"end":{}}\' WHERE position = $1', position + 1)


Tampering = Callable[[Superuser, int], Awaitable[None]]


async def unguard(dsn: str, *tables: str) -> None:
    """Lets rows of these tables be changed."""
    for table in tables:
        await ask(dsn, f"ALTER TABLE {table} DISABLE TRIGGER append_only")


# Lets copies of moved events be changed.
COPIES_OPEN = "ALTER TABLE moved_events DISABLE TRIGGER ALL"


async def rehash_copies(dsn: str) -> None:
    """Makes the hashes of copies right again."""
    columns = ", ".join(EventRow._fields)
    for record in await ask(dsn, f"SELECT {columns} FROM moved_events"):  # noqa: S608
        row = event_of(record)
        await ask(dsn, "UPDATE moved_events SET leaf_hash = $2 WHERE position = $1", row.position, leaf_hash(row))


async def verified(dsn: str, held: Sequence[Checkpoint], verifiers: Sequence[VerifierKey]) -> set[str]:
    """By an auditor who has kept the last checkpoint, and wants a witness."""
    async with opened_raw(dsn) as store:
        exporter = exporter_of(HERE, PostgresProofs(pool=store.reads))
        lines = await exported(exporter)
    try:
        return _told(check_export(lines, verifiers, held, any_of(1, verifiers)))
    except Malformed:
        return {"the checkpoint"}


def _told(found: Findings) -> set[str]:
    told = set()
    for problem in found.problems:
        text = problem.text
        if "checkpoint" in text and "deleted" in text:
            told.add("the checkpoint")
        elif text.startswith("missing"):
            told.add("the gap" if problem.position < found.last else "the missing end")
        elif text.startswith("not witnessed"):
            told.add("no witness")
        else:
            told.add("the stretch" if problem.last else "the event")
    return told


# --- the rows of a database put back as they were ---


TIMEOUT_S = 60.0

# All rows of all tables are kept beside them, and put back past every guard.
KEEP = """DECLARE t record; BEGIN
    CREATE SCHEMA kept;
    FOR t IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
                                                AND NOT c.relispartition LOOP
        EXECUTE format('CREATE TABLE kept.%I AS TABLE public.%I', t.relname, t.relname);
    END LOOP;
END"""
PUT_BACK = """DECLARE t record; g record;
    guards jsonb := (SELECT coalesce(jsonb_agg(jsonb_build_object('t', tgrelid::regclass::text, 'n', tgname)), '[]')
                     FROM pg_trigger WHERE tgenabled = 'A');
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR g IN SELECT * FROM jsonb_to_recordset(guards) AS x(t text, n text) LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', g.t, g.n);
    END LOOP;
    FOR t IN SELECT c.relname, string_agg(quote_ident(a.attname), ', ') AS columns
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated = ''
                  AND NOT a.attisdropped
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
             GROUP BY c.relname LOOP
        EXECUTE format('DELETE FROM public.%I', t.relname);
        EXECUTE format('INSERT INTO public.%I (%s) SELECT %s FROM kept.%I', t.relname, t.columns, t.columns, t.relname);
    END LOOP;
    FOR g IN SELECT * FROM jsonb_to_recordset(guards) AS x(t text, n text) LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', g.t, g.n);
    END LOOP;
END"""


async def keep(dsn: str) -> None:
    await _execute(dsn, f"DO $$ {KEEP} $$")


async def put_back(dsn: str) -> None:
    await _execute(dsn, f"DO $$ {PUT_BACK} $$")


async def clone(cluster: EmbeddedPostgres, template: str) -> str:
    """Stays until the server goes: to drop a database is a checkpoint, for which a busy disk takes its time."""
    name = f"cell_{uuid4().hex}"
    await copy_database(cluster, template, name)
    return cluster.dsn(name)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=TIMEOUT_S)
    try:
        await connection.execute(statement, timeout=TIMEOUT_S)
    finally:
        await connection.close()
