-- Which cell is home to whom. No personal data: a user is a UUID that means nothing here.

CREATE TABLE cells (
    name      TEXT    NOT NULL PRIMARY KEY,
    region    TEXT    NOT NULL CHECK (region <> ''),
    endpoints TEXT[]  NOT NULL CHECK (cardinality(endpoints) > 0),
    weight    INTEGER NOT NULL DEFAULT 100 CHECK (weight >= 0),
    state     TEXT    NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'WITHDRAWN')),
    -- For users_home: a cell with users cannot change its region under them.
    CONSTRAINT cells_in_region UNIQUE (name, region)
);

CREATE TABLE users (
    user_id       UUID        NOT NULL PRIMARY KEY,
    cell          TEXT        NOT NULL,
    -- The region of the cell, held to it by users_home.
    cell_region   TEXT        NOT NULL,
    -- Rises with every move of the user.
    epoch         BIGINT      NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    -- The region that the user's data must not leave; empty: any will do.
    residency     TEXT        NOT NULL,
    -- OPENING until the home cell has said that the account of this epoch is open.
    state         TEXT        NOT NULL DEFAULT 'OPENING' CHECK (state IN ('OPENING', 'OPEN')),
    registered_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT users_home FOREIGN KEY (cell, cell_region) REFERENCES cells (name, region),
    -- Placement obeys it already; the database says it again.
    CONSTRAINT users_residency CHECK (residency IN ('', cell_region))
) WITH (fillfactor = 80);

-- A cell's users, for its drain.
CREATE INDEX users_of_cell ON users (cell);
-- Registrations that stopped between their two steps.
CREATE INDEX users_opening ON users (user_id) WHERE state = 'OPENING';

COMMENT ON COLUMN users.residency IS
    'The region that bound the placement. users_residency and users_home together: a bound user is at home there.';

-- Nobody is forgotten: no role may delete. The role is named for the cells' processes and serves the router's as well;
-- privileges count in this database alone.
GRANT USAGE ON SCHEMA public TO cellbook_cell, cellbook_auditor;
GRANT SELECT ON cells, users TO cellbook_cell, cellbook_auditor;
GRANT INSERT, UPDATE ON cells, users TO cellbook_cell;
