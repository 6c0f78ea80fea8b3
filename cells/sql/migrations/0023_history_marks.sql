-- The history copy of a user is asked for the legs that were taken and the references that were used up at earlier
-- homes. So an arrival makes the same few events however long the history is.

-- mark: 'action' or 'compensation' of the leg whose barrier is mark_id, 'reference' of that id, '' of nothing. NULL: of
--   a program that does not know of marks; no arrival counts such a row without carrying what it marks by events.
-- chain: SHA-256 over the link of the event before it and its own leaf hash. ACCOUNT_ARRIVED says the last one.
ALTER TABLE moved_events
    ADD COLUMN mark    TEXT COLLATE "C" DEFAULT '',
    ADD COLUMN mark_id UUID,
    ADD COLUMN chain   BYTEA;
-- What arrived before carried what it marks by events of its own. A move that is under way copies anew.
ALTER TABLE moved_events ALTER COLUMN mark DROP DEFAULT;
SELECT drop_staged(user_id, 2147483647) FROM incoming_moves;

ALTER TABLE moved_events DISABLE TRIGGER append_only;
DO $$
DECLARE
    copied RECORD;
    link   BYTEA;
BEGIN
    FOR copied IN SELECT * FROM moved_events ORDER BY aggregate_id, cell, stream_version LOOP
        link := sha256(CASE copied.stream_version WHEN 1 THEN '' ELSE link END || copied.leaf_hash);
        UPDATE moved_events SET chain = link
        WHERE (aggregate_id, cell, position) = (copied.aggregate_id, copied.cell, copied.position);
    END LOOP;
END
$$;
ALTER TABLE moved_events ENABLE ALWAYS TRIGGER append_only;

-- A plan that was made while the table was empty is kept. The order leaves it one index to choose.
CREATE FUNCTION set_link() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    NEW.chain := sha256(coalesce((SELECT m.chain FROM moved_events m
                                  WHERE m.aggregate_id = NEW.aggregate_id AND m.cell = NEW.cell
                                    AND m.stream_version < NEW.stream_version
                                  ORDER BY m.stream_version DESC LIMIT 1), '') || NEW.leaf_hash);
    RETURN NEW;
END
$$;
CREATE TRIGGER chained BEFORE INSERT ON moved_events FOR EACH ROW EXECUTE FUNCTION set_link();
ALTER TABLE moved_events ENABLE ALWAYS TRIGGER chained;

CREATE INDEX moved_events_marks ON moved_events (mark_id) WHERE mark_id IS NOT NULL;
CREATE INDEX moved_events_unmarked ON moved_events (aggregate_id, cell) WHERE mark IS NULL;
-- What an arrival read of a long history.
DROP INDEX moved_events_arrival;
