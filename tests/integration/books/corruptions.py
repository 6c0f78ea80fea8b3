"""What a superuser may do to a cell's tables, and how it is to be found: applied to a market that was played."""

from typing import NamedTuple

from cells.audit.reconcile.findings import Check

NOBODY = "00000000-0000-7000-8000-000000000000"


class Change(NamedTuple):
    """`sql` gives the key of what it changed, which `row` has a place for."""

    check: Check
    row: str
    sql: str


CHANGED = (
    Change(
        Check.PROJECTION,
        "accounts {}",
        """UPDATE accounts SET state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"1"')
        WHERE id = (SELECT id FROM accounts ORDER BY id LIMIT 1) RETURNING id""",
    ),
    Change(
        Check.PROJECTION,
        "assets {}",
        """UPDATE assets SET stream_version = stream_version - 1
        WHERE id = (SELECT id FROM assets ORDER BY id LIMIT 1) RETURNING id""",
    ),
    Change(
        Check.PROJECTION,
        "auctions {}",
        """UPDATE auctions SET state = state::jsonb - 'currency'
        WHERE id = (SELECT id FROM auctions WHERE status = 'ACTIVE' ORDER BY id LIMIT 1) RETURNING id""",
    ),
    Change(
        Check.PROJECTION,
        "sagas {}",
        """UPDATE sagas SET state = jsonb_set(state::jsonb, '{failure_reason}', '"CALLED_OFF"')
        WHERE id = (SELECT id FROM sagas ORDER BY id LIMIT 1) RETURNING id""",
    ),
    Change(
        Check.HOUSE,
        "house_balances {} USD",
        "UPDATE house_balances SET balance_minor = balance_minor + 1 WHERE account = 'fees' RETURNING account",
    ),
    Change(
        Check.ACCOUNT_ENTRY,
        "{})",
        """UPDATE account_entries SET available_after = available_after + 1
        WHERE position = (SELECT min(position) FROM account_entries) RETURNING position""",
    ),
    Change(
        Check.CLEARING_ENTRY,
        "clearing_entries ({}",
        """UPDATE clearing_entries SET amount_minor = amount_minor + 1
        WHERE position = (SELECT min(position) FROM clearing_entries) RETURNING clearing_id""",
    ),
    Change(
        Check.BARRIER,
        "saga_legs ({}",
        """UPDATE saga_legs SET result = 'TOMBSTONED'
        WHERE position = (SELECT min(position) FROM saga_legs) RETURNING leg_id""",
    ),
    Change(
        Check.REFERENCE,
        "external_references ({})",
        """UPDATE external_references SET reference = reference || '!'
        WHERE position = (SELECT min(position) FROM external_references) RETURNING reference_id""",
    ),
    Change(
        Check.PROJECTION,
        "auctions {}",
        """UPDATE auctions SET end_time_ms = end_time_ms + 1
        WHERE id = (SELECT id FROM auctions WHERE status <> 'ACTIVE' ORDER BY id LIMIT 1) RETURNING id""",
    ),
)

MISSING = (
    Change(
        Check.PROJECTION,
        "accounts {}",
        "DELETE FROM accounts WHERE id = (SELECT id FROM accounts ORDER BY id LIMIT 1) RETURNING id",
    ),
    Change(
        Check.PROJECTION,
        "sagas {}",
        """DELETE FROM sagas WHERE id = (SELECT id FROM sagas WHERE state::jsonb->'facts' ? 'command_id' LIMIT 1)
        RETURNING id""",
    ),
    Change(Check.HOUSE, "house_balances {} USD", "DELETE FROM house_balances WHERE account = 'fees' RETURNING account"),
    Change(
        Check.ACCOUNT_ENTRY,
        "{})",
        """DELETE FROM account_entries
        WHERE position = (SELECT max(position) FROM account_entries) RETURNING position""",
    ),
    Change(
        Check.CLEARING_ENTRY,
        "clearing_entries ({}",
        """DELETE FROM clearing_entries
        WHERE position = (SELECT min(position) FROM clearing_entries) RETURNING clearing_id""",
    ),
    Change(
        Check.BARRIER,
        "saga_legs ({}",
        "DELETE FROM saga_legs WHERE position = (SELECT max(position) FROM saga_legs) RETURNING leg_id",
    ),
    Change(
        Check.REFERENCE,
        "external_references ({})",
        """DELETE FROM external_references
        WHERE position = (SELECT min(position) FROM external_references) RETURNING reference_id""",
    ),
)

SURPLUS = (
    Change(
        Check.PROJECTION,
        "accounts {}",
        """INSERT INTO accounts
        SELECT '00000000-0000-7000-8000-000000000000', stream_version, state, has_expiry FROM accounts LIMIT 1
        RETURNING id""",
    ),
    Change(
        Check.HOUSE,
        "house_balances {} EUR",
        "INSERT INTO house_balances VALUES ('transit', 'EUR', 5) RETURNING account",
    ),
    Change(
        Check.ACCOUNT_ENTRY,
        "EUR, {})",
        """INSERT INTO account_entries SELECT account_id, 'EUR', position, 0, 0, 0, 0, 0, 0 FROM account_entries
        ORDER BY position LIMIT 1 RETURNING position""",
    ),
    Change(
        Check.CLEARING_ENTRY,
        "clearing_entries ({}",
        """INSERT INTO clearing_entries SELECT clearing_id, 1, peer, currency, amount_minor FROM clearing_entries
        ORDER BY position LIMIT 1 RETURNING clearing_id""",
    ),
    Change(
        Check.BARRIER,
        "saga_legs ({}",
        """INSERT INTO saga_legs SELECT gen_random_uuid(), direction, result, event_id, position FROM saga_legs
        LIMIT 1 RETURNING leg_id""",
    ),
    Change(
        Check.REFERENCE,
        "external_references ({})",
        """INSERT INTO external_references VALUES ('00000000-0000-7000-8000-000000000000', 'deposit', 'never seen', 1)
        RETURNING reference_id""",
    ),
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
