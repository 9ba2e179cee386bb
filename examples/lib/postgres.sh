# shellcheck shell=bash
# A throwaway PostgreSQL for scripts: sourced by examples/quickstart.sh and benches/compare.sh.
#
# Owns finding the programs of PostgreSQL, one cluster in a directory of its own, and the choice of ports. The caller
# owns the directory and calls pg_stop from its EXIT trap. PostgreSQL refuses to run as root, so root runs the cluster
# as `postgres` or `nobody`; everybody else runs it as themselves.
#
# The superuser `postgres` gets in without a password through the socket in $PG_SOCKET, which only the cluster's owner
# and root can reach. TCP on 127.0.0.1 wants SCRAM.

PG_BIN='' # programs of PostgreSQL, set by pg_find
PG_SOCKET='' # directory of the Unix socket, set by pg_start
PG_PORT='' # port, set by pg_start
PG_AS=() # prefix that runs a command as the cluster's owner, set by pg_start
PG_DATA=''

# Finds the newest installed PostgreSQL, or the one whose programs are in $PGBIN. Fails when there is none.
pg_find() {
    local candidate candidates=()
    if [ -n "${PGBIN:-}" ]; then
        candidates=("$PGBIN")
    else
        mapfile -t candidates < <(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV)
        candidates+=("$(command -v postgres | xargs -r dirname)" "$(pg_config --bindir 2>/dev/null)")
    fi
    for candidate in "${candidates[@]}"; do
        if [ -x "$candidate/postgres" ] && [ -x "$candidate/initdb" ]; then
            PG_BIN=$candidate
            return 0
        fi
    done
    return 1
}

# pg_start DIR PORT [NAME=VALUE ...]: makes a cluster under DIR and starts it with the settings given.
# DIR has to be reachable by the cluster's owner (mode 711 or more).
pg_start() {
    local dir=$1 setting owner
    PG_PORT=$2
    shift 2
    PG_DATA=$dir/data
    PG_SOCKET=$dir/socket
    mkdir "$PG_DATA" "$PG_SOCKET"
    chmod 700 "$PG_DATA" "$PG_SOCKET"
    if [ "$(id -u)" = 0 ]; then
        owner=$(id -un postgres 2>/dev/null || echo nobody)
        PG_AS=(setpriv "--reuid=$owner" "--regid=$(id -g "$owner")" --clear-groups --)
        chown "$owner" "$PG_DATA" "$PG_SOCKET"
    fi
    pg_run initdb --pgdata="$PG_DATA" --username=postgres --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; return 1; }
    {
        printf '%s\n' "listen_addresses = '127.0.0.1'" "port = $PG_PORT" "unix_socket_directories = '$PG_SOCKET'"
        printf '%s\n' 'password_encryption = scram-sha-256' 'fsync = off' 'full_page_writes = off'
        for setting in "$@"; do printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}"; done
    } | "${PG_AS[@]}" tee -a "$PG_DATA/postgresql.conf" >/dev/null
    if ! pg_run pg_ctl --pgdata="$PG_DATA" --log="$PG_DATA/server.log" --silent --wait start >"$dir/start.log" 2>&1; then
        cat "$dir/start.log" "$PG_DATA/server.log" >&2
        return 1
    fi
}

# Stops the cluster if it was started. Its data is worthless, so it is not asked to shut down in an orderly way.
pg_stop() {
    [ -n "$PG_DATA" ] && [ -f "$PG_DATA/postmaster.pid" ] || return 0
    pg_run pg_ctl --pgdata="$PG_DATA" --mode=immediate --silent --wait stop >/dev/null 2>&1 || true
}

# psql as the superuser of the cluster.
pg_psql() {
    "$PG_BIN/psql" --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host="$PG_SOCKET" --port="$PG_PORT" --username=postgres \
        --dbname=postgres "$@"
}

# Runs a program of PostgreSQL as the cluster's owner, in a directory that the owner can enter.
pg_run() {
    local program=$1
    shift
    (cd "$PG_DATA/.." && "${PG_AS[@]}" "$PG_BIN/$program" "$@")
}

# Whether nothing listens on this port of 127.0.0.1.
port_is_free() {
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Prints a free port, below the range that the kernel takes for outgoing connections.
free_port() {
    local port
    while port=$((15000 + RANDOM % 15000)); ! port_is_free "$port"; do :; done
    echo "$port"
}
