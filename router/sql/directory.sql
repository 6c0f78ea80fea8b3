-- name: users
-- With the cell's row of this moment: the picture in memory may be older than the user.
SELECT u.user_id, u.epoch, u.residency, coalesce(u.registered_residency, u.residency) AS registered_residency,
       u.state AS user_state,
       c.name, c.region, c.endpoints, c.weight, c.state
FROM users u JOIN cells c ON c.name = u.cell
WHERE u.user_id = ANY ($1::uuid[])

-- name: add_users
-- Nothing is done to a user who is there already, by another call or another router: `users` tells who has won. Nor to
-- one whose cell takes nobody any more: its row is locked against a drain, which waits for those who were in time, and
-- whoever comes after it is sent away. Sorted, so that two routers with the same users in hand wait for each other and
-- never in a circle.
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
-- Only the epoch that was opened: the user may have been moved meanwhile.
UPDATE users SET state = 'OPEN'
FROM (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS opened (user_id, epoch) ORDER BY user_id) opened
WHERE users.user_id = opened.user_id AND users.epoch = opened.epoch AND users.state = 'OPENING'

-- name: oldest_under_way
-- Whatever was done by a transaction before this one can be seen now.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- name: homed_since
-- By whom, then by user: a page goes on where the one before it ended.
SELECT user_id, cell, epoch, residency, homed_by::text::bigint AS homed_by
FROM users
WHERE homed_by >= $1::bigint::text::xid8 AND (homed_by, user_id) > ($2::bigint::text::xid8, $3::uuid)
ORDER BY homed_by, user_id
LIMIT $4
