-- States are TEXT of canonical JSON: it took PostgreSQL a third of its time for a bid to make JSONB of them. What is queried of
-- a state is a column beside it, which the cell writes (docs/decisions/0022-json-is-stored-as-text.md).

-- A process of an older version would leave these columns as they are. So it cannot lead any more: the one that leads is
-- deposed, and another one takes over at once.
ALTER TABLE head ADD COLUMN layout_epoch BIGINT NOT NULL DEFAULT 0;
UPDATE head SET epoch = epoch + 1, layout_epoch = epoch + 1, beat = 0;
ALTER TABLE head ADD CONSTRAINT head_claimed_with_this_layout CHECK (layout_epoch = epoch);
COMMENT ON COLUMN head.layout_epoch IS 'The epoch once more: only a process that knows the columns of states raises both.';
GRANT UPDATE (layout_epoch) ON head TO cellbook_cell;

DROP VIEW balances;

-- No bucket and no hold: the text of a negative amount. A quote within a string is escaped.
ALTER TABLE accounts
    DROP CONSTRAINT accounts_no_bucket_below_zero, DROP CONSTRAINT accounts_no_hold_below_zero,
    ALTER COLUMN has_expiry DROP EXPRESSION;
ALTER TABLE accounts
    ALTER COLUMN state TYPE TEXT,
    ADD CONSTRAINT accounts_no_bucket_below_zero CHECK (strpos(state, '_minor":"-') = 0);

ALTER TABLE assets ALTER COLUMN state TYPE TEXT;

ALTER TABLE auctions
    DROP CONSTRAINT auctions_no_escrow_below_zero,
    ALTER COLUMN status DROP EXPRESSION,
    ADD COLUMN end_time_ms BIGINT;
UPDATE auctions SET end_time_ms = (state->>'end_time_ms')::bigint;
ALTER TABLE auctions
    ALTER COLUMN state TYPE TEXT,
    ALTER COLUMN end_time_ms SET NOT NULL,
    ADD CONSTRAINT auctions_no_escrow_below_zero CHECK (strpos(state, '"escrow_minor":"-') = 0);

-- cells: all that take part, with blanks between them.
ALTER TABLE sagas
    ALTER COLUMN status DROP EXPRESSION,
    ALTER COLUMN started_ms DROP EXPRESSION,
    ADD COLUMN kind TEXT,
    ADD COLUMN paused BOOLEAN,
    ADD COLUMN cells TEXT;
UPDATE sagas SET
    kind = state->>'kind',
    paused = coalesce((state->>'paused')::boolean, false),
    cells = coalesce((
        SELECT string_agg(DISTINCT fact.value COLLATE "C", ' ' ORDER BY fact.value COLLATE "C")
        FROM jsonb_each_text(state->'facts') fact WHERE fact.key LIKE '%\_cell'), '');
ALTER TABLE sagas
    ALTER COLUMN state TYPE TEXT,
    ALTER COLUMN kind SET NOT NULL,
    ALTER COLUMN paused SET NOT NULL,
    ALTER COLUMN cells SET NOT NULL;

-- The next pass begins at the first event.
TRUNCATE reconciled_states, reconciled_house, reconciled_halts;
UPDATE reconciled SET position = 0, seal = NULL;
ALTER TABLE reconciled_states ALTER COLUMN state TYPE TEXT, ADD COLUMN columns JSONB NOT NULL;
COMMENT ON COLUMN reconciled_states.columns IS 'what the row of the aggregate holds besides: as in the view states';

-- For people, and for queries of what is in a state.
CREATE VIEW states AS
SELECT 'account' AS kind, id, stream_version, state AS stored, state::jsonb AS state,
       jsonb_build_object('has_expiry', has_expiry) AS columns
FROM accounts
UNION ALL
SELECT 'asset', id, stream_version, state, state::jsonb, '{}' FROM assets
UNION ALL
SELECT 'auction', id, stream_version, state, state::jsonb,
       jsonb_build_object('status', status, 'end_time_ms', end_time_ms)
FROM auctions
UNION ALL
SELECT 'saga', id, stream_version, state, state::jsonb,
       jsonb_build_object('status', status, 'started_ms', started_ms, 'kind', kind, 'paused', paused, 'cells', cells)
FROM sagas;

CREATE VIEW balances AS
SELECT a.id AS account_id, b.key AS currency,
       (b.value->>'available_minor')::bigint AS available_minor,
       (b.value->>'reserved_minor')::bigint  AS reserved_minor,
       (b.value->>'pending_minor')::bigint   AS pending_minor
FROM states a, jsonb_each(a.state->'balances') b WHERE a.kind = 'account';

GRANT SELECT ON states, balances TO cellbook_cell, cellbook_auditor;
