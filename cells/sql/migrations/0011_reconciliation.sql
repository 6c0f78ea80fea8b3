-- What has been reconciled: a replay of the log up to a position. The next one goes on from there, and what the tables
-- hold is compared with it. Written by the auditing, and by nothing that serves.

CREATE TABLE reconciled (
    only_one      BOOLEAN     PRIMARY KEY DEFAULT true CHECK (only_one),
    position      BIGINT      NOT NULL DEFAULT 0,
    -- Of the last pass that began at the log's first event; null before any has ended.
    full_position BIGINT,
    full_at       TIMESTAMPTZ
);

CREATE TABLE reconciled_states (
    id             UUID   NOT NULL PRIMARY KEY,
    kind           TEXT   NOT NULL,
    stream_version BIGINT NOT NULL,
    state          JSONB  NOT NULL
);

CREATE TABLE reconciled_house (
    account       TEXT   NOT NULL,
    currency      TEXT   NOT NULL,
    balance_minor BIGINT NOT NULL,
    PRIMARY KEY (account, currency)
);

-- Streams with an event that cannot be read: they are read no further.
CREATE TABLE reconciled_halts (
    id      UUID NOT NULL PRIMARY KEY,
    problem TEXT NOT NULL
);

-- Up to which position of the own log and of a peer's movements between the two have been compared, and which were open.
CREATE TABLE reconciled_clearing (
    peer           TEXT   NOT NULL PRIMARY KEY,
    position       BIGINT NOT NULL,
    peer_position  BIGINT NOT NULL,
    open           UUID[] NOT NULL
);

CREATE TABLE quarantine (
    kind    TEXT        NOT NULL,
    id      UUID        NOT NULL,
    problem TEXT        NOT NULL,
    since   TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, id)
);

COMMENT ON TABLE quarantine IS
    'Aggregates whose present state is known to be wrong. Nothing is decided by it until it has been rebuilt.';

GRANT SELECT, INSERT, UPDATE, DELETE ON reconciled, reconciled_states, reconciled_house, reconciled_halts,
    reconciled_clearing, quarantine TO cellbook_cell;
GRANT SELECT ON reconciled, reconciled_states, reconciled_house, reconciled_halts, reconciled_clearing, quarantine
    TO cellbook_auditor;

-- Rows are added in the order of their positions: such an index is a page or two, and costs an insert next to nothing.
CREATE INDEX account_entries_position     ON account_entries     USING brin (position) WITH (pages_per_range = 16);
CREATE INDEX clearing_entries_position    ON clearing_entries    USING brin (position) WITH (pages_per_range = 16);
CREATE INDEX saga_legs_position           ON saga_legs           USING brin (position) WITH (pages_per_range = 16);
CREATE INDEX external_references_position ON external_references USING brin (position) WITH (pages_per_range = 16);
CREATE INDEX command_outcomes_position    ON command_outcomes    USING brin (position) WITH (pages_per_range = 16);

-- But only of ranges of pages that have been summed up, which VACUUM does, whenever it comes. Takes no content from its
-- caller; the owner alone may sum up.
CREATE FUNCTION summarize_positions() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM brin_summarize_new_values(i.indexrelid::regclass)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'brin' AND c.relkind = 'i' AND c.relnamespace = 'public'::regnamespace;
END
$$;

REVOKE ALL ON FUNCTION summarize_positions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION summarize_positions() TO cellbook_cell;
