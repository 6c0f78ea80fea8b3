-- The last move of each user, for who asks how it gets on. What counts is in the logs of the cells.

CREATE TABLE moves (
    user_id      UUID        NOT NULL PRIMARY KEY,
    command_id   UUID        NOT NULL,
    from_cell    TEXT        NOT NULL,
    to_cell      TEXT        NOT NULL,
    residency    TEXT        NOT NULL,
    requested_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

GRANT SELECT ON moves TO cellbook_cell, cellbook_auditor;
GRANT INSERT, UPDATE ON moves TO cellbook_cell;
