-- name: adopt
-- The highest epoch is right, whatever was known here: a directory that was restored has forgotten the last moves.
INSERT INTO users (user_id, cell, cell_region, residency, epoch, state)
SELECT $1, name, region, coalesce($4, ''), $3, 'OPEN' FROM cells WHERE name = $2
ON CONFLICT (user_id) DO UPDATE
SET cell = excluded.cell, cell_region = excluded.cell_region, epoch = excluded.epoch, state = 'OPEN',
    residency = coalesce($4, users.residency), homed_by = pg_current_xact_id()
WHERE users.epoch < excluded.epoch

-- name: move
SELECT user_id, command_id, from_cell, to_cell, residency FROM moves WHERE user_id = $1

-- name: note_move
INSERT INTO moves (user_id, command_id, from_cell, to_cell, residency) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id) DO UPDATE
SET command_id = excluded.command_id, from_cell = excluded.from_cell, to_cell = excluded.to_cell,
    residency = excluded.residency, requested_at = now()

-- name: users_of_cell
SELECT user_id FROM users WHERE cell = $1 AND user_id > $2 ORDER BY user_id LIMIT $3

-- name: count_users_of_cell
SELECT count(*) FROM users WHERE cell = $1
