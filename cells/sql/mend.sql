-- Rows that follow from events, repaired by the owner of the tables. Log rows stay unchanged.

-- name: lock_head
-- The writer's next commit waits for this transaction: nobody else writes meanwhile, and the epoch is checked.
SELECT epoch FROM head FOR UPDATE

-- name: open_account_entries
ALTER TABLE account_entries DISABLE TRIGGER append_only

-- name: drop_account_entries
DELETE FROM account_entries WHERE (account_id, currency, position) IN (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[]))

-- name: close_account_entries
ALTER TABLE account_entries ENABLE ALWAYS TRIGGER append_only

-- name: open_clearing_entries
ALTER TABLE clearing_entries DISABLE TRIGGER append_only

-- name: drop_clearing_entries
DELETE FROM clearing_entries WHERE (clearing_id, position) IN (SELECT * FROM unnest($1::uuid[], $2::bigint[]))

-- name: close_clearing_entries
ALTER TABLE clearing_entries ENABLE ALWAYS TRIGGER append_only

-- name: open_saga_legs
ALTER TABLE saga_legs DISABLE TRIGGER append_only

-- name: drop_saga_legs
DELETE FROM saga_legs WHERE (leg_id, direction) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))

-- name: close_saga_legs
ALTER TABLE saga_legs ENABLE ALWAYS TRIGGER append_only

-- name: open_external_references
ALTER TABLE external_references DISABLE TRIGGER append_only

-- name: drop_external_references
DELETE FROM external_references WHERE reference_id IN (SELECT * FROM unnest($1::uuid[]))

-- name: close_external_references
ALTER TABLE external_references ENABLE ALWAYS TRIGGER append_only

-- name: drop_accounts
DELETE FROM accounts p WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM event_store e WHERE e.aggregate_id = p.id)

-- name: drop_assets
DELETE FROM assets p WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM event_store e WHERE e.aggregate_id = p.id)

-- name: drop_auctions
DELETE FROM auctions p WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM event_store e WHERE e.aggregate_id = p.id)

-- name: drop_sagas
DELETE FROM sagas p WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM event_store e WHERE e.aggregate_id = p.id)

-- name: drop_snapshots
DELETE FROM snapshots WHERE position = ANY($1::bigint[])

-- name: drop_house_snapshots
-- And all that were made on top of the first of them.
DELETE FROM house_snapshots WHERE position >= (SELECT min(wrong) FROM unnest($1::bigint[]) wrong)
