-- name: make
-- SQLite. In WAL mode readers and the writer do not wait for each other; with this synchronous mode a power cut may
-- lose the last copies but never damages the file.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS facts (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cells (
    name      TEXT    NOT NULL PRIMARY KEY,
    region    TEXT    NOT NULL,
    endpoints TEXT    NOT NULL,
    weight    INTEGER NOT NULL,
    state     TEXT    NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS users (
    user_id   BLOB    NOT NULL PRIMARY KEY,
    cell      TEXT    NOT NULL,
    epoch     INTEGER NOT NULL,
    residency TEXT    NOT NULL
) WITHOUT ROWID;

-- name: forget_facts
DELETE FROM facts

-- name: facts
SELECT name, value FROM facts

-- name: put_fact
INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)

-- name: cells
SELECT name, region, endpoints, weight, state FROM cells

-- name: forget_cells
DELETE FROM cells

-- name: put_cell
INSERT INTO cells (name, region, endpoints, weight, state) VALUES (?, ?, ?, ?, ?)

-- name: forget_users
DELETE FROM users

-- name: put_user
-- A home with a lower epoch is older, whichever arrives last: a restored database yields to what is known.
INSERT INTO users (user_id, cell, epoch, residency) VALUES (?, ?, ?, ?)
ON CONFLICT (user_id) DO UPDATE
SET cell = excluded.cell, epoch = excluded.epoch, residency = excluded.residency
WHERE excluded.epoch >= users.epoch

-- name: user
SELECT cell, epoch, residency FROM users WHERE user_id = ?
