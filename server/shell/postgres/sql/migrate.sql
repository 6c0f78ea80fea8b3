-- name: lock
-- Held until the migrations are committed. It covers this database only; the roles have their own guard below.
SELECT pg_advisory_xact_lock(4242017)

-- name: bootstrap
DO $$
DECLARE
    wanted TEXT;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['cellbook_owner', 'cellbook_cell', 'cellbook_auditor'] LOOP
        -- Roles belong to the whole cluster: another of its databases may create them at the same moment.
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        BEGIN
            IF NOT pg_has_role(current_user, wanted, 'SET') THEN
                EXECUTE format('GRANT %I TO %I', wanted, current_user);
            END IF;
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
    END LOOP;
    IF NOT has_schema_privilege('cellbook_owner', 'public', 'CREATE') THEN
        GRANT CREATE, USAGE ON SCHEMA public TO cellbook_owner;
    END IF;
END
$$

-- name: become_owner
SET LOCAL ROLE cellbook_owner

-- name: make_table
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER     NOT NULL PRIMARY KEY,
    name       TEXT        NOT NULL,
    checksum   TEXT        NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)

-- name: applied
SELECT version, name, checksum FROM schema_migrations

-- name: hold_writer
-- A cell's writer locks its head first and the tables after that, in an order of its own. Held there it has nothing that a
-- migration may want, so that neither waits for the other.
DO $$
BEGIN
    IF to_regclass('public.head') IS NOT NULL THEN
        LOCK TABLE head IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END
$$

-- name: record
INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)
