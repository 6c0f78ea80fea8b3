-- Every move that was asked for, by its caller and its id: asked again, whenever that is, it gets its first answer.
-- Kept for good: a row is some 200 bytes, and moves are rare. `moves` is what this replaces; routers of the version
-- before write it during a rolling upgrade.

CREATE TABLE move_commands (
    principal    TEXT        NOT NULL,
    command_id   UUID        NOT NULL,
    user_id      UUID        NOT NULL,
    to_cell      TEXT        NOT NULL,
    -- The residency asked for; NULL: as it was.
    region       TEXT,
    -- The home to be left, under the epoch that names it. NULL: refused before any cell was asked.
    from_cell    TEXT,
    from_epoch   BIGINT,
    -- The residency from then on, as settled when the move was first asked for.
    residency    TEXT,
    -- The answer: both unset while it is not known.
    done         BOOLEAN     NOT NULL DEFAULT false,
    -- google.rpc.Status, as it was answered.
    refusal      BYTEA,
    requested_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, command_id),
    CONSTRAINT move_commands_one_answer CHECK (NOT (done AND refusal IS NOT NULL)),
    CONSTRAINT move_commands_home CHECK (from_cell IS NOT NULL OR (refusal IS NOT NULL AND NOT done))
);
-- The last one of a user.
CREATE INDEX move_commands_of_user ON move_commands (user_id, requested_at DESC);

GRANT SELECT ON move_commands TO cellbook_cell, cellbook_auditor;
GRANT INSERT, UPDATE ON move_commands TO cellbook_cell;
