-- The Merkle tree over the log (docs/log-format.md), and what was signed of it. Made beside the write path, by the
-- process that leads: a tile is written once it is full, a checkpoint every so often. Neither ever changes.

CREATE TABLE log_tiles (
    -- 0: hashes of leaves; above: roots of the tiles of the level below.
    level  SMALLINT NOT NULL,
    place  BIGINT   NOT NULL,
    hashes BYTEA    NOT NULL CHECK (octet_length(hashes) = 256 * 32),
    -- Of the whole tile: what the level above is made of, also while that has no full tile yet.
    root   BYTEA    NOT NULL CHECK (octet_length(root) = 32),
    PRIMARY KEY (level, place)
);
-- Hashes cannot be compressed, and a proof wants a few of them out of the middle.
ALTER TABLE log_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE checkpoints (
    -- It is over the events up to this position.
    size      BIGINT      NOT NULL PRIMARY KEY CHECK (size > 0),
    root      BYTEA       NOT NULL CHECK (octet_length(root) = 32),
    note      TEXT        NOT NULL,
    signed_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE cosignatures (
    size        BIGINT      NOT NULL REFERENCES checkpoints,
    -- The name of the witness's key, and the line that it adds to the note.
    witness     TEXT        NOT NULL,
    line        TEXT        NOT NULL,
    cosigned_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (size, witness)
);

COMMENT ON TABLE checkpoints IS 'Signed notes of the log''s size and root; the key lies outside of the database.';

-- What this cell has seen of the logs of others, as their witness: the last checkpoint, and the key that signs them.
CREATE TABLE witnessed (
    origin      TEXT        NOT NULL PRIMARY KEY,
    key         TEXT        NOT NULL,
    size        BIGINT      NOT NULL,
    root        BYTEA       NOT NULL,
    note        TEXT        NOT NULL,
    cosigned_at TIMESTAMPTZ NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON log_tiles
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cosignatures
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE log_tiles    ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE checkpoints  ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE cosignatures ENABLE ALWAYS TRIGGER append_only;

-- Set while an export is put back into an empty database: whatever breaks it off, no cell starts on half a log.
ALTER TABLE head ADD COLUMN importing BOOLEAN NOT NULL DEFAULT false;

-- Where a command was in progress before it has ended: an export that ends in between must not know its end.
ALTER TABLE command_outcomes ADD COLUMN begun_position BIGINT;
GRANT UPDATE (begun_position) ON command_outcomes TO cellbook_cell;

GRANT SELECT, INSERT ON log_tiles, checkpoints, cosignatures TO cellbook_cell;
GRANT SELECT, INSERT, UPDATE ON witnessed TO cellbook_cell;
GRANT SELECT ON log_tiles, checkpoints, cosignatures, witnessed TO cellbook_auditor;
