-- name: moved
SELECT cell, position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM moved_events
WHERE aggregate_id = $1
  AND (cardinality($2::text[]) = 0 OR event_type = ANY($2))
  AND (cell, position) > ($3, $4::bigint)
ORDER BY cell, position
LIMIT $5

-- name: counts
SELECT cell, count(*) AS events FROM moved_events WHERE aggregate_id = $1 GROUP BY cell

-- name: outcomes_of
SELECT command_id, fingerprint, outcome, position, hlc_physical, hlc_logical, recorded_at, user_id, principal, in_stream,
       cell, saga_id
FROM command_outcomes
WHERE user_id = $1 AND NOT in_stream
  AND (command_id, principal) > (coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid), coalesce($3, ''))
ORDER BY command_id, principal LIMIT $4

-- name: lock
SELECT pg_advisory_xact_lock('moved_events'::regclass::oid::int, hashtext($1::text))

-- name: stow_event
INSERT INTO moved_events (cell, position, event_id, event_type, aggregate_id, stream_version, causation_id,
                          correlation_id, hlc_physical, hlc_logical, vector_clock, payload, metadata, user_id,
                          recorded_at, leaf_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT DO NOTHING

-- name: stow_outcome
-- Kept for as long as if it had been reached here now. The answer stays what it was: the position is one of the log of
-- the cell $9.
INSERT INTO command_outcomes (command_id, principal, fingerprint, outcome, position, hlc_physical, hlc_logical,
                              user_id, cell, recorded_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, now()
WHERE NOT EXISTS (SELECT FROM command_outcomes WHERE command_id = $1 AND principal = $2)
