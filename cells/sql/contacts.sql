-- name: get
SELECT sealed_key, name, email, proven_seal IS NOT DISTINCT FROM sealed_key AS proven FROM contacts WHERE user_id = $1

-- name: put
-- An erased person cannot be stored again. The erasure holds the lock meanwhile.
INSERT INTO contacts (user_id, sealed_key, name, email, proven_seal)
SELECT $1, $2, $3, $4, CASE WHEN $5 THEN $2::bytea END WHERE NOT EXISTS (SELECT FROM erasures WHERE user_id = $1)
ON CONFLICT (user_id) DO UPDATE
SET sealed_key = excluded.sealed_key, name = excluded.name, email = excluded.email, updated_at = now(),
    proven_seal = excluded.proven_seal

-- name: prove
-- Only if the contact is still the one for which the code was made.
UPDATE contacts SET proven_seal = sealed_key WHERE user_id = $1 AND sealed_key = $2

-- name: lock
SELECT pg_advisory_xact_lock('contacts'::regclass::oid::int, hashtext($1::text))

-- name: is_erased
SELECT EXISTS (SELECT FROM erasures WHERE user_id = $1)

-- name: note_erasures
INSERT INTO erasures (user_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING

-- name: erase
DELETE FROM contacts WHERE user_id = ANY($1)

-- name: erased
SELECT user_id FROM erasures

-- name: last_put
SELECT user_id, sealed_key FROM contacts ORDER BY updated_at DESC LIMIT 1

-- name: earlier_homes_to_ask
-- Erased persons who are at home here, at most $1. Without the cells $2, which do not answer at the moment.
SELECT e.user_id, home.cell
FROM erasures e
JOIN states a ON a.kind = 'account' AND a.id = e.user_id AND a.state #>> '{move,stage}' IS DISTINCT FROM 'LEFT'
CROSS JOIN LATERAL (SELECT DISTINCT h->>'cell' AS cell FROM jsonb_array_elements(a.state->'earlier_homes') h) home
LEFT JOIN erasures_elsewhere known ON known.user_id = e.user_id AND known.cell = home.cell
WHERE home.cell <> $1 AND home.cell <> ALL($2::text[]) AND (known.again_at IS NULL OR known.again_at <= now())
ORDER BY known.again_at NULLS FIRST
LIMIT $3

-- name: ask_again_in
INSERT INTO erasures_elsewhere (user_id, cell, again_at) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (user_id, cell) DO UPDATE SET again_at = excluded.again_at
