-- An erasure counts in every home that a person had: a backup of an earlier one may still hold the contact.

CREATE TABLE erasures_elsewhere (
    user_id  UUID        NOT NULL,
    cell     TEXT        NOT NULL,
    again_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, cell)
);

COMMENT ON TABLE erasures_elsewhere IS
    'Earlier homes that have answered the erasure of a user who is at home here, and when each is asked again.';

GRANT SELECT, INSERT, UPDATE ON erasures_elsewhere TO cellbook_cell;
