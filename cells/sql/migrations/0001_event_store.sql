-- The log of a cell. What has happened is never changed: UPDATE, DELETE and TRUNCATE raise.

CREATE TABLE head (
    -- One row: a database belongs to one cell.
    only_one     BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_one),
    cell         TEXT    NOT NULL,
    epoch        BIGINT  NOT NULL DEFAULT 0,
    position     BIGINT  NOT NULL DEFAULT 0,
    hlc_bound_ms BIGINT  NOT NULL DEFAULT 0,
    beat         BIGINT  NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

COMMENT ON TABLE head IS
    'Who may write (epoch), where the log ends (position), and up to when the clock was promised. Every commit '
    'moves it by compare-and-set on (epoch, position): that fences out a deposed writer and makes positions gapless.';

CREATE TABLE event_store (
    position       BIGINT      NOT NULL,
    event_id       UUID        NOT NULL PRIMARY KEY,
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
    CONSTRAINT event_store_position UNIQUE (position),
    CONSTRAINT event_store_stream UNIQUE (aggregate_id, stream_version),
    CONSTRAINT event_store_logical_has_16_bits CHECK (hlc_logical BETWEEN 0 AND 65535)
);

-- A flow is followed by its correlation, in the order of the log; an effect is found by its cause.
CREATE INDEX event_store_correlation ON event_store (correlation_id, position);
CREATE INDEX event_store_causation ON event_store (causation_id) WHERE causation_id IS NOT NULL;

CREATE TABLE account_entries (
    account_id       UUID   NOT NULL,
    currency         TEXT   NOT NULL,
    position         BIGINT NOT NULL,
    available_change BIGINT NOT NULL,
    reserved_change  BIGINT NOT NULL,
    pending_change   BIGINT NOT NULL,
    available_after  BIGINT NOT NULL,
    reserved_after   BIGINT NOT NULL,
    pending_after    BIGINT NOT NULL,
    PRIMARY KEY (account_id, currency, position),
    CONSTRAINT account_entries_no_bucket_below_zero
        CHECK (available_after >= 0 AND reserved_after >= 0 AND pending_after >= 0)
);

COMMENT ON TABLE account_entries IS
    'A row per event and user account that it moves, with the balance after it: a balance at any past moment is one '
    'index lookup. Derived from the events.';

CREATE TABLE clearing_entries (
    clearing_id  UUID   NOT NULL,
    position     BIGINT NOT NULL,
    peer         TEXT   NOT NULL,
    currency     TEXT   NOT NULL,
    amount_minor BIGINT NOT NULL,
    PRIMARY KEY (clearing_id, position)
);

COMMENT ON TABLE clearing_entries IS
    'Postings to clearing/{peer}. Both sides of a movement between cells share clearing_id: what is in transit is the '
    'movements whose postings, over all cells, do not sum to zero.';

CREATE TABLE saga_legs (
    leg_id    UUID   NOT NULL,
    direction TEXT   NOT NULL CHECK (direction IN ('action', 'compensation')),
    result    TEXT   NOT NULL CHECK (result IN ('APPLIED', 'UNDONE', 'TOMBSTONED')),
    event_id  UUID   NOT NULL,
    position  BIGINT NOT NULL,
    -- The barrier, once more: no leg has a second effect.
    PRIMARY KEY (leg_id, direction)
);

CREATE TABLE external_references (
    reference_id UUID   NOT NULL PRIMARY KEY,
    kind         TEXT   NOT NULL,
    reference    TEXT   NOT NULL,
    position     BIGINT NOT NULL,
    CONSTRAINT external_references_once_per_kind UNIQUE (kind, reference)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is not allowed: what has happened stays', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

-- ENABLE ALWAYS: session_replication_role must not be a way round.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_store
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON account_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON clearing_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON saga_legs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON external_references
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE event_store         ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE account_entries     ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE clearing_entries    ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE saga_legs           ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE external_references ENABLE ALWAYS TRIGGER append_only;
