-- Users move between cells, and what became of their commands goes along with them.

-- On whose behalf a command was, where no event in the stream of that user's account names it (a refusal, above all):
-- the others are found by their events, and cost nothing here.
ALTER TABLE command_outcomes ADD COLUMN user_id UUID;
CREATE INDEX command_outcomes_user ON command_outcomes (user_id, command_id) WHERE user_id IS NOT NULL;

CREATE TABLE moved_events (
    cell           TEXT        NOT NULL,
    position       BIGINT      NOT NULL,
    event_id       UUID        NOT NULL,
    event_type     TEXT        NOT NULL,
    aggregate_id   UUID        NOT NULL,
    stream_version BIGINT      NOT NULL,
    causation_id   UUID,
    correlation_id UUID        NOT NULL,
    hlc_physical   BIGINT      NOT NULL,
    hlc_logical    INTEGER     NOT NULL,
    vector_clock   JSONB       NOT NULL,
    payload        JSONB       NOT NULL,
    metadata       JSONB       NOT NULL,
    user_id        UUID,
    recorded_at    TIMESTAMPTZ NOT NULL,
    leaf_hash      BYTEA       NOT NULL,
    PRIMARY KEY (aggregate_id, cell, position)
);

COMMENT ON TABLE moved_events IS
    'Copies of the events of users'' accounts in the cells where they lived before, rows as in event_store there: each '
    'is a leaf of that cell''s tree. ACCOUNT_ARRIVED says how many there must be.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON moved_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE moved_events ENABLE ALWAYS TRIGGER append_only;

GRANT SELECT ON moved_events TO cellbook_cell, cellbook_auditor;
GRANT INSERT ON moved_events TO cellbook_cell;
