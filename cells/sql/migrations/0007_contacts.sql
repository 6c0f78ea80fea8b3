-- What is known of people, and mail to them. None of it is an event: it can be forgotten, and never leaves this database.

CREATE TABLE contacts (
    user_id      UUID        NOT NULL PRIMARY KEY,
    -- The person's own key, sealed with the cell's, which lies outside of the database.
    sealed_key   BYTEA       NOT NULL,
    name         BYTEA       NOT NULL,
    email        BYTEA       NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE contacts IS
    'Names and addresses, each sealed with a key of that person. Erasing a person deletes key and row.';

CREATE TABLE erasures (
    user_id   UUID        NOT NULL PRIMARY KEY,
    erased_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE erasures IS 'Whose contact was erased, and is not to come back: also where a backup still has it.';

CREATE TABLE outbox (
    notice_id    UUID        NOT NULL PRIMARY KEY,
    user_id      UUID        NOT NULL,
    notice       TEXT        NOT NULL,
    auction      TEXT        NOT NULL,
    currency     TEXT        NOT NULL,
    amount_minor BIGINT      NOT NULL,
    state        TEXT        NOT NULL DEFAULT 'QUEUED' CHECK (state IN
        ('QUEUED', 'SENDING', 'SENT', 'NO_ADDRESS', 'REFUSED', 'EXPIRED', 'UNCONFIRMED')),
    attempts     INTEGER     NOT NULL DEFAULT 0,
    queued_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    next_try_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended_at     TIMESTAMPTZ,
    problem      TEXT        NOT NULL DEFAULT ''
);

CREATE INDEX outbox_due ON outbox (next_try_at) WHERE state = 'QUEUED';
CREATE INDEX outbox_sending ON outbox (notice_id) WHERE state = 'SENDING';

-- The auditor reads events, and nothing of this.
GRANT SELECT, INSERT, UPDATE, DELETE ON contacts TO cellbook_cell;
GRANT SELECT, INSERT ON erasures TO cellbook_cell;
GRANT SELECT, INSERT, UPDATE ON outbox TO cellbook_cell;
