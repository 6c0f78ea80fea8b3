-- name: server
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       pg_is_in_recovery() AS is_replica,
       extract(epoch FROM clock_timestamp())::float8 AS now_s,
       pg_database_size(current_database()) AS size_bytes,
       (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS is_superuser,
       session_user::text AS login

-- name: settings
-- As a session of the cell sees them: a role or a database may override them.
SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])

-- name: roles
SELECT wanted AS name, coalesce(pg_has_role(session_user, oid, 'SET'), false) AS may_take
FROM unnest($1::text[]) AS wanted LEFT JOIN pg_roles ON rolname = wanted

-- name: log
-- The rights of the cell's role on the log, and whether the trigger that protects it from other roles is in place.
SELECT to_regclass('event_store') IS NOT NULL AS exists,
       coalesce((SELECT string_agg(privilege, ', ')
                 FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
                 WHERE has_table_privilege('cellbook_cell', to_regclass('event_store'), privilege)
                    OR (privilege = 'UPDATE'
                        AND has_any_column_privilege('cellbook_cell', to_regclass('event_store'), privilege))),
                '') AS too_much,
       coalesce((SELECT bool_and(tgenabled = 'A') FROM pg_trigger
                 WHERE tgrelid = to_regclass('event_store') AND NOT tgisinternal), false) AS guarded

-- name: take_role
SET ROLE cellbook_cell

-- name: migrations
SELECT version, checksum FROM schema_migrations

-- name: head
SELECT cell, epoch, position FROM head

-- name: replicas
-- Without pg_monitor or superuser rights only their existence is visible.
SELECT count(*) AS all, count(sync_state) AS seen,
       count(*) FILTER (WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming') AS synchronous
FROM pg_stat_replication
