-- The copy of a history counts from the arrival on. Until then it is staged: rows of moved_events beyond what the
-- ACCOUNT_ARRIVED events in this cell's log say. Staged rows can be deleted, rows that count never.

-- Moves into this cell that have brought something and have not arrived. Without news for long, such a move has ended.
CREATE TABLE incoming_moves (
    user_id    UUID        NOT NULL PRIMARY KEY,
    touched_at TIMESTAMPTZ NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON incoming_moves TO cellbook_cell;
GRANT SELECT ON incoming_moves TO cellbook_auditor;

-- Moves that were called off before this table existed may have left copies; the sweep finds out.
INSERT INTO incoming_moves (user_id, touched_at) SELECT DISTINCT aggregate_id, now() FROM moved_events;

CREATE INDEX event_store_arrivals ON event_store (aggregate_id) WHERE event_type = 'ACCOUNT_ARRIVED';
-- By version: how much of a stream is here is the highest version, since a copy has no gaps.
CREATE INDEX moved_events_stream ON moved_events (aggregate_id, cell, stream_version);
-- What an arrival reads of a long history.
CREATE INDEX moved_events_carried ON moved_events (aggregate_id, cell, position) WHERE event_type IN (
    'DEPOSITED', 'WITHDRAWN', 'ESCROW_SENT', 'ESCROW_RETURNED', 'PENDING_CREDITED', 'PENDING_REVERSED',
    'PENDING_SETTLED', 'PARTY_NOTIFIED', 'REMOTE_TRANSFER_RECEIVED');

-- How many events of a user's account in an earlier home count here: as many as the last arrival says.
CREATE FUNCTION counted_events(of_user UUID, in_cell TEXT) RETURNS BIGINT
LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(max((home->>'events')::bigint), 0)
    FROM event_store e CROSS JOIN LATERAL jsonb_array_elements(e.payload->'earlier_homes') home
    WHERE e.aggregate_id = of_user AND e.event_type = 'ACCOUNT_ARRIVED' AND home->>'cell' = in_cell
$$;

CREATE FUNCTION refuse_unless_staged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.stream_version <= counted_events(OLD.aggregate_id, OLD.cell) THEN
        RAISE EXCEPTION '% of % is not allowed: what has happened stays', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END
$$;

DROP TRIGGER append_only ON moved_events;
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON moved_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER counted_stays BEFORE DELETE ON moved_events
    FOR EACH ROW EXECUTE FUNCTION refuse_unless_staged();
ALTER TABLE moved_events ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE moved_events ENABLE ALWAYS TRIGGER counted_stays;

-- Deletes up to at_most staged events of a user, the last ones first, so that no gap is left; and after the last of
-- them the outcomes that came along, unless the user has lived here. Returns how many events were deleted.
CREATE FUNCTION drop_staged(of_user UUID, at_most INTEGER) RETURNS BIGINT
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
        DELETE FROM command_outcomes WHERE user_id = of_user AND cell IS NOT NULL;
    END IF;
    RETURN dropped;
END
$$;

-- The cells of which anything is here of a user, one after the other from the index.
CREATE FUNCTION moved_cells(of_user UUID) RETURNS TABLE (cell TEXT, held BIGINT)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
    WITH RECURSIVE known (name) AS (
        (SELECT m.cell FROM moved_events m WHERE m.aggregate_id = of_user ORDER BY m.cell LIMIT 1)
        UNION ALL
        SELECT (SELECT m.cell FROM moved_events m WHERE m.aggregate_id = of_user AND m.cell > known.name
                ORDER BY m.cell LIMIT 1)
        FROM known WHERE known.name IS NOT NULL
    )
    SELECT name, (SELECT max(m.stream_version) FROM moved_events m WHERE m.aggregate_id = of_user AND m.cell = name)
    FROM known WHERE name IS NOT NULL
$$;

REVOKE EXECUTE ON FUNCTION drop_staged(UUID, INTEGER) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_staged(UUID, INTEGER) TO cellbook_cell;
