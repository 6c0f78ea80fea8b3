-- A plain hash beside a snapshot can be made by anybody who can make the snapshot. A seal takes a key that lies outside of
-- the database. Rows without one, of a version before, are passed over, and made again.

ALTER TABLE snapshots       ADD COLUMN seal BYTEA;
ALTER TABLE house_snapshots ADD COLUMN seal BYTEA;
ALTER TABLE snapshots       ALTER COLUMN state_hash DROP NOT NULL;
ALTER TABLE house_snapshots ALTER COLUMN state_hash DROP NOT NULL;

COMMENT ON TABLE snapshots IS
    'seal is HMAC-SHA-256 over the row and the hash of its event, by a key that follows from the one of checkpoints.';
COMMENT ON COLUMN snapshots.state_hash IS 'of versions before seals: no longer read';
COMMENT ON COLUMN house_snapshots.state_hash IS 'of versions before seals: no longer read';

-- Each full pass of the reconciliation compares them with its replay, in the order of the log.
CREATE INDEX snapshots_position ON snapshots (position);

UPDATE snapshot_progress SET position = 0;
GRANT UPDATE (state, leaf_hash, seal, stream_version, kind) ON snapshots TO cellbook_cell;
GRANT UPDATE (balances, leaf_hash, seal) ON house_snapshots TO cellbook_cell;
