-- What follows from the log: the present state of every aggregate, in the same transaction as its events.
-- A row holds the full state, so that a cache miss never replays a stream. Amounts are decimal strings.

CREATE TABLE accounts (
    id             UUID   NOT NULL PRIMARY KEY,
    stream_version BIGINT NOT NULL,
    state          JSONB  NOT NULL,
    -- A column of its own, because an index on what changes with every bid would make every update write it.
    has_expiry     BOOLEAN NOT NULL GENERATED ALWAYS AS
        (jsonb_path_exists(state, '$.holds.*.expire_time_ms ? (@ != null)')) STORED,
    CONSTRAINT accounts_no_bucket_below_zero
        CHECK (NOT jsonb_path_exists(state, '$.balances.*.* ? (@ starts with "-")')),
    CONSTRAINT accounts_no_hold_below_zero
        CHECK (NOT jsonb_path_exists(state, '$.holds.*.amount_minor ? (@ starts with "-")'))
) WITH (fillfactor = 50);

CREATE TABLE assets (
    id             UUID   NOT NULL PRIMARY KEY,
    stream_version BIGINT NOT NULL,
    state          JSONB  NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE auctions (
    id             UUID   NOT NULL PRIMARY KEY,
    stream_version BIGINT NOT NULL,
    state          JSONB  NOT NULL,
    status         TEXT   NOT NULL GENERATED ALWAYS AS (state->>'state') STORED,
    CONSTRAINT auctions_no_escrow_below_zero CHECK (NOT (state->>'escrow_minor') ^@ '-')
) WITH (fillfactor = 50);

-- Lists by state, and at a leader's start the auctions that are still to end. A bid leaves both columns as they
-- are, so that its update stays within the page.
CREATE INDEX auctions_status ON auctions (status, id);

CREATE TABLE sagas (
    id             UUID   NOT NULL PRIMARY KEY,
    stream_version BIGINT NOT NULL,
    state          JSONB  NOT NULL,
    status         TEXT   NOT NULL GENERATED ALWAYS AS (state->>'state') STORED
) WITH (fillfactor = 50);

-- A leader takes up the few that have not ended, among all that have.
CREATE INDEX sagas_status ON sagas (status, id);

CREATE TABLE house_balances (
    account       TEXT   NOT NULL,
    currency      TEXT   NOT NULL,
    balance_minor BIGINT NOT NULL,
    PRIMARY KEY (account, currency)
) WITH (fillfactor = 20);

-- Holds that expire, for the timers.
CREATE INDEX accounts_with_expiring_holds ON accounts (id) WHERE has_expiry;

-- For people: the same in columns.
CREATE VIEW balances AS
SELECT a.id AS account_id, b.key AS currency,
       (b.value->>'available_minor')::bigint AS available_minor,
       (b.value->>'reserved_minor')::bigint  AS reserved_minor,
       (b.value->>'pending_minor')::bigint   AS pending_minor
FROM accounts a, jsonb_each(a.state->'balances') b;

CREATE VIEW postings AS
SELECT e.position, e.event_id, e.event_type, p.value->>'account' AS account, p.value->>'currency' AS currency,
       (p.value->>'amount_minor')::bigint AS amount_minor
FROM event_store e, jsonb_array_elements(e.payload->'postings') p;
