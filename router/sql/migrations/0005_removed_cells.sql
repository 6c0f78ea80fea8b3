-- What an operator or a user was told stays so, whatever has happened since.

-- Cells that an operator has removed: settings that still name one do not bring it back, an operator's word does.
CREATE TABLE removed_cells (
    name       TEXT        NOT NULL PRIMARY KEY,
    region     TEXT        NOT NULL,
    removed_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

GRANT SELECT ON removed_cells TO cellbook_cell, cellbook_auditor;
GRANT INSERT, DELETE ON removed_cells TO cellbook_cell;

-- The residency that the user was registered with. A move may have changed it since; a registration that is sent again is
-- the same one all the same. NULL: as it is now.
ALTER TABLE users ADD COLUMN registered_residency TEXT;
