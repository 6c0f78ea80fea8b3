-- name: moved
SELECT cell, position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM moved_events
WHERE aggregate_id = $1 AND (cell, position) > ($2, $3::bigint)
ORDER BY cell, position
LIMIT $4

-- name: held
SELECT cell, held FROM moved_cells($1)

-- name: copies
-- Events of an older program have no marks; events that an arrival has counted do not need them.
SELECT c.cell, c.held,
       (SELECT m.chain FROM moved_events m
        WHERE m.aggregate_id = $1 AND m.cell = c.cell ORDER BY m.stream_version DESC LIMIT 1) AS chain,
       NOT EXISTS (SELECT FROM moved_events m WHERE m.aggregate_id = $1 AND m.cell = c.cell AND m.mark IS NULL
                   AND m.stream_version > counted_events($1, c.cell)) AS marked
FROM moved_cells($1) c

-- name: moved_stream
SELECT cell, position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM moved_events WHERE aggregate_id = $1 AND cell = $2 AND stream_version > $3
ORDER BY stream_version LIMIT $4

-- name: stream
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store WHERE aggregate_id = $1 AND stream_version > $2
ORDER BY stream_version LIMIT $3

-- name: outcomes_of
SELECT command_id, fingerprint, outcome, position, hlc_physical, hlc_logical, recorded_at, user_id, principal,
in_stream,
       cell, saga_id
FROM command_outcomes
WHERE user_id = $1 AND NOT in_stream
  AND (command_id, principal) > (coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid), coalesce($3, ''))
ORDER BY command_id, principal LIMIT $4

-- name: outcomes_since
-- The same of those since $5: a few among many. The inner order leaves it one index to choose.
SELECT command_id, fingerprint, outcome, position, hlc_physical, hlc_logical, recorded_at, user_id, principal, in_stream,
       cell, saga_id
FROM (SELECT * FROM command_outcomes WHERE user_id = $1 AND NOT in_stream AND recorded_at >= $5
      ORDER BY recorded_at OFFSET 0) recent
WHERE (command_id, principal) > (coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid), coalesce($3, ''))
ORDER BY command_id, principal LIMIT $4

-- name: lock
SELECT pg_advisory_xact_lock('moved_events'::regclass::oid::int, hashtext($1::text))

-- name: stow_event
INSERT INTO moved_events (cell, position, event_id, event_type, aggregate_id, stream_version, causation_id,
                          correlation_id, hlc_physical, hlc_logical, vector_clock, payload, metadata, user_id,
                          recorded_at, leaf_hash, mark, mark_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
ON CONFLICT DO NOTHING

-- name: stow_outcome
-- Kept for as long as if it had been decided here now. The answer stays unchanged: its position is in the log of the
-- cell $9.
INSERT INTO command_outcomes (command_id, principal, fingerprint, outcome, position, hlc_physical, hlc_logical,
                              user_id, cell, recorded_at, seal)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, now(), $10
WHERE NOT EXISTS (SELECT FROM command_outcomes WHERE command_id = $1 AND principal = $2)

-- name: touch
INSERT INTO incoming_moves (user_id, touched_at) VALUES ($1, now())
ON CONFLICT (user_id) DO UPDATE SET touched_at = excluded.touched_at

-- name: give_up
-- The next sweep deletes it.
UPDATE incoming_moves SET touched_at = '-infinity' WHERE user_id = $1

-- name: stale
SELECT user_id FROM incoming_moves WHERE touched_at < now() - make_interval(secs => $1) ORDER BY touched_at LIMIT $2

-- name: drop_staged
-- Returns nothing if the move continues.
SELECT CASE WHEN touched_at < now() - make_interval(secs => $2) THEN drop_staged(user_id, $3) END
FROM incoming_moves WHERE user_id = $1

-- name: settle
DELETE FROM incoming_moves WHERE user_id = $1

-- name: arrived
-- Users who came from other cells after one position and up to another: some of them, behind the one given.
SELECT DISTINCT aggregate_id FROM event_store
WHERE event_type = 'ACCOUNT_ARRIVED' AND position > $1 AND position <= $2 AND aggregate_id > $3
ORDER BY aggregate_id LIMIT $4

-- name: arrivals_of
SELECT aggregate_id, payload->>'earlier_homes', coalesce(payload->>'history', '{}')
FROM event_store
WHERE event_type = 'ACCOUNT_ARRIVED' AND position <= $2 AND aggregate_id = ANY($1)
ORDER BY aggregate_id, position

-- name: counted_copies
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash, coalesce(mark, ''), mark_id
FROM moved_events
WHERE aggregate_id = $1 AND cell = $2 AND stream_version > $3 AND stream_version <= $4
ORDER BY stream_version LIMIT $5
