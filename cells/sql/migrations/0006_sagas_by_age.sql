-- Operators look at sagas oldest first. A column of its own, as status is: an index on what each leg changes would make
-- every update write it.
ALTER TABLE sagas
    ADD COLUMN started_ms BIGINT NOT NULL GENERATED ALWAYS AS ((state->>'started_ms')::bigint) STORED;

CREATE INDEX sagas_age ON sagas (status, started_ms, id);
