"""What a superuser may do to a cell's tables, and how it is to be found: applied to a market that was played."""

from typing import NamedTuple

from cells.audit.reconcile.findings import Check

NOBODY = "00000000-0000-7000-8000-000000000000"


class Change(NamedTuple):
    """`sql` gives the key of what it changed, which `row` has a place for."""

    check: Check
    row: str
    sql: str


# Table -> the check that compares it, how a row of it is named, and its key.
TABLES = {
    **{table: (Check.PROJECTION, f"{table} {{}}", "id") for table in ("accounts", "assets", "auctions", "sagas")},
    "house_balances": (Check.HOUSE, "house_balances {} USD", "account"),
    "account_entries": (Check.ACCOUNT_ENTRY, "{})", "position"),
    "clearing_entries": (Check.CLEARING_ENTRY, "clearing_entries ({}", "clearing_id"),
    "saga_legs": (Check.BARRIER, "saga_legs ({}", "leg_id"),
    "external_references": (Check.REFERENCE, "external_references ({})", "reference_id"),
}


def update(table: str, change: str, where: str) -> Change:
    check, row, key = TABLES[table]
    return Change(check, row, f"UPDATE {table} SET {change} WHERE {where} RETURNING {key}")  # noqa: S608 - our own


def delete(table: str, where: str) -> Change:
    check, row, key = TABLES[table]
    return Change(check, row, f"DELETE FROM {table} WHERE {where} RETURNING {key}")  # noqa: S608 - our own


def insert(table: str, values: str, row: str = "") -> Change:
    check, usual, key = TABLES[table]
    return Change(check, row or usual, f"INSERT INTO {table} {values} RETURNING {key}")


def first(table: str, where: str = "true") -> str:
    return f"id = (SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT 1)"  # noqa: S608 - our own


def first_at(table: str) -> str:
    return f"position = (SELECT min(position) FROM {table})"  # noqa: S608 - our own


def last_at(table: str) -> str:
    return f"position = (SELECT max(position) FROM {table})"  # noqa: S608 - our own


FEES = "account = 'fees'"
CHANGED = (
    update(
        "accounts", """state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"1"')""", first("accounts")
    ),
    update("assets", "stream_version = stream_version - 1", first("assets")),
    update("auctions", "state = state::jsonb - 'currency'", first("auctions", "status = 'ACTIVE'")),
    update("sagas", """state = jsonb_set(state::jsonb, '{failure_reason}', '"CALLED_OFF"')""", first("sagas")),
    update("house_balances", "balance_minor = balance_minor + 1", FEES),
    update("account_entries", "available_after = available_after + 1", first_at("account_entries")),
    update("clearing_entries", "amount_minor = amount_minor + 1", first_at("clearing_entries")),
    update("saga_legs", "result = 'TOMBSTONED'", first_at("saga_legs")),
    update("external_references", "reference = reference || '!'", first_at("external_references")),
    update("auctions", "end_time_ms = end_time_ms + 1", first("auctions", "status <> 'ACTIVE'")),
)
MISSING = (
    delete("accounts", first("accounts")),
    delete("sagas", "id = (SELECT id FROM sagas WHERE state::jsonb->'facts' ? 'command_id' LIMIT 1)"),
    delete("house_balances", FEES),
    delete("account_entries", last_at("account_entries")),
    delete("clearing_entries", first_at("clearing_entries")),
    delete("saga_legs", last_at("saga_legs")),
    delete("external_references", first_at("external_references")),
)
SURPLUS = (
    insert("accounts", f"SELECT '{NOBODY}', stream_version, state, has_expiry FROM accounts LIMIT 1"),  # noqa: S608
    insert("house_balances", "VALUES ('transit', 'EUR', 5)", "house_balances {} EUR"),
    insert(
        "account_entries",
        "SELECT account_id, 'EUR', position, 0, 0, 0, 0, 0, 0 FROM account_entries ORDER BY position LIMIT 1",
        "EUR, {})",
    ),
    insert(
        "clearing_entries",
        "SELECT clearing_id, 1, peer, currency, amount_minor FROM clearing_entries ORDER BY position LIMIT 1",
    ),
    insert("saga_legs", "SELECT gen_random_uuid(), direction, result, event_id, position FROM saga_legs LIMIT 1"),
    insert("external_references", f"VALUES ('{NOBODY}', 'deposit', 'never seen', 1)"),
)

# What no rebuild puts right: it is what everything else follows from, or what somebody was told.
OUTSIDE = (
    Change(
        Check.BOOKS,
        "{} at position 1000000",
        """INSERT INTO saga_legs SELECT gen_random_uuid(), direction, result, event_id, 1000000 FROM saga_legs
        LIMIT 1 RETURNING 'saga_legs'""",
    ),
    Change(
        Check.OUTCOME,
        "command {}",
        """DELETE FROM command_outcomes WHERE command_id = (SELECT (metadata->>'command_id')::uuid FROM event_store
        WHERE event_type = 'DEPOSITED' ORDER BY position LIMIT 1) RETURNING command_id""",
    ),
    Change(
        Check.OUTCOME,
        "command {}",
        """UPDATE command_outcomes SET outcome = '{"refused": {"reason": "BID_TOO_LOW", "facts": {}}}'
        WHERE command_id = (SELECT (metadata->>'command_id')::uuid FROM event_store
        WHERE event_type = 'AUCTION_CREATED' ORDER BY position LIMIT 1) RETURNING command_id""",
    ),
    Change(
        Check.OUTCOME,
        "command {}",
        """INSERT INTO command_outcomes SELECT gen_random_uuid(), fingerprint, '{"accepted": {}}', position,
        hlc_physical, hlc_logical, recorded_at FROM command_outcomes WHERE outcome ? 'accepted' LIMIT 1
        RETURNING command_id""",
    ),
    Change(
        Check.OUTCOME,
        "command {}",
        """UPDATE command_outcomes SET outcome = '{"in_progress": {}}' WHERE command_id = (
        SELECT (state::jsonb->'facts'->>'command_id')::uuid FROM sagas WHERE state::jsonb->'facts' ? 'command_id'
        ORDER BY id LIMIT 1) RETURNING command_id""",
    ),
    Change(
        Check.POSTINGS,
        "position {}",
        """UPDATE event_store SET payload = jsonb_set(payload, '{postings,0,amount_minor}', '"1"')
        WHERE position = (SELECT min(position) FROM event_store WHERE event_type = 'WITHDRAWN' OR
        event_type = 'TRANSFER_SENT') RETURNING position""",
    ),
    Change(
        Check.SAGA,
        "saga {}",
        """UPDATE event_store SET payload = jsonb_set(payload, '{effect_id}', to_jsonb(gen_random_uuid()))
        WHERE position = (SELECT max(position) FROM event_store WHERE event_type = 'SAGA_LEG_COMPLETED'
        AND payload->>'leg' = 'settle') RETURNING aggregate_id""",
    ),
)
