-- Changes of cells that operators have made under an id of their own: sent again, whenever that is, they change nothing.
-- Kept for good: operators are few, and change little.

CREATE TABLE operator_commands (
    principal   TEXT        NOT NULL,
    command_id  UUID        NOT NULL,
    -- SHA-256 of the request.
    fingerprint BYTEA       NOT NULL,
    done_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, command_id)
);

GRANT SELECT ON operator_commands TO cellbook_cell, cellbook_auditor;
GRANT INSERT ON operator_commands TO cellbook_cell;
