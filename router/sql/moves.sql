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
