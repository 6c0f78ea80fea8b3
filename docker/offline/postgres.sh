#!/usr/bin/env bash
# Handles these variables as the official image does, and no others.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    initdb --username "$POSTGRES_USER" --pwfile <(echo "$POSTGRES_PASSWORD") --auth-local trust --auth-host scram-sha-256 > /dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl --wait --options "-c listen_addresses='' -c unix_socket_directories=/tmp" start > /dev/null
    export PGHOST=/tmp
    for script in /docker-entrypoint-initdb.d/*.sh; do
        bash "$script"
    done
    pg_ctl --wait stop > /dev/null
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
