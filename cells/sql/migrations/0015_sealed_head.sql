-- Every commit seals the end of the log by a key that lies outside of the database (cells/encoding/head_seal.py). Without it, whoever
-- may write here could append an event and move the head, and the next process to lead would serve and sign it.

ALTER TABLE head ADD COLUMN seal BYTEA, ADD COLUMN sealed_since BIGINT;

COMMENT ON COLUMN head.seal IS
    'HMAC-SHA-256 over the cell, the position, sealed_since and the leaf hashes of the events between the two.';

GRANT UPDATE (seal, sealed_since) ON head TO cellbook_cell;
