"""What is looked up by id, flow, state or position comes from an index, however much there is; and what people read."""

import json
import re
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from cells.audit.history.lookups import TRACE_SQL
from cells.domain.event import postings
from cells.domain.events import Deposited, FundsReserved
from cells.encoding import codec
from cells.store.postgres import SQL
from server.shell.postgres.database import Connection
from tests.integration.database import ask, opened
from tests.integration.rows import NOW, account, batch_on, event_row, outcome_row, projection_row

# Enough for a sequential scan to be dearer than an index, and for some aggregates to have many rows.
FILL = """
    INSERT INTO event_store
    SELECT n, gen_random_uuid(), 'DEPOSITED', md5((n % 500)::text)::uuid, n, gen_random_uuid(),
           md5((n / 4)::text)::uuid, n, 0, '{}', '{}', '{}', NULL, now(), ''
    FROM generate_series(1, 20000) n;
    INSERT INTO moved_events (cell, position, event_id, event_type, aggregate_id, stream_version, correlation_id,
                              hlc_physical, hlc_logical, vector_clock, payload, metadata, recorded_at, leaf_hash, mark,
                              mark_id)
    SELECT 'eu-west', n, gen_random_uuid(), 'DEPOSITED', gen_random_uuid(), 1, gen_random_uuid(), n, 0, '{}', '{}',
           '{}', now(), '', 'action', gen_random_uuid()
    FROM generate_series(1, 5000) n;
    INSERT INTO account_entries
    SELECT md5((n % 500)::text)::uuid, 'USD', n, 1, 0, 0, 1, 0, 0 FROM generate_series(1, 20000) n;
    INSERT INTO clearing_entries
    SELECT gen_random_uuid(), n, 'eu-west', 'USD', 1 FROM generate_series(1, 20000) n;
    INSERT INTO saga_legs
    SELECT gen_random_uuid(), 'action', 'APPLIED', gen_random_uuid(), n FROM generate_series(1, 20000) n;
    INSERT INTO external_references
    SELECT gen_random_uuid(), 'deposit', n::text, n FROM generate_series(1, 20000) n;
    INSERT INTO accounts
    SELECT gen_random_uuid(), 1, jsonb_build_object('balances', '{}'::jsonb, 'holds', CASE WHEN n % 1000 = 0
        THEN jsonb_build_object(gen_random_uuid(), '{"expire_time_ms":5}'::jsonb) ELSE '{}' END), n % 1000 = 0
    FROM generate_series(1, 20000) n;
    INSERT INTO assets SELECT gen_random_uuid(), 1, '{}' FROM generate_series(1, 20000) n;
    INSERT INTO auctions
    SELECT gen_random_uuid(), 1, '{}', CASE WHEN n % 1000 = 0 THEN 'ACTIVE' ELSE 'SETTLED' END, n
    FROM generate_series(1, 20000) n;
    INSERT INTO sagas
    SELECT gen_random_uuid(), 1, '{}', CASE WHEN n % 1000 = 0 THEN 'RUNNING' ELSE 'COMPLETED' END, n, 'MOVE', false, ''
    FROM generate_series(1, 20000) n;
    SELECT keep_outcome_partitions(now());
    INSERT INTO command_outcomes
    SELECT gen_random_uuid(), '', '{}', n, 0, 0, date_trunc('week', now(), 'UTC') + (n % 28 - 7) * interval '1 day'
    FROM generate_series(1, 20000) n;
    ANALYZE;
"""
ONE = "ARRAY['00000000-0000-0000-0000-000000000001']::uuid[]"
NO_FILTER = "ARRAY[]::text[], NULL, NULL, NULL"
STREAM = "'cfcd2084-95d5-65ef-66e7-dff9f98764da'"
# A named query, its arguments, and the index that must serve it.
LOOKUPS = [
    ("load_account", ONE, "accounts_pkey"),
    ("load_asset", ONE, "assets_pkey"),
    ("load_auction", ONE, "auctions_pkey"),
    ("load_saga", ONE, "sagas_pkey"),
    ("load_leg", ONE, "saga_legs_pkey"),
    ("load_reference", ONE, "external_references_pkey"),
    ("outcomes", ONE, "command_outcomes_.*_pkey"),
    ("head", "", "event_store_position"),
    ("events", f"100, 50, {NO_FILTER}, 9000", "event_store_position"),
    ("events_of_aggregate", f"1, 50, ARRAY[]::text[], {STREAM}, NULL, NULL, 9000", "event_store_stream"),
    ("events_of_correlation", f"1, 50, ARRAY[]::text[], NULL, {STREAM}, NULL, 9000", "event_store_correlation"),
    ("list_auction", "NULL, 50", "auctions_pkey"),
    ("list_auction_in", "NULL, 50, ARRAY['ACTIVE', 'UNSOLD']", "auctions_status"),
    ("list_saga", "NULL, 50", "sagas_pkey"),
    ("list_saga_in", "NULL, 50, ARRAY['RUNNING', 'COMMITTED']", "sagas_status"),
    ("list_sagas", "ARRAY['RUNNING'], 0, 99999, NULL, NULL, '', '', false, NULL, 50", "sagas_age"),
    ("timers", "", "auctions_status"),
    ("timers", "", "accounts_with_expiring_holds"),
]
# Those of traces.
TRACES = [
    ("trace_subjects", f"{STREAM}, 50", "event_store_pkey"),
    ("trace_subjects", f"{STREAM}, 50", "event_store_correlation"),
    ("trace_subjects", f"{STREAM}, 50", "event_store_stream"),
    ("trace_subjects", f"{STREAM}, 50", "command_outcomes_.*_pkey"),
    ("trace_causes", f"{ONE}, 50", "event_store_pkey"),
    ("trace_effects", f"{ONE}, 50", "event_store_causation"),
    ("trace_events", ONE, "event_store_pkey"),
]
# What the audit asks: an effect by its cause, and a balance as it was at a position.
AUDIT_LOOKUPS = [
    ("SELECT event_id FROM event_store WHERE causation_id = $1", "event_store_causation"),
    ("SELECT position FROM event_store WHERE event_id = $1", "event_store_pkey"),
    (
        """SELECT available_after FROM account_entries WHERE account_id = $1 AND currency = 'USD' AND position <= 9000
           ORDER BY position DESC LIMIT 1""",
        "account_entries_pkey",
    ),
    ("SELECT sum(amount_minor) FROM clearing_entries WHERE clearing_id = $1", "clearing_entries_pkey"),
]


async def plan_of(connection: Connection, query: str, arguments: str = "") -> str:
    """The plan that is made once for all arguments: the one that a prepared statement ends up with."""
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE lookup AS {query}")
    try:
        call = f"({arguments})" if arguments else ""
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE lookup{call}"))
    finally:
        await connection.execute("DEALLOCATE lookup")


async def test_lookups_use_their_index(superuser: Connection) -> None:
    """Whatever the arguments, and no table is read from end to end."""
    await superuser.execute(FILL)
    plans = {(name, index): await plan_of(superuser, SQL[name], arguments) for name, arguments, index in LOOKUPS}
    plans |= {(name, index): await plan_of(superuser, TRACE_SQL[name], arguments) for name, arguments, index in TRACES}
    plans |= {(query, index): await plan_of(superuser, query, STREAM) for query, index in AUDIT_LOOKUPS}
    for (query, index), plan in plans.items():
        print(f"--- {query}\n{plan}")
        assert re.search(rf"(using|Bitmap Index Scan on) {index}\b", plan), f"{query} without {index}:\n{plan}"
        scans = [line for line in plan.splitlines() if "Seq Scan" in line and "head" not in line]
        assert not scans, f"{query}:\n{plan}"


async def test_the_one_query_for_all_filters_would_read_the_log(superuser: Connection) -> None:
    """Ablation: planned once for every filter, the events of a stream are looked for among all others."""
    await superuser.execute(FILL)
    plan = await plan_of(superuser, SQL["events"], f"1, 50, ARRAY[]::text[], {STREAM}, NULL, NULL, 9000")
    assert "event_store_stream" not in plan


async def test_a_bid_does_not_touch_an_index(superuser: Connection, cell_dsn: str) -> None:
    """Updates of a projection whose state stays the same kind of state stay within their page (HOT)."""
    user_id = uuid4()
    async with opened(cell_dsn) as store:
        head = await store.claim()
        for version in range(1, 41):
            row = projection_row(account(available=version, hold=version), user_id, version)
            await store.append(batch_on(head, projections=[row]))
    await superuser.execute("SELECT pg_stat_force_next_flush()")
    updated, hot = (
        await ask(cell_dsn, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'accounts'")
    )[0]
    assert (updated, hot) == (39, 39)


# --- outcomes come and go by the week -----------------------------------------------------------------------------


async def weeks(dsn: str) -> list[str]:
    rows = await ask(
        dsn,
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'command_outcomes'::regclass ORDER BY 1",
    )
    return [row[0].removeprefix("command_outcomes_") for row in rows]


async def test_partitions_are_made_ahead_and_dropped_after_a_month(cell_dsn: str) -> None:
    """As the writer's clock goes on: the week before, this one, and two ahead; nothing younger than 30 days goes."""
    async with opened(cell_dsn) as store:
        head = await store.claim()
        rows = [outcome_row(recorded_at=NOW + timedelta(days=day)) for day in range(0, 71, 10)]
        for count, row in enumerate(rows, 1):
            await store.append(batch_on(head, outcomes=[row]))
            last = row.recorded_at
            kept = await store.outcomes([row.command_id for row in rows])
            young = [each for each in rows[:count] if last - each.recorded_at < timedelta(days=30)]
            assert {each.command_id for each in young} <= {each.command_id for each in kept}
            named = [NOW.strptime(f"{week}+0000", "%Y%m%d%z") for week in await weeks(cell_dsn)]
            assert named[-1] - last > timedelta(days=7)
            assert last - named[0] < timedelta(days=30 + 14)


async def test_a_clock_set_ahead_forgets_nothing(cell_dsn: str) -> None:
    """What is old must be old by the database's clock as well. Nor can whoever may call it make it forget."""
    now = (await ask(cell_dsn, "SELECT now()"))[0][0]
    row = outcome_row(recorded_at=now)
    async with opened(cell_dsn) as store:
        head = await store.claim()
        await store.append(batch_on(head, outcomes=[row]))
        await store.append(batch_on(head, outcomes=[outcome_row(recorded_at=now + timedelta(days=400))]))
        writer = await store._writers()
        await writer.execute("SELECT keep_outcome_partitions(now() + interval '10 years')")
        assert len(await store.outcomes([row.command_id])) == 1


async def test_who_reads_outcomes_for_long_does_not_hold_up_commands(
    cell_dsn: str, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup holds the table; the day's partitions are not kept, and the batch is written all the same."""
    async with opened(cell_dsn) as store:
        head = await store.claim()
        await store.append(batch_on(head, outcomes=[outcome_row()]))
        async with superuser.transaction():
            await superuser.fetch("SELECT * FROM command_outcomes")
            later = outcome_row(recorded_at=NOW + timedelta(days=8))
            await store.append(batch_on(head, outcomes=[later]))
        assert len(await store.outcomes([later.command_id])) == 1


# --- what people and auditors read --------------------------------------------------------------------------------


async def test_postings_and_balances_can_be_summed_without_our_code(cell_dsn: str) -> None:
    """The views give columns of numbers, and every event's postings sum to zero."""
    user_id, hold = uuid4(), uuid4()
    paid = Deposited(currency="USD", amount_minor=2**62, external_reference="bank 1")
    held = FundsReserved(hold_id=hold, currency="USD", amount_minor=30)
    rows = [
        event_row(1, paid, aggregate_id=user_id),
        event_row(2, held, aggregate_id=user_id, stream_version=2),
    ]
    async with opened(cell_dsn) as store:
        head = await store.claim()
        changes = {("external", "USD"): -5, ("fees", "USD"): 2, ("clearing/eu-west", "EUR"): 0}
        state = projection_row(account(available=2**62 - 30), user_id)
        await store.append(batch_on(head, *rows, projections=[state], house_changes=changes))
        await store.append(batch_on(await store.head(), house_changes={("external", "USD"): 6}))
    assert await ask(cell_dsn, "SELECT * FROM postings ORDER BY position, account") == [
        (row.position, row.event_id, row.event_type, line.account, line.currency, line.amount_minor)
        for row, event in zip(rows, (paid, held), strict=True)
        for line in sorted(postings(event, user_id))
    ]
    assert await ask(cell_dsn, "SELECT sum(amount_minor) FROM postings GROUP BY position") == [(0,), (0,)]
    assert await ask(cell_dsn, "SELECT * FROM balances") == [(user_id, "USD", 2**62 - 30, 0, 0)]
    house = await ask(cell_dsn, "SELECT account, currency, balance_minor FROM house_balances ORDER BY 1")
    assert house == [("clearing/eu-west", "EUR", 0), ("external", "USD", 1), ("fees", "USD", 2)]


async def test_rows_are_stored_in_their_columns(cell_dsn: str) -> None:
    """The table's columns are the row's fields, in their order, and the JSON in it is JSON."""
    row = event_row(1)
    async with opened(cell_dsn) as store:
        await store.append(batch_on(await store.claim(), row))
    columns = await ask(
        cell_dsn,
        "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'event_store' "
        "ORDER BY ordinal_position",
    )
    assert [name for (name,) in columns] == list(row._fields)
    kinds = await ask(cell_dsn, "SELECT jsonb_typeof(payload), payload->>'amount_minor', leaf_hash FROM event_store")
    assert kinds == [("object", json.loads(row.payload)["amount_minor"], codec.leaf_hash(row))]
    assert isinstance(row.event_id, UUID)
