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

-- A partition a week: those round `now_at` are made, two weeks ahead, and those that ended more than 30 days ago
-- are dropped. The cell's role may neither create nor drop tables: it calls this, which runs as its owner.
--
-- `now_at` is the writer's clock, which outcomes are stored by. What is old is old by the database's clock as
-- well: neither a clock that was set ahead nor whoever may call this can make outcomes be forgotten early, and
-- then a command sent again would happen again.
--
-- Both need the table for themselves. Whoever reads it for long (a backup) is not worth a wait: commands would wait
-- with it. There are two weeks of partitions left, and the next day has its own try.
CREATE FUNCTION keep_outcome_partitions(now_at TIMESTAMPTZ) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    kept  CONSTANT INTERVAL    := INTERVAL '30 days';
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
