-- name: only_one
-- One pass at a time per database: a second one is told so.
SELECT pg_try_advisory_lock('reconciled'::regclass::oid::int, 0)

-- name: head
SELECT epoch, position FROM head

-- name: cell
SELECT cell FROM head

-- name: position
SELECT position FROM head

-- name: reconciled
SELECT position FROM reconciled

-- name: full_is_due
SELECT $1::int > 0 AND NOT EXISTS (SELECT FROM reconciled WHERE full_at > now() - make_interval(secs => $1::int))

-- name: summarize
-- Summarizes the ranges of new rows: otherwise every page would read them from end to end.
SELECT summarize_positions()

-- name: start_over
WITH gone AS (DELETE FROM reconciled_states), gone_house AS (DELETE FROM reconciled_house),
     gone_halts AS (DELETE FROM reconciled_halts)
INSERT INTO reconciled (position) VALUES (0)
ON CONFLICT (only_one) DO UPDATE SET position = 0, seal = NULL

-- name: moved
INSERT INTO reconciled (position) VALUES ($1)
ON CONFLICT (only_one) DO UPDATE SET position = excluded.position, seal = NULL

-- name: replay_digest
-- All that the replay keeps, as one hash.
SELECT sha256(convert_to(concat_ws('/', r.position,
    (SELECT encode(sha256(coalesce(string_agg(sha256(convert_to(
        concat_ws('/', id, kind, stream_version, state, columns), 'UTF8')), ''::bytea ORDER BY id), '')), 'hex')
     FROM reconciled_states),
    (SELECT encode(sha256(coalesce(string_agg(sha256(convert_to(
        concat_ws('/', account, currency, balance_minor), 'UTF8')), ''::bytea ORDER BY account, currency), '')), 'hex')
     FROM reconciled_house),
    (SELECT encode(sha256(coalesce(string_agg(sha256(convert_to(
        concat_ws('/', id, problem), 'UTF8')), ''::bytea ORDER BY id), '')), 'hex')
     FROM reconciled_halts)), 'UTF8'))
FROM reconciled r

-- name: replay_seal
SELECT seal FROM reconciled

-- name: put_replay_seal
UPDATE reconciled SET seal = $1

-- name: ended_full
UPDATE reconciled SET full_position = $1, full_at = now()

-- name: events
-- The leaf as one text, its JSON columns in PostgreSQL's own order and spacing: read whole, in a third of the time that
-- its columns take.
SELECT position, event_id, event_type, aggregate_id, stream_version, leaf_hash,
       concat('{"aggregate_id":"', aggregate_id, '","causation_id":', coalesce('"' || causation_id || '"', 'null'),
              ',"correlation_id":"', correlation_id, '","event_id":"', event_id, '","event_type":', to_json(event_type),
              ',"hlc_logical":', hlc_logical, ',"hlc_physical":', hlc_physical, ',"metadata":', metadata,
              ',"payload":', payload, ',"position":', position,
              ',"recorded_at_us":', CASE WHEN isfinite(recorded_at) THEN (extract(epoch FROM recorded_at) * 1000000)::bigint END,
              ',"stream_version":', stream_version, ',"user_id":', coalesce('"' || user_id || '"', 'null'),
              ',"vector_clock":', vector_clock, '}') AS leaf
FROM event_store WHERE position > $1 AND position <= $2 ORDER BY position

-- name: tiles
-- The leaf hashes of full tiles, 256 in each, from which the tree was made.
SELECT place, hashes FROM log_tiles WHERE level = 0 AND place >= $1 AND place <= $2

-- name: snapshots
SELECT position, state FROM snapshots WHERE position > $1 AND position <= $2 AND seal IS NOT NULL

-- name: wrong_house_snapshots
-- Each must equal the previous one plus the postings in between.
WITH kept AS (
    SELECT position, lag(position, 1, 0::bigint) OVER (ORDER BY position) AS before, balances::jsonb AS balances
    FROM house_snapshots WHERE seal IS NOT NULL
), sums AS (
    SELECT k.position, k.before, a.key AS account, c.key AS currency, (c.value #>> '{}')::numeric AS amount_minor
    FROM kept k, jsonb_each(k.balances) a, jsonb_each(a.value) c
), expected AS (
    SELECT position, account, currency, sum(amount_minor) AS amount_minor FROM (
        SELECT k.position,
               CASE WHEN p.value->>'account' LIKE 'users/%'
                    THEN 'users/' || split_part(p.value->>'account', '/', 3) ELSE p.value->>'account' END AS account,
               p.value->>'currency' AS currency, (p.value->>'amount_minor')::numeric AS amount_minor
        FROM kept k JOIN event_store e ON e.position > k.before AND e.position <= k.position
        CROSS JOIN LATERAL jsonb_array_elements(e.payload->'postings') p WHERE e.payload ? 'postings'
        UNION ALL
        SELECT k.position, s.account, s.currency, s.amount_minor FROM kept k JOIN sums s ON s.position = k.before
    ) moved GROUP BY position, account, currency
)
SELECT position, account, currency, coalesce(e.amount_minor, 0) AS expected, coalesce(s.amount_minor, 0) AS found
FROM expected e FULL JOIN sums s USING (position, account, currency)
WHERE coalesce(e.amount_minor, 0) <> coalesce(s.amount_minor, 0)
ORDER BY position, account, currency LIMIT $1

-- name: account_entries
SELECT account_id, currency, position, available_change, reserved_change, pending_change,
       available_after, reserved_after, pending_after
FROM account_entries WHERE position > $1 AND position <= $2 ORDER BY position

-- name: clearing_entries
SELECT clearing_id, position, peer, currency, amount_minor
FROM clearing_entries WHERE position > $1 AND position <= $2 ORDER BY position

-- name: saga_legs
SELECT leg_id, direction, result, event_id, position
FROM saga_legs WHERE position > $1 AND position <= $2 ORDER BY position

-- name: external_references
SELECT reference_id, kind, reference, position
FROM external_references WHERE position > $1 AND position <= $2 ORDER BY position

-- name: barriers
SELECT leg_id, direction, result, event_id FROM saga_legs WHERE leg_id = ANY($1)

-- name: beyond
-- Rows of positions that have no event.
SELECT 'account_entries' AS name, position FROM account_entries WHERE position < 1 OR position > $1
UNION ALL SELECT 'clearing_entries', position FROM clearing_entries WHERE position < 1 OR position > $1
UNION ALL SELECT 'saga_legs', position FROM saga_legs WHERE position < 1 OR position > $1
UNION ALL SELECT 'external_references', position FROM external_references WHERE position < 1 OR position > $1
UNION ALL SELECT 'event_store', position FROM event_store WHERE position < 1 OR position > $1
LIMIT 1000

-- name: states
SELECT id, kind, stream_version, state FROM reconciled_states WHERE id = ANY($1)

-- name: put_states
INSERT INTO reconciled_states (id, kind, stream_version, state, columns)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::jsonb[])
ON CONFLICT (id) DO UPDATE
SET stream_version = excluded.stream_version, state = excluded.state, columns = excluded.columns

-- name: drop_states
DELETE FROM reconciled_states WHERE id = ANY($1)

-- name: put_house
INSERT INTO reconciled_house (account, currency, balance_minor)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
ON CONFLICT (account, currency) DO UPDATE SET balance_minor = reconciled_house.balance_minor + excluded.balance_minor

-- name: halts
SELECT id, problem FROM reconciled_halts

-- name: put_halts
INSERT INTO reconciled_halts (id, problem) SELECT * FROM unnest($1::uuid[], $2::text[]) ON CONFLICT DO NOTHING

-- name: compare_states
-- Of one kind. A state that an older version wrote is not in the canonical form.
SELECT coalesce(p.id, r.id) AS id, r.stream_version, r.state, r.columns,
       p.stream_version AS found_version, p.stored AS found, p.columns AS found_columns
FROM (SELECT * FROM states WHERE kind = $1) p
FULL JOIN (SELECT * FROM reconciled_states WHERE kind = $1) r ON r.id = p.id
WHERE ((p.stream_version, p.columns) IS DISTINCT FROM (r.stream_version, r.columns) OR CASE
          WHEN p.stored = r.state THEN false
          WHEN pg_input_is_valid(p.stored, 'jsonb') THEN p.state <> r.state::jsonb
          ELSE true END)
  AND NOT EXISTS (SELECT FROM reconciled_halts h WHERE h.id = coalesce(p.id, r.id))
LIMIT $2

-- name: compare_house
-- A balance without postings is 0, with or without a row.
SELECT account, currency, coalesce(r.balance_minor, 0) AS expected, coalesce(h.balance_minor, 0) AS found
FROM house_balances h FULL JOIN reconciled_house r USING (account, currency)
WHERE coalesce(r.balance_minor, 0) <> coalesce(h.balance_minor, 0)
ORDER BY account, currency LIMIT $1

-- name: events_without_outcome
-- Executed commands whose stored answer says otherwise. Outcomes are kept for a window of time. A command that began a
-- flow may be refused by another cell: SAGA_STARTED stands beside its other events.
SELECT e.position, e.event_type, e.metadata->>'command_id' AS command_id, o.outcome
FROM event_store e
LEFT JOIN command_outcomes o ON o.principal IN (e.metadata->>'principal', '') AND o.command_id = CASE
    WHEN pg_input_is_valid(e.metadata->>'command_id', 'uuid') THEN (e.metadata->>'command_id')::uuid END
WHERE e.position > $1 AND e.position <= $2
  AND e.recorded_at > now() - make_interval(days => $3)
  AND e.metadata->>'principal' NOT LIKE 'peer/%'
  AND (o.command_id IS NULL OR (o.outcome ? 'refused' AND NOT EXISTS (
      SELECT FROM event_store s
      WHERE s.position BETWEEN e.position - 16 AND e.position + 16 AND s.event_type = 'SAGA_STARTED'
        AND s.metadata->>'command_id' = e.metadata->>'command_id')))
ORDER BY e.position LIMIT $4

-- name: outcomes_without_event
-- An accepted command has left events, the last of them at the outcome's position; or it began a flow, which has ended
-- since.
SELECT o.command_id, o.position, o.outcome
FROM command_outcomes o LEFT JOIN event_store e ON e.position = o.position
WHERE o.position > $1 AND o.position <= $2 AND NOT o.outcome ? 'refused'
  AND (e.metadata->>'command_id' IS DISTINCT FROM o.command_id::text
       OR o.principal NOT IN (e.metadata->>'principal', ''))
  -- An outcome that a user has brought along was decided in another cell's log, which older rows do not show.
  AND o.cell IS NULL
  AND NOT (o.principal = ''
           AND EXISTS (SELECT FROM event_store a WHERE a.aggregate_id = o.user_id AND a.event_type = 'ACCOUNT_ARRIVED'))
  AND NOT EXISTS (SELECT FROM reconciled_states g
                  WHERE g.kind = 'saga' AND coalesce(g.id = o.saga_id, g.state::jsonb->'facts'->>'command_id' =
                  o.command_id::text))
ORDER BY o.position LIMIT $3

-- name: sealed_outcomes
-- Older outcomes have none, nor have those of an older process that led for a while after the migration. Outcomes that
-- a user has brought along have positions of another log.
SELECT command_id, principal, outcome, position, hlc_physical, hlc_logical, seal,
       recorded_at < (SELECT applied_at + INTERVAL '1 day' FROM schema_migrations WHERE name LIKE '%_sealed_outcomes.sql')
FROM command_outcomes WHERE position >= $1 OR cell IS NOT NULL

-- name: flows_without_end
-- The flow has ended, but the stored answer of its command is still in progress.
SELECT o.command_id, o.position, o.outcome, g.id AS saga_id, g.columns->>'status' AS status
FROM command_outcomes o JOIN reconciled_states g
  ON g.kind = 'saga' AND g.state::jsonb->'facts'->>'command_id' = o.command_id::text AND coalesce(g.id = o.saga_id, true)
WHERE o.outcome ? 'in_progress' AND g.columns->>'status' IN ('COMPLETED', 'COMPENSATED')
LIMIT $1

-- name: quarantine
SELECT kind, id, problem FROM quarantine

-- name: put_quarantine
INSERT INTO quarantine (kind, id, problem) SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[])
ON CONFLICT (kind, id) DO UPDATE SET problem = excluded.problem

-- name: keep_quarantine
DELETE FROM quarantine WHERE (kind, id) NOT IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
