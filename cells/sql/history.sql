-- name: point_at
-- Stamps rise with positions, so the last event at or before a stamp is found by bisection: some 23 lookups by primary
-- key in a log of 8 million, without another index on the write path. At `low` the log is not after the stamp, after
-- `high` it is. A position without a row stops the search: `gap` names it.
WITH RECURSIVE search (low, high, gap) AS (
    SELECT 0::bigint, $3::bigint, NULL::bigint
    UNION ALL
    SELECT CASE WHEN before THEN middle ELSE low END,
           CASE WHEN before THEN high ELSE middle - 1 END,
           CASE WHEN before IS NULL THEN middle END
    FROM (
        SELECT low, high, (low + high + 1) / 2 AS middle, (
            SELECT (e.hlc_physical, e.hlc_logical) <= ($1::bigint, $2::int)
            FROM event_store e WHERE e.position = (low + high + 1) / 2
        ) AS before
        FROM search WHERE low < high AND gap IS NULL
        -- Looked up once, not for each CASE.
        OFFSET 0
    ) step
)
SELECT low AS position, gap FROM search WHERE low = high OR gap IS NOT NULL
ORDER BY gap NULLS LAST LIMIT 1

-- name: events_at
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store WHERE position = ANY($1)
ORDER BY position

-- name: events_after
-- `noted` is the hash from which the log's tree was made, if the row lies in a full tile.
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash,
       (SELECT substring(t.hashes FROM ((e.position - 1) % 256)::int * 32 + 1 FOR 32)
        FROM log_tiles t WHERE t.level = 0 AND t.place = (e.position - 1) / 256) AS noted
FROM event_store e WHERE position > $1 AND position <= $2
ORDER BY position LIMIT $3

-- name: stream_begins
SELECT position FROM event_store WHERE aggregate_id = $1 AND stream_version = 1

-- name: stream_from
-- Not `AND position <= ..`: if only the first of many rows match, it would read all of them.
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store WHERE aggregate_id = $1 AND stream_version >= $2
ORDER BY stream_version LIMIT $3

-- name: snapshot_at
SELECT position, stream_version, kind, state, leaf_hash, seal
FROM snapshots WHERE aggregate_id = $1 AND position <= $2 AND seal IS NOT NULL
ORDER BY position DESC LIMIT 1

-- name: snapshots_of
SELECT position, stream_version, kind, state, leaf_hash, seal
FROM snapshots WHERE aggregate_id = $1 AND seal IS NOT NULL ORDER BY position

-- name: account_balances_at
-- Currency by currency, the next one from the index, with the last two entries of each at or before the position.
WITH RECURSIVE held (currency) AS (
    (SELECT currency FROM account_entries WHERE account_id = $1 ORDER BY currency LIMIT 1)
    UNION ALL
    SELECT next.currency FROM held CROSS JOIN LATERAL (
        SELECT e.currency FROM account_entries e WHERE e.account_id = $1 AND e.currency > held.currency
        ORDER BY e.currency LIMIT 1
    ) next
)
SELECT $1::uuid AS account_id, held.currency, entry.* FROM held CROSS JOIN LATERAL (
    SELECT position, available_change, reserved_change, pending_change, available_after, reserved_after, pending_after
    FROM account_entries e
    WHERE e.account_id = $1 AND e.currency = held.currency AND e.position <= $2
    ORDER BY e.position DESC LIMIT 2
) entry

-- name: all_balances_at
-- The same from account to account, for a page of (account, currency) after the given one. A pair that had no entry yet
-- is returned without one, so that the page continues.
WITH RECURSIVE held (account_id, currency) AS (
    (SELECT account_id, currency FROM account_entries WHERE (account_id, currency) > ($1::uuid, $2::text)
     ORDER BY account_id, currency LIMIT 1)
    UNION ALL
    SELECT next.account_id, next.currency FROM held CROSS JOIN LATERAL (
        SELECT e.account_id, e.currency FROM account_entries e
        WHERE (e.account_id, e.currency) > (held.account_id, held.currency)
        ORDER BY e.account_id, e.currency LIMIT 1
    ) next
)
SELECT held.account_id, held.currency, entry.* FROM held LEFT JOIN LATERAL (
    SELECT position, available_change, reserved_change, pending_change, available_after, reserved_after, pending_after
    FROM account_entries e
    WHERE e.account_id = held.account_id AND e.currency = held.currency AND e.position <= $3
    ORDER BY e.position DESC LIMIT 1
) entry ON true
LIMIT $4

-- name: movements
-- Without the entries of events that move nothing, such as the release of a bid whose hold backs a higher one.
SELECT account_id, currency, position, available_change, reserved_change, pending_change,
       available_after, reserved_after, pending_after
FROM account_entries
WHERE account_id = $1 AND currency = $2 AND position > $3 AND position <= $4
  AND (available_change, reserved_change, pending_change) <> (0, 0, 0)
ORDER BY position LIMIT $5

-- name: entry_at
SELECT account_id, currency, position, available_change, reserved_change, pending_change,
       available_after, reserved_after, pending_after
FROM account_entries
WHERE account_id = $1 AND currency = $2 AND position <= $3
ORDER BY position DESC LIMIT 1

-- name: movements_sum
SELECT count(*) AS movements, coalesce(sum(available_change), 0)::text AS available,
       coalesce(sum(reserved_change), 0)::text AS reserved, coalesce(sum(pending_change), 0)::text AS pending
FROM account_entries
WHERE account_id = $1 AND currency = $2 AND position > $3 AND position <= $4
  AND (available_change, reserved_change, pending_change) <> (0, 0, 0)

-- name: types_of
SELECT event_id, event_type FROM event_store WHERE event_id = ANY($1)

-- name: house_snapshot_at
SELECT position, balances, leaf_hash, seal FROM house_snapshots WHERE position <= $1 AND seal IS NOT NULL
ORDER BY position DESC LIMIT 1

-- name: snapshot_progress
SELECT position FROM snapshot_progress

-- name: set_snapshot_progress
UPDATE snapshot_progress SET position = $1 WHERE position < $1

-- name: snapshots_due
-- Most are there already, made while the log was written.
SELECT aggregate_id, stream_version, position FROM event_store e
WHERE position > $1 AND position <= $2 AND stream_version % $3 = 0
  AND NOT EXISTS (SELECT FROM snapshots s
                  WHERE s.aggregate_id = e.aggregate_id AND s.position = e.position AND s.seal IS NOT NULL)
ORDER BY position

-- name: put_snapshot
-- Two processes may make the same one: a deposed leader and its successor. One without a seal is replaced.
INSERT INTO snapshots AS old (aggregate_id, position, stream_version, kind, state, leaf_hash, seal)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (aggregate_id, position) DO UPDATE
SET stream_version = excluded.stream_version, kind = excluded.kind, state = excluded.state,
    leaf_hash = excluded.leaf_hash, seal = excluded.seal
WHERE old.seal IS NULL

-- name: put_house_snapshot
INSERT INTO house_snapshots AS old (position, balances, leaf_hash, seal) VALUES ($1, $2, $3, $4)
ON CONFLICT (position) DO UPDATE
SET balances = excluded.balances, leaf_hash = excluded.leaf_hash, seal = excluded.seal WHERE old.seal IS NULL

-- name: homes
-- Users at home here, and users who are moving elsewhere, by the present states.
SELECT id, (state->>'home_epoch')::bigint,
       CASE WHEN state->'move'->>'stage' = 'DEPARTED' THEN state->'move'->>'to_cell' ELSE '' END
FROM states
WHERE kind = 'account' AND id > $1 AND state->'move'->>'stage' IS DISTINCT FROM 'LEFT'
ORDER BY id LIMIT $2
