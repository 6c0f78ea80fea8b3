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

-- name: move
SELECT user_id, to_cell, region, from_cell, from_epoch, residency, principal, command_id, done, refusal
FROM move_commands WHERE principal = $1 AND command_id = $2

-- name: last_move
SELECT user_id, to_cell, region, from_cell, from_epoch, residency, principal, command_id, done, refusal
FROM move_commands WHERE user_id = $1 AND from_cell IS NOT NULL
ORDER BY requested_at DESC LIMIT 1

-- name: add_move
-- The first of two concurrent requests counts: `move` tells which.
INSERT INTO move_commands (user_id, to_cell, region, from_cell, from_epoch, residency, principal, command_id, done,
refusal) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING

-- name: redirect_move
-- The user lived elsewhere before the move began.
UPDATE move_commands SET from_cell = $3, from_epoch = $4
WHERE principal = $1 AND command_id = $2 AND NOT done AND refusal IS NULL

-- name: answer_move
-- The first answer stays.
UPDATE move_commands SET done = $3, refusal = $4
WHERE principal = $1 AND command_id = $2 AND NOT done AND refusal IS NULL

-- name: users_of_cell
SELECT user_id FROM users WHERE cell = $1 AND user_id > $2 ORDER BY user_id LIMIT $3

-- name: count_users_of_cell
SELECT count(*) FROM users WHERE cell = $1
