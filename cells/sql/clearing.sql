-- name: position_at
-- Stamps rise with positions, and the cut is recent, so it is near the end.
SELECT coalesce((
    SELECT position FROM event_store WHERE (hlc_physical, hlc_logical) <= ($1, $2) ORDER BY position DESC LIMIT 1), 0)

-- name: touched
-- Movements that have entries between two positions, page by page.
SELECT DISTINCT clearing_id FROM clearing_entries
WHERE peer = $1 AND position > $2 AND position <= $3
  AND clearing_id > coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY clearing_id LIMIT $5

-- name: sides
-- All entries of these movements up to a position. A movement without entries has a row where its saga, as the other cell
-- names it, is driven here.
SELECT s.*
FROM (
    SELECT w.clearing_id, coalesce(c.currency, '') AS currency, coalesce(c.amount_minor, 0) AS amount_minor,
           coalesce(c.entries_count, 0) AS entries_count, coalesce(c.saga_id, w.saga_id) AS saga_id,
           CASE WHEN EXISTS (SELECT FROM event_store s
                             WHERE s.aggregate_id = coalesce(c.saga_id, w.saga_id) AND s.stream_version = 1
                               AND s.event_type = 'SAGA_STARTED' AND s.position <= $3)
                THEN EXISTS (SELECT FROM event_store t
                             WHERE t.aggregate_id = coalesce(c.saga_id, w.saga_id) AND t.position <= $3
                               AND t.event_type IN ('SAGA_COMPLETED', 'SAGA_COMPENSATED'))
           END AS ended,
           coalesce(c.sums_count, 0) AS sums_count
    FROM unnest($2::uuid[], $4::uuid[]) AS w (clearing_id, saga_id)
    LEFT JOIN (
        -- A movement has one currency: two of them are reported as such, and match nothing.
        SELECT c.clearing_id, string_agg(DISTINCT c.currency, '+') AS currency,
               sum(c.amount_minor)::bigint AS amount_minor, count(*)::int AS entries_count,
               -- Only the first of a leg's events has its mark; the others, such as those of a departing balance, name
               -- the saga.
               min(coalesce(e.metadata->'leg'->>'saga_id', e.payload->>'saga_id'))::uuid AS saga_id,
               count(DISTINCT nullif(c.sum_minor, 0))::int AS sums_count
        FROM (
            SELECT *, sum(amount_minor) OVER (PARTITION BY clearing_id ORDER BY position) AS sum_minor
            FROM clearing_entries WHERE clearing_id = ANY($2) AND peer = $1 AND position <= $3
        ) c LEFT JOIN event_store e ON e.position = c.position
        GROUP BY c.clearing_id
    ) c USING (clearing_id)
) s
WHERE s.entries_count > 0 OR s.ended IS NOT NULL
ORDER BY s.clearing_id

-- name: peers
SELECT DISTINCT substr(account, 10) AS peer FROM house_balances WHERE account LIKE 'clearing/%'
UNION SELECT peer FROM reconciled_clearing

-- name: balances
SELECT substr(account, 10) AS peer, currency, balance_minor AS amount_minor FROM house_balances
WHERE account LIKE 'clearing/%' AND balance_minor <> 0
ORDER BY account, currency

-- name: last_cut
SELECT position, peer_position, open FROM reconciled_clearing WHERE peer = $1

-- name: put_cut
INSERT INTO reconciled_clearing (peer, position, peer_position, open) VALUES ($1, $2, $3, $4)
ON CONFLICT (peer) DO UPDATE
SET position = excluded.position, peer_position = excluded.peer_position, open = excluded.open
