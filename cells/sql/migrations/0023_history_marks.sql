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

-- What has been decided since the last look, among all that a user has brought along.
CREATE INDEX command_outcomes_recent ON command_outcomes (user_id, recorded_at) WHERE user_id IS NOT NULL AND NOT in_stream;

-- As before, but for the outcomes: at_most of them, too.
CREATE OR REPLACE FUNCTION drop_staged(of_user UUID, at_most INTEGER) RETURNS BIGINT
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    in_cell TEXT;
    dropped BIGINT := 0;
    just    BIGINT;
BEGIN
    FOR in_cell IN SELECT cell FROM moved_cells(of_user) LOOP
        DELETE FROM moved_events m USING (
            SELECT s.cell, s.position FROM moved_events s
            WHERE s.aggregate_id = of_user AND s.cell = in_cell
              AND s.stream_version > counted_events(of_user, in_cell)
            ORDER BY s.stream_version DESC LIMIT at_most - dropped
        ) staged
        WHERE m.aggregate_id = of_user AND m.cell = staged.cell AND m.position = staged.position;
        GET DIAGNOSTICS just = ROW_COUNT;
        dropped := dropped + just;
    END LOOP;
    IF dropped < at_most AND NOT EXISTS (
        SELECT FROM event_store WHERE aggregate_id = of_user AND event_type = 'ACCOUNT_ARRIVED'
    ) THEN
        DELETE FROM command_outcomes o USING (
            SELECT command_id, principal, recorded_at FROM command_outcomes
            WHERE user_id = of_user AND NOT in_stream AND cell IS NOT NULL LIMIT at_most - dropped
        ) brought
        WHERE (o.command_id, o.principal, o.recorded_at) = (brought.command_id, brought.principal, brought.recorded_at);
        GET DIAGNOSTICS just = ROW_COUNT;
        dropped := dropped + just;
    END IF;
    RETURN dropped;
END
$$;
