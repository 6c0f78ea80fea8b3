-- An address gets notices once its owner has confirmed it, and before that a few mails that ask for it, and no others.

-- Of the very contents that were confirmed: whatever is put in their place has another key, and is not.
ALTER TABLE contacts ADD COLUMN proven_seal BYTEA;

COMMENT ON COLUMN contacts.proven_seal IS 'Equal to sealed_key where the address was confirmed by its owner.';

CREATE TABLE confirmations (
    confirmation_id UUID        NOT NULL PRIMARY KEY,
    user_id         UUID        NOT NULL,
    -- A keyed hash: says which are for one address, and not which address.
    address_tag     TEXT        NOT NULL,
    asked_at        TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE INDEX confirmations_by_address ON confirmations (address_tag, asked_at);
CREATE INDEX confirmations_by_user ON confirmations (user_id, asked_at);
CREATE INDEX confirmations_by_age ON confirmations (asked_at);

COMMENT ON TABLE confirmations IS
    'Mails of one day that have asked for a confirmation: only so many go to an address, and for a person.';

GRANT SELECT, INSERT, DELETE ON confirmations TO cellbook_cell;
