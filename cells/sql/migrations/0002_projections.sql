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

-- Timers at the start of a leader: the auctions that are still to end.
CREATE INDEX auctions_active ON auctions (id) WHERE status = 'ACTIVE';
CREATE INDEX auctions_status ON auctions (status, id);

CREATE TABLE sagas (
    id             UUID   NOT NULL PRIMARY KEY,
    stream_version BIGINT NOT NULL,
    state          JSONB  NOT NULL,
    status         TEXT   NOT NULL GENERATED ALWAYS AS (state->>'state') STORED
) WITH (fillfactor = 50);

CREATE INDEX sagas_not_ended ON sagas (id) WHERE status NOT IN ('COMPLETED', 'COMPENSATED');

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
