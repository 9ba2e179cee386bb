#!/usr/bin/env bash
# The rotator: other clients that lease the servers of one pool for a moment again and again, so that consecutive
# transactions of one client land on different servers. Which pool: PGUSER and PGDATABASE, in the pgvalet at PGHOST and
# PGPORT. It runs until it is killed with SIGTERM; should a suite cut its clients off, they come back.
set -u
script=$(mktemp)
child=
trap 'kill "$child" 2>/dev/null; rm -f "$script"; exit 0' TERM
cat >"$script" <<'SQL'
\set pause random(100, 2000)
BEGIN;
SELECT pg_sleep(random() * 0.002) AS rotator;
COMMIT;
\sleep :pause us
SQL
pgbench=$(command -v pgbench || printf "%s\n" "${PGVALET_PG_BIN:-/none}/pgbench" /usr/lib/postgresql/*/bin/pgbench | tail -1)
starter=$PPID
while kill -0 "$starter" 2>/dev/null; do
    # A thread for each client: pgbench prepares blockingly, and must not wait for a server that another client of the
    # same thread holds.
    "$pgbench" -n -c 4 -j 4 -T 3600 -M prepared -f "$script" &
    child=$!
    wait "$child"
done
rm -f "$script"
