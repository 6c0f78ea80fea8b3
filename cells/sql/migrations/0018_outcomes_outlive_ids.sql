-- An id of version 7 is refused 30 days after it was made, by the clock of whoever made it, which may be a day ahead: so
-- long its outcome must be known. All else as before.
CREATE OR REPLACE FUNCTION keep_outcome_partitions(now_at TIMESTAMPTZ) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    kept  CONSTANT INTERVAL    := INTERVAL '31 days';
    since CONSTANT TIMESTAMPTZ := least(now_at, now()) - kept;
    week  TIMESTAMPTZ;
    part  TEXT;
BEGIN
    -- Two processes may come at once: one claims while the other still writes.
    PERFORM pg_advisory_xact_lock('command_outcomes'::regclass::oid::bigint);
    FOR week IN
        SELECT date_trunc('week', now_at, 'UTC') + n * INTERVAL '1 week' FROM generate_series(-1, 2) n
    LOOP
        part := 'command_outcomes_' || to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass('public.' || part) IS NULL THEN
            EXECUTE format('CREATE TABLE public.%I PARTITION OF public.command_outcomes FOR VALUES FROM (%L) TO (%L)',
                           part, week, week + INTERVAL '1 week');
        END IF;
    END LOOP;
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'public.command_outcomes'::regclass
          -- Named for the day that it begins on; it ends a week later.
          AND to_date(right(c.relname, 8), 'YYYYMMDD') + 7 <= (since AT TIME ZONE 'UTC')::date
    LOOP
        EXECUTE format('DROP TABLE public.%I', part);
    END LOOP;
END
$$;
