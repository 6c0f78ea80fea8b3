"""The rows of a database as they were, past every guard: sooner there than a new copy of the database."""

from uuid import uuid4

import asyncpg

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import copy_database

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
