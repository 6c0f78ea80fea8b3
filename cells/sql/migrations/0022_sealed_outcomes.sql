-- An answer to a command is sealed by a key that lies outside of the database: nothing else tells of a refusal, which has no
-- event, and no sum proves what an acceptance says. Rows of before have no seal; they are gone after 31 days.

ALTER TABLE command_outcomes ADD COLUMN seal BYTEA;

COMMENT ON COLUMN command_outcomes.seal IS
    'BLAKE2b with a key over the command id, the position, the stamp and the outcome (cells/encoding/outcome_seal.py).';

GRANT UPDATE (seal) ON command_outcomes TO cellbook_cell;
