-- name: cells
SELECT name, region, endpoints, weight, state FROM cells ORDER BY name

-- name: put_cells
-- Region, weight and, where an operator has set another, state are not for the settings to change. Sorted, as other
-- routers may be starting: rows are locked in the same order everywhere.
INSERT INTO cells (name, region, endpoints)
SELECT name, region, string_to_array(endpoints, '+')
FROM unnest($1::text[], $2::text[], $3::text[]) AS given (name, region, endpoints)
ORDER BY name
ON CONFLICT (name) DO UPDATE
SET endpoints = excluded.endpoints,
    state = CASE cells.state WHEN 'WITHDRAWN' THEN 'ACTIVE' ELSE cells.state END

-- name: withdraw_cells
UPDATE cells SET state = 'WITHDRAWN' WHERE state = 'ACTIVE' AND name <> ALL ($1::text[]) RETURNING name

-- name: users
-- With the cell's row of this moment: the picture in memory may be older than the user.
SELECT u.user_id, u.epoch, u.residency, u.state AS user_state,
       c.name, c.region, c.endpoints, c.weight, c.state
FROM users u JOIN cells c ON c.name = u.cell
WHERE u.user_id = ANY ($1::uuid[])

-- name: add_users
-- Nothing is done to a user who is there already, by another call or another router: `users` tells who has won.
-- Sorted, so that two routers with the same users in hand wait for each other and never in a circle.
INSERT INTO users (user_id, cell, cell_region, residency)
SELECT user_id, cell, cell_region, residency
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS given (user_id, cell, cell_region, residency)
ORDER BY user_id
ON CONFLICT (user_id) DO NOTHING

-- name: mark_open
-- Only the epoch that was opened: the user may have been moved meanwhile.
UPDATE users SET state = 'OPEN'
FROM (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS opened (user_id, epoch) ORDER BY user_id) opened
WHERE users.user_id = opened.user_id AND users.epoch = opened.epoch AND users.state = 'OPENING'
