-- name: users
-- With the cell's current row: the cells in memory may be older than the user.
SELECT u.user_id, u.epoch, u.residency, coalesce(u.registered_residency, u.residency) AS registered_residency,
       u.state AS user_state,
       c.name, c.region, c.endpoints, c.weight, c.state
FROM users u JOIN cells c ON c.name = u.cell
WHERE u.user_id = ANY ($1::uuid[])

-- name: add_users
-- Skips a user whom another call or another router has already added: `users` tells which one won. Skips a user whose
-- cell accepts no new users: its row is locked against a drain, which waits for registrations in progress and rejects
-- later ones. Sorted, so that two routers with the same users wait for each other in the same order and cannot
-- deadlock.
WITH open_cells AS (
    SELECT name FROM cells WHERE name = ANY ($2::text[]) AND state = 'ACTIVE' ORDER BY name FOR SHARE
)
INSERT INTO users (user_id, cell, cell_region, residency, registered_residency)
SELECT given.user_id, given.cell, given.cell_region, given.residency, given.residency
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS given (user_id, cell, cell_region, residency)
JOIN open_cells ON open_cells.name = given.cell
ORDER BY given.user_id
ON CONFLICT (user_id) DO NOTHING

-- name: mark_open
-- Only for the epoch that was opened: the user may have moved in the meantime.
UPDATE users SET state = 'OPEN'
FROM (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS opened (user_id, epoch) ORDER BY user_id) opened
WHERE users.user_id = opened.user_id AND users.epoch = opened.epoch AND users.state = 'OPENING'

-- name: oldest_under_way
-- The effects of all earlier transactions are visible now.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- name: homed_since
-- Ordered by transaction, then by user: a page continues where the previous one ended.
SELECT user_id, cell, epoch, residency, homed_by::text::bigint AS homed_by
FROM users
WHERE homed_by >= $1::bigint::text::xid8 AND (homed_by, user_id) > ($2::bigint::text::xid8, $3::uuid)
ORDER BY homed_by, user_id
LIMIT $4

-- name: homes_after
SELECT user_id, cell, epoch, residency, state = 'OPEN' AS open FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2

-- name: adopt
-- The user's home reports the user's next home, and no other cell does. The epoch is the next one; or a few later, if
-- this directory was restored and has lost the last moves.
UPDATE users
SET cell = cells.name, cell_region = cells.region, epoch = $3, state = 'OPEN',
    residency = coalesce($4, users.residency), homed_by = pg_current_xact_id()
FROM cells
WHERE users.user_id = $1 AND cells.name = $2
    AND users.cell = $5 AND users.epoch < $3 AND $3 <= users.epoch + $6::bigint

-- name: put_home
-- By an operator's order: adds a user again whom a restored directory has lost.
INSERT INTO users (user_id, cell, cell_region, residency, epoch, state)
SELECT $1, name, region, coalesce($4, ''), $3, 'OPEN' FROM cells WHERE name = $2
ON CONFLICT (user_id) DO UPDATE
SET cell = excluded.cell, cell_region = excluded.cell_region, epoch = excluded.epoch, state = 'OPEN',
    residency = coalesce($4, users.residency), homed_by = pg_current_xact_id()
WHERE users.epoch < excluded.epoch

-- name: users_of_cell
SELECT user_id FROM users WHERE cell = $1 AND user_id > $2 ORDER BY user_id LIMIT $3

-- name: count_users_of_cell
SELECT count(*) FROM users WHERE cell = $1
