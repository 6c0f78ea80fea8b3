-- The replay that a pass goes on from is written by the cell's role, and so by whoever has taken it. Its seal takes a key that
-- lies outside of the database; null while a pass is under way, and then the next one begins at the first event.

ALTER TABLE reconciled ADD COLUMN seal BYTEA;
