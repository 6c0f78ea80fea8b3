-- name: put
INSERT INTO outbox (notice_id, user_id, notice, auction, currency, amount_minor)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (notice_id) DO NOTHING

-- name: due
SELECT notice_id, user_id, notice, auction, currency, amount_minor, attempts,
       extract(epoch FROM now() - queued_at)::float8 AS age_s, problem
FROM outbox WHERE state = 'QUEUED' AND next_try_at <= now()
ORDER BY next_try_at LIMIT $1

-- name: claim
-- The process that changes it from QUEUED sends it.
UPDATE outbox SET state = 'SENDING' WHERE notice_id = $1 AND state = 'QUEUED'

-- name: end
UPDATE outbox SET state = $2, problem = $3, attempts = attempts + 1, ended_at = now() WHERE notice_id = $1

-- name: put_off
UPDATE outbox
SET state = 'QUEUED', problem = $2, attempts = attempts + 1, next_try_at = now() + make_interval(secs => $3)
WHERE notice_id = $1 AND state = $4

-- name: give_up_unknown
-- A process died while it was sending: whether the server accepted it is unknown, and a duplicate would be worse than a
-- loss.
UPDATE outbox SET state = 'UNCONFIRMED', problem = 'the process ended while it was sending', ended_at = now()
WHERE state = 'SENDING'

-- name: waiting
SELECT count(*),
       coalesce(extract(epoch FROM now() - min(queued_at)), 0)::float8,
       extract(epoch FROM min(next_try_at) - now())::float8
FROM outbox WHERE state = 'QUEUED'

-- name: forget
DELETE FROM outbox WHERE notice_id IN (
    SELECT notice_id FROM outbox WHERE ended_at < now() - make_interval(days => $1) ORDER BY ended_at LIMIT $2
)
