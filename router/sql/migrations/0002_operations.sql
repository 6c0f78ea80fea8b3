-- Cells come, go and are drained while routers run, and copies of the directory follow it.

-- A cell that settings no longer name is no longer withdrawn by that: operators say what becomes of cells.
ALTER TABLE cells DROP CONSTRAINT cells_state_check;
UPDATE cells SET state = 'DRAINING' WHERE state = 'WITHDRAWN';
ALTER TABLE cells ADD CONSTRAINT cells_state_check CHECK (state IN ('ACTIVE', 'DRAINING', 'DOWN'));

-- One row: which directory this is, and how often its cells have changed.
CREATE TABLE topology (
    only_one     BOOLEAN NOT NULL PRIMARY KEY DEFAULT true CHECK (only_one),
    -- Tells a copy whose original this is.
    directory_id UUID    NOT NULL DEFAULT gen_random_uuid(),
    version      BIGINT  NOT NULL DEFAULT 1
);
INSERT INTO topology DEFAULT VALUES;

-- The transaction that gave the user this home. Copies ask for all from some transaction on: every one before the
-- oldest that was still under way at the last look has been seen, whichever committed first.
ALTER TABLE users ADD COLUMN homed_by XID8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX users_homed_by ON users (homed_by, user_id);

GRANT SELECT ON topology TO cellbook_cell, cellbook_auditor;
GRANT UPDATE ON topology TO cellbook_cell;
-- A cell can be removed, unless users_home says that somebody is at home there.
GRANT DELETE ON cells TO cellbook_cell;
