-- What each command came to, kept for a window of time: asked again by its id, it gets the same answer.

CREATE TABLE command_outcomes (
    command_id   UUID        NOT NULL,
    fingerprint  BYTEA       NOT NULL,
    outcome      JSONB       NOT NULL,
    position     BIGINT      NOT NULL,
    hlc_physical BIGINT      NOT NULL,
    hlc_logical  INTEGER     NOT NULL,
    recorded_at  TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (command_id, recorded_at)
) PARTITION BY RANGE (recorded_at);

-- A partition a week, made two weeks ahead; those that ended more than `kept` ago are dropped. The cell's role may
-- not create tables: it calls this function, which runs as its owner.
CREATE FUNCTION keep_outcome_partitions(now_at TIMESTAMPTZ, kept INTERVAL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    week  TIMESTAMPTZ;
    part  TEXT;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('keep_outcome_partitions'));
    FOR week IN SELECT generate_series(
        date_trunc('week', now_at, 'UTC') - INTERVAL '1 week', date_trunc('week', now_at, 'UTC') + INTERVAL '2 weeks',
        INTERVAL '1 week')
    LOOP
        part := 'command_outcomes_' || to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF command_outcomes FOR VALUES FROM (%L) TO (%L)',
                           part, week, week + INTERVAL '1 week');
        END IF;
    END LOOP;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'command_outcomes'::regclass
          AND c.relname < 'command_outcomes_' || to_char((now_at - kept) AT TIME ZONE 'UTC' - INTERVAL '1 week', 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE %I', part);
    END LOOP;
END
$$;
