-- name: directory_id
SELECT directory_id FROM topology

-- name: topology
-- In one statement, so that cells and version are consistent.
SELECT t.directory_id, t.version, c.name, c.region, c.endpoints, c.weight, c.state
FROM topology t LEFT JOIN cells c ON true
ORDER BY c.name

-- name: lock
-- Every change of cells locks this row first, so changes run one after the other and cannot deadlock.
SELECT version FROM topology FOR UPDATE

-- name: keep_command
INSERT INTO operator_commands (principal, command_id, fingerprint) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING

-- name: kept_command
SELECT fingerprint FROM operator_commands WHERE principal = $1 AND command_id = $2

-- name: changed
UPDATE topology SET version = version + 1

-- name: cell
SELECT name, region, endpoints, weight, state FROM cells WHERE name = $1

-- name: removed
SELECT name, region FROM removed_cells WHERE name = ANY ($1::text[])

-- name: keep_removed
INSERT INTO removed_cells (name, region) SELECT name, region FROM cells WHERE name = $1
ON CONFLICT DO NOTHING

-- name: bring_back
DELETE FROM removed_cells WHERE name = $1

-- name: put_cells
-- Region, state and, unless given, weight stay unchanged: users may be bound to the region, and only operators change
-- the others.
INSERT INTO cells (name, region, endpoints, weight)
SELECT name, region, string_to_array(endpoints, '+'), coalesce(weight, $5)
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS given (name, region, endpoints, weight)
ON CONFLICT (name) DO UPDATE
SET endpoints = excluded.endpoints,
    weight = coalesce(($4::int[])[array_position($1::text[], cells.name)], cells.weight)
WHERE cells.region = excluded.region
  AND (cells.endpoints, cells.weight) IS DISTINCT FROM
      (excluded.endpoints, coalesce(($4::int[])[array_position($1::text[], cells.name)], cells.weight))

-- name: set_weight
UPDATE cells SET weight = $2 WHERE name = $1 AND weight <> $2

-- name: set_state
UPDATE cells SET state = $2 WHERE name = $1 AND state <> $2

-- name: remove
DELETE FROM cells WHERE name = $1

-- name: count_users
SELECT cell, count(*) AS users FROM users GROUP BY cell
