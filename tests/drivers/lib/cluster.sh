# shellcheck shell=bash
# The PostgreSQL, the pgvalet and the rotator that the driver suites run against.
#
# To be sourced by tests/drivers/run.sh, after tests/lib/postgres.sh. Owns one temporary directory, $work, and every
# process in it; a guard ends them when `stop_all` is called or the script is killed. No port is fixed: PostgreSQL gets
# a random one below the kernel's range for outgoing connections, pgvalet any free one.

readonly driver_user=driver driver_password='pa55 word' driver_database=driver
# A superuser, for suites that create roles and databases (through pgvalet too).
readonly admin_user=driver_admin

pgvalet_pid=
pg_port=
pgvalet_port=
guard_pid=
guard_pipe=

# The guard lives as long as this script holds the pipe to it. Each line it reads is a process to end with it.
start_guard() {
    mkfifo "$work/guard"
    setsid bash -c '
        exec 0<"$1/guard"
        while read -r pid; do pids+=("$pid"); done
        [ ${#pids[@]} = 0 ] || kill -TERM "${pids[@]}"
        postgres=$(head -1 "$1/data/postmaster.pid")
        if [ -n "$postgres" ]; then
            kill -QUIT "$postgres"
            for _ in {1..100}; do kill -0 "$postgres" || break; sleep 0.1; done
        fi
        [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}"
        rm -rf "$1/data" "$1/guard"
        [ ! -e "$1/passed" ] || rm -rf "$1"
    ' guard "$work" >/dev/null 2>&1 &
    guard_pid=$!
    exec {guard_pipe}>"$work/guard"
}

# guard PID: ends with us.
guard() { echo "$1" >&"$guard_pipe"; }

# stop_all: ends every process; the logs stay unless `$work/passed` exists.
stop_all() {
    [ -n "$guard_pid" ] || return 0
    exec {guard_pipe}>&-
    wait "$guard_pid" || true
}

# wait_until WHAT COMMAND...: until it succeeds, at most 30 seconds.
wait_until() {
    local what=$1 deadline=$((SECONDS + 30))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || { echo "drivers: gave up waiting for $what" >&2; return 1; }
        sleep 0.05
    done
}

# direct_sql SQL [DATABASE]: as superuser, straight to PostgreSQL.
direct_sql() {
    psql -X -q -At -v ON_ERROR_STOP=1 -h "$work" -p "$pg_port" -U postgres -d "${2:-$driver_database}" -c "$1"
}

start_cluster() {
    local attempt owner
    owner=$(server_user)
    if [ "$(id -u)" = 0 ]; then chown "$owner" "$work"; fi
    chmod 755 "$work"
    as_server_user "$pg_bin/initdb" -U postgres -A trust -E UTF8 --locale=C --no-sync -D "$work/data" >"$work/initdb.log" ||
        { cat "$work/initdb.log" >&2; return 1; }
    for attempt in {1..20}; do
        pg_port=$((20000 + RANDOM % 12000))
        as_server_user tee "$work/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $pg_port
unix_socket_directories = '$work'
max_connections = 200
max_prepared_transactions = 20
wal_level = logical
shared_buffers = 64MB
fsync = off
synchronous_commit = off
full_page_writes = off
dynamic_shared_memory_type = mmap
log_line_prefix = '%m %p %u@%d '
timezone = 'UTC'
datestyle = 'iso, mdy'
lc_messages = 'C'
CONF
        as_server_user tee "$work/data/pg_hba.conf" >/dev/null <<CONF
local all postgres trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
CONF
        if as_server_user "$pg_bin/pg_ctl" start -w -s -D "$work/data" -l "$work/postgres.log" \
            >"$work/pg_ctl.log" 2>&1 {guard_pipe}>&-; then
            break
        fi
        [ "$attempt" -lt 20 ] && grep -q 'Address already in use' "$work/postgres.log" ||
            { cat "$work/postgres.log" >&2; return 1; }
    done
    direct_sql "CREATE ROLE $driver_user LOGIN CREATEDB PASSWORD '$driver_password'" postgres
    direct_sql "CREATE ROLE $admin_user LOGIN SUPERUSER PASSWORD '$driver_password'" postgres
    direct_sql "CREATE DATABASE $driver_database OWNER $driver_user" postgres
}

start_pgvalet() {
    (umask 077 && cat >"$work/pgvalet.toml") <<CONF
listen_addr = "127.0.0.1"
listen_port = 0
workers = 2
pool_mode = "transaction"
default_pool_size = 2
stats_users = ["$admin_user"]

[databases."*"]
host = "127.0.0.1"
port = $pg_port

[users.$driver_user]
password = "$driver_password"

[users.$admin_user]
password = "$driver_password"
# Foreign suites let clients go in the middle of long queries, and wait only fractions of a second for what comes next.
pool_size = 20
CONF
    NO_COLOR=1 "$pgvalet_bin" "$work/pgvalet.toml" >/dev/null 2>"$work/pgvalet.log" </dev/null {guard_pipe}>&- &
    pgvalet_pid=$!
    guard "$pgvalet_pid"
    wait_until 'pgvalet to be ready' pgvalet_ready_or_gone && pgvalet_runs || { cat "$work/pgvalet.log" >&2; return 1; }
    pgvalet_port=$(sed -nE 's/.* listening address="?127\.0\.0\.1:([0-9]+).*/\1/p' "$work/pgvalet.log" | head -1)
    [ -n "$pgvalet_port" ] || { echo "drivers: pgvalet did not say where it listens" >&2; return 1; }
}

pgvalet_ready_or_gone() { grep -q ' ready' "$work/pgvalet.log" || ! pgvalet_runs; }

pgvalet_runs() { kill -0 "$pgvalet_pid" 2>/dev/null; }

start_rotator() {
    PGHOST=127.0.0.1 PGPORT=$pgvalet_port PGUSER=$driver_user PGPASSWORD=$driver_password PGDATABASE=$driver_database \
        bash "$here/lib/rotator.sh" >"$work/rotator.log" 2>&1 </dev/null {guard_pipe}>&- &
    guard $!
    wait_until 'the rotator to rotate servers' servers_rotate
}

# Whether one client's transactions in a row land on two servers.
servers_rotate() {
    local commands=() pids
    for _ in {1..20}; do commands+=(-c 'SELECT pg_backend_pid()'); done
    pids=$(PGPASSWORD=$driver_password psql -X -q -At -h 127.0.0.1 -p "$pgvalet_port" -U "$driver_user" \
        "${commands[@]}" "$driver_database" | sort -u | wc -l)
    [ "$pids" = 2 ]
}

# Leaves nothing of one suite to the next.
clean_database() {
    direct_sql "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION $driver_user"
}
