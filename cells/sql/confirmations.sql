-- name: lock
-- One at a time: they are few, and are counted.
SELECT pg_advisory_xact_lock('confirmations'::regclass::oid::int, 0)

-- name: forget
DELETE FROM confirmations WHERE asked_at < now() - interval '1 day'

-- name: note
INSERT INTO confirmations (confirmation_id, user_id, address_tag)
SELECT $1, $2, $3::text
WHERE (SELECT count(*) FROM confirmations WHERE address_tag = $3) < $4
  AND (SELECT count(*) FROM confirmations WHERE user_id = $2) < $5
