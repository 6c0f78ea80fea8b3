-- name: last_tile
SELECT max(place) FROM log_tiles WHERE level = $1

-- name: tile
SELECT hashes FROM log_tiles WHERE level = $1 AND place = $2

-- name: tile_roots
SELECT root FROM log_tiles WHERE level = $1 AND place >= $2 AND place < $3 ORDER BY place

-- name: leaf_hashes
SELECT leaf_hash FROM event_store WHERE position > $1 AND position <= $2 ORDER BY position

-- name: add_tiles
INSERT INTO log_tiles (level, place, hashes, root)
SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[], $4::bytea[])

-- name: add_checkpoint
INSERT INTO checkpoints (size, root, note, signed_at) VALUES ($1, $2, $3, $4)

-- name: add_cosignature
INSERT INTO cosignatures (size, witness, line, cosigned_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (size, witness) DO NOTHING

-- name: checkpoints
-- From a size on, the smallest first.
SELECT c.size, c.root, c.note, c.signed_at,
       ARRAY(SELECT s.line FROM cosignatures s WHERE s.size = c.size ORDER BY s.cosigned_at, s.witness) AS lines
FROM checkpoints c WHERE c.size >= $1 ORDER BY c.size LIMIT $2

-- name: last_checkpoint
SELECT c.size, c.root, c.note, c.signed_at,
       ARRAY(SELECT s.line FROM cosignatures s WHERE s.size = c.size ORDER BY s.cosigned_at, s.witness) AS lines
FROM checkpoints c WHERE c.size <= $1 ORDER BY c.size DESC LIMIT 1

-- name: last_cosigned
-- The checkpoint of the largest size that any witness has signed.
SELECT c.size, c.root, c.note, c.signed_at,
       ARRAY(SELECT s.line FROM cosignatures s WHERE s.size = c.size ORDER BY s.cosigned_at, s.witness) AS lines
FROM checkpoints c WHERE c.size = (SELECT max(size) FROM cosignatures)

-- name: cosigned_size
SELECT coalesce(max(size), 0) FROM cosignatures WHERE witness = $1

-- name: witnessed
SELECT origin, key, size, root, note, cosigned_at FROM witnessed WHERE origin = $1

-- name: witness_first
INSERT INTO witnessed (origin, key, size, root, note, cosigned_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (origin) DO NOTHING

-- name: witness_next
-- By compare-and-set: two processes of this cell never sign two branches of a log.
UPDATE witnessed SET key = $2, size = $3, root = $4, note = $5, cosigned_at = $6
WHERE origin = $1 AND size = $7 AND root = $8

-- name: export_head
SELECT position, epoch, hlc_bound_ms, saga_engine FROM head

-- name: export_events
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3

-- name: export_outcomes
-- As they were when the log ended at $1. A command that had begun by then and has ended since was in progress.
SELECT command_id, fingerprint,
       CASE WHEN cell IS NULL AND position > $1 THEN '{"in_progress": {}}'::jsonb ELSE outcome END AS outcome,
       CASE WHEN cell IS NULL THEN least(position, $1) ELSE position END AS position,
       hlc_physical, hlc_logical, recorded_at, user_id, principal, in_stream, cell, saga_id
FROM command_outcomes
WHERE (command_id, principal) > ($2, $3) AND (cell IS NOT NULL OR position <= $1 OR begun_position <= $1)
ORDER BY command_id, principal LIMIT $4

-- name: import_begin
-- If the database is empty, or an earlier run has imported the first part of the same cell's log.
UPDATE head SET importing = true, epoch = epoch + 1, layout_epoch = epoch + 1
WHERE cell = $1 AND (importing OR position = 0)
RETURNING epoch, position

-- name: import_head
SELECT cell, position FROM head

-- name: import_finish
UPDATE head
SET importing = false, epoch = greatest(epoch, $1), layout_epoch = greatest(epoch, $1), saga_engine = $2, beat = 0

-- name: last_outcome
SELECT command_id, principal FROM command_outcomes ORDER BY command_id DESC, principal DESC LIMIT 1

-- name: export_moved
-- The events that arrivals up to position $5 count. The copy of a user who has not arrived does not belong to this
-- cell.
SELECT cell, position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM moved_events m
WHERE (aggregate_id, cell, position) > ($1::uuid, $2::text, $3::bigint)
  AND stream_version <= (
      SELECT max((home->>'events')::bigint)
      FROM event_store e CROSS JOIN LATERAL jsonb_array_elements(e.payload->'earlier_homes') home
      WHERE e.aggregate_id = m.aggregate_id AND e.event_type = 'ACCOUNT_ARRIVED' AND e.position <= $5
        AND home->>'cell' = m.cell)
ORDER BY aggregate_id, cell, position LIMIT $4
