-- name: make_head
INSERT INTO head (cell) VALUES ($1) ON CONFLICT DO NOTHING

-- name: head
-- Not a join: before the first ANALYZE the planner takes the head for a large table, and reads the whole log for it.
SELECT h.cell, h.epoch, h.position, h.hlc_bound_ms, h.beat,
       (SELECT e.vector_clock FROM event_store e WHERE e.position = h.position) AS vector_clock
FROM head h

-- name: claim
-- Waits for the row lock of a transaction that an earlier epoch may still have open: afterwards that can write no more.
UPDATE head SET epoch = epoch + 1, layout_epoch = epoch + 1, beat = beat + 1
WHERE ($1::bigint IS NULL OR epoch = $1) AND NOT importing
RETURNING epoch

-- name: sealed_head
SELECT position, sealed_since, seal FROM head

-- name: importing
SELECT importing FROM head

-- name: sagas_of_another_engine
SELECT saga_engine FROM head
WHERE saga_engine <> $1 AND EXISTS (SELECT FROM sagas WHERE status IN ('RUNNING', 'COMMITTED', 'COMPENSATING'))

-- name: take_sagas
UPDATE head SET saga_engine = $1 WHERE saga_engine <> $1

-- name: as_login_role
-- The cell's role sees no other session and may end none. The login sees, and may end, the sessions of the same login.
SET LOCAL ROLE NONE

-- name: at_work
-- A session that waits for its client is not working: the last request to it, or its answer, may be lost.
SELECT state = 'active' AND wait_event_type IS DISTINCT FROM 'Client' FROM pg_stat_activity WHERE pid = $1

-- name: terminate_deposed
-- A backend of a deposed leader holds its locks as long as its client lives, even a stopped one. Its name contains its
-- epoch, so the session of a later epoch is not ended.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()

-- name: rename
SELECT set_config('application_name', $1, false)

-- name: keep_outcome_partitions
-- A claim has no time: the clock's bound in the head row is then the nearest to the writers' clock, by which outcomes
-- are stored. The database's own clock may differ.
SELECT keep_outcome_partitions(
    coalesce($1, (SELECT to_timestamp(hlc_bound_ms / 1000) FROM head WHERE hlc_bound_ms > 0), now()))

-- name: move_head
UPDATE head
-- When stepping down, the promise is reduced to the last issued stamp: the successor need not wait for it.
SET position = $3,
    hlc_bound_ms = CASE WHEN $5 THEN $4 ELSE greatest(hlc_bound_ms, $4) END,
    beat = CASE WHEN $5 THEN 0 ELSE beat + 1 END,
    sealed_since = $6, seal = $7
WHERE epoch = $1 AND position = $2

-- name: put_accounts
INSERT INTO accounts (id, stream_version, state, has_expiry)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::boolean[])
ON CONFLICT (id) DO UPDATE
SET stream_version = excluded.stream_version, state = excluded.state, has_expiry = excluded.has_expiry

-- name: put_assets
INSERT INTO assets (id, stream_version, state)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[])
ON CONFLICT (id) DO UPDATE SET stream_version = excluded.stream_version, state = excluded.state

-- name: put_auctions
INSERT INTO auctions (id, stream_version, state, status, end_time_ms)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
ON CONFLICT (id) DO UPDATE
SET stream_version = excluded.stream_version, state = excluded.state, status = excluded.status,
    end_time_ms = excluded.end_time_ms

-- name: put_sagas
INSERT INTO sagas (id, stream_version, state, status, started_ms, kind, paused, cells)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::boolean[],
                     $8::text[])
ON CONFLICT (id) DO UPDATE
SET stream_version = excluded.stream_version, state = excluded.state, status = excluded.status,
    started_ms = excluded.started_ms, kind = excluded.kind, paused = excluded.paused, cells = excluded.cells

-- name: move_house
INSERT INTO house_balances (account, currency, balance_minor)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
ON CONFLICT (account, currency) DO UPDATE SET balance_minor = house_balances.balance_minor + excluded.balance_minor

-- name: end_outcomes
-- A command in progress has ended with its saga; its fingerprint and its time stay. Another sender's command of the
-- same id waits for another saga. A row from before sagas were stored here is the only one under its id.
UPDATE command_outcomes o
SET outcome = ended.outcome, position = ended.position, begun_position = coalesce(o.begun_position, o.position),
    hlc_physical = ended.hlc_physical, hlc_logical = ended.hlc_logical, seal = ended.seal
FROM unnest($1::uuid[], $2::jsonb[], $3::bigint[], $4::bigint[], $5::int[], $6::uuid[], $7::bytea[])
    AS ended (command_id, outcome, position, hlc_physical, hlc_logical, saga_id, seal)
WHERE o.command_id = ended.command_id AND o.outcome ? 'in_progress'
  AND coalesce(o.saga_id, ended.saga_id) = ended.saga_id

-- name: load_account
SELECT id, stream_version, state FROM accounts WHERE id = ANY($1)

-- name: load_asset
SELECT id, stream_version, state FROM assets WHERE id = ANY($1)

-- name: load_auction
SELECT id, stream_version, state FROM auctions WHERE id = ANY($1)

-- name: load_saga
SELECT id, stream_version, state FROM sagas WHERE id = ANY($1)

-- name: load_leg
-- Also legs taken for a user at an earlier home, by the history copy. Results of this cell come last.
SELECT mark_id AS leg_id, mark AS direction, CASE mark WHEN 'action' THEN 'APPLIED' ELSE 'UNDONE' END AS result, event_id
FROM unnest($1::uuid[]) wanted
-- One by one: a plan for all at once, made while the table was empty, would be kept, and read the whole table.
CROSS JOIN LATERAL (SELECT mark_id, mark, event_id FROM moved_events WHERE mark_id = wanted OFFSET 0) marked
WHERE mark <> 'reference'
UNION ALL
SELECT leg_id, direction, result, event_id FROM saga_legs WHERE leg_id = ANY($1)

-- name: load_reference
SELECT mark_id AS reference_id, position FROM unnest($1::uuid[]) wanted
CROSS JOIN LATERAL (SELECT mark_id, mark, position FROM moved_events WHERE mark_id = wanted OFFSET 0) marked
WHERE mark = 'reference'
UNION ALL
SELECT reference_id, position FROM external_references WHERE reference_id = ANY($1)

-- name: outcomes
SELECT command_id, fingerprint, outcome, position, hlc_physical, hlc_logical, recorded_at, user_id, principal, in_stream,
       cell, saga_id
FROM command_outcomes WHERE command_id = ANY($1)

-- name: events
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store
WHERE position >= $1 AND position <= $7
  AND (cardinality($3::text[]) = 0 OR event_type = ANY($3))
  AND ($4::uuid IS NULL OR aggregate_id = $4)
  AND ($5::uuid IS NULL OR correlation_id = $5)
  AND ($6::uuid IS NULL OR user_id = $6)
ORDER BY position
LIMIT $2

-- name: events_of_aggregate
-- The same for one stream, whose versions rise with the positions: its index has that order.
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store
WHERE position >= $1 AND position <= $7
  AND (cardinality($3::text[]) = 0 OR event_type = ANY($3))
  AND aggregate_id = $4
  AND ($5::uuid IS NULL OR correlation_id = $5)
  AND ($6::uuid IS NULL OR user_id = $6)
ORDER BY stream_version
LIMIT $2

-- name: events_of_correlation
-- The same for one flow. If a stream is named too, the plan above is better.
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store
WHERE position >= $1 AND position <= $7
  AND (cardinality($3::text[]) = 0 OR event_type = ANY($3))
  AND ($4::uuid IS NULL OR aggregate_id = $4)
  AND correlation_id = $5
  AND ($6::uuid IS NULL OR user_id = $6)
ORDER BY position
LIMIT $2

-- name: list_auction
-- The nil UUID, which nobody has, comes before every first page.
SELECT id, stream_version, state FROM auctions
WHERE id > coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY id LIMIT $2

-- name: list_auction_in
-- State by state, each from the index in the order of ids: a rare state is not searched among all others.
SELECT found.* FROM (SELECT DISTINCT unnest($3::text[]) AS status) wanted
CROSS JOIN LATERAL (
    SELECT id, stream_version, state FROM auctions
    WHERE auctions.status = wanted.status AND id > coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid)
    ORDER BY id LIMIT $2
) found
ORDER BY found.id LIMIT $2

-- name: list_saga
SELECT id, stream_version, state FROM sagas
WHERE id > coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY id LIMIT $2

-- name: list_saga_in
-- As list_auction_in.
SELECT found.* FROM (SELECT DISTINCT unnest($3::text[]) AS status) wanted
CROSS JOIN LATERAL (
    SELECT id, stream_version, state FROM sagas
    WHERE sagas.status = wanted.status AND id > coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid)
    ORDER BY id LIMIT $2
) found
ORDER BY found.id LIMIT $2

-- name: list_sagas
-- State by state, each from the index in the order of age.
SELECT found.id, found.stream_version, found.state
FROM (SELECT DISTINCT unnest($1::text[]) AS status) wanted
CROSS JOIN LATERAL (
    SELECT id, stream_version, state, started_ms FROM sagas
    WHERE sagas.status = wanted.status
      AND started_ms >= $2 AND started_ms < $3
      AND ($4::bigint IS NULL OR (started_ms, id) > ($4, $5::uuid))
      AND ($6 = '' OR kind = $6)
      AND ($7 = '' OR $7 = ANY(string_to_array(cells, ' ')))
      AND (paused OR NOT $8)
      AND ($9::uuid[] IS NULL OR id = ANY($9))
    ORDER BY started_ms, id LIMIT $10
) found
ORDER BY found.started_ms, found.id LIMIT $10

-- name: timers
SELECT end_time_ms AS due_ms, 'auction' AS kind, id, NULL::uuid AS hold_id
FROM auctions WHERE status = 'ACTIVE'
UNION ALL
SELECT (hold.value->>'expire_time_ms')::bigint, 'account', a.id, hold.key::uuid
FROM accounts a, jsonb_each(a.state::jsonb->'holds') hold
WHERE a.has_expiry AND hold.value->>'expire_time_ms' IS NOT NULL
