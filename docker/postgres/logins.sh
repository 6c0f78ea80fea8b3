#!/usr/bin/env bash
# Makes the logins of Cellbook's processes once, together with the database (docs/security.md). The process's login has only
# the role cellbook_cell, so it cannot change the log; the login for migrations owns the tables. Neither is a superuser, and
# no process has the superuser's password.
set -euo pipefail
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set login="$CELLBOOK_LOGIN" --set password="$CELLBOOK_PASSWORD" --set migrate="$CELLBOOK_MIGRATE_PASSWORD" <<'SQL'
CREATE ROLE cellbook_owner;
CREATE ROLE cellbook_cell;
CREATE ROLE cellbook_auditor;
CREATE ROLE migrating LOGIN PASSWORD :'migrate' IN ROLE cellbook_owner, cellbook_cell, cellbook_auditor;
CREATE ROLE :"login" LOGIN PASSWORD :'password' IN ROLE cellbook_cell;
CREATE DATABASE cellbook OWNER migrating;
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
SQL
