-- States as they were, so that a question about the past need not read a stream from its beginning. Made outside of
-- the write path from the events alone; whoever does not believe one leaves it out, and gets the same answer later.

CREATE TABLE snapshots (
    aggregate_id   UUID   NOT NULL,
    -- Of the event after which the state was this.
    position       BIGINT NOT NULL,
    stream_version BIGINT NOT NULL,
    kind           TEXT   NOT NULL,
    -- Canonical JSON, as text: the hash is over its bytes.
    state          TEXT   NOT NULL,
    leaf_hash      BYTEA  NOT NULL,
    state_hash     BYTEA  NOT NULL,
    PRIMARY KEY (aggregate_id, position)
);

COMMENT ON TABLE snapshots IS
    'state_hash is SHA-256 over leaf_hash, the hash of the event after which the state was this, and state.';

CREATE TABLE house_snapshots (
    position   BIGINT NOT NULL PRIMARY KEY,
    -- Account -> currency -> minor units as a decimal string: the sum of all postings up to the position. The buckets of
    -- users are three accounts, "users/available" and so on.
    balances   TEXT   NOT NULL,
    leaf_hash  BYTEA  NOT NULL,
    state_hash BYTEA  NOT NULL
);

CREATE TABLE snapshot_progress (
    only_one BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_one),
    -- All snapshots up to there are made.
    position BIGINT  NOT NULL DEFAULT 0
);
INSERT INTO snapshot_progress DEFAULT VALUES;

-- A snapshot that is found wrong is thrown away, and made again from the events.
GRANT SELECT, INSERT, DELETE ON snapshots, house_snapshots TO cellbook_cell;
GRANT SELECT, UPDATE (position) ON snapshot_progress TO cellbook_cell;
GRANT SELECT ON snapshots, house_snapshots, snapshot_progress TO cellbook_auditor;
