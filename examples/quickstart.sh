#!/bin/bash
# See pgvalet at work: 1,000 concurrent clients on 10 connections of a throwaway PostgreSQL, with the configuration of
# config/pgvalet.toml unchanged. Stays up afterwards to be tried by hand; Ctrl-C ends it and leaves nothing behind.
#
# Usage: bash examples/quickstart.sh [--once]        --once ends after the show
#
# Wants a Rust toolchain; installs PostgreSQL and a C compiler with apt where they are missing. Runs as root or as anybody.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib/packages.sh
. "$root/examples/lib/packages.sh"
# shellcheck source=lib/postgres.sh
. "$root/examples/lib/postgres.sh"

config=$root/config/pgvalet.toml
clients=1000 seconds=15 once=''
programs=${CARGO_TARGET_DIR:-$root/target}/release
work='' valet=''

main() {
    arguments "$@"
    install_what_is_missing
    allow_many_files

    work=$(mktemp -d "${TMPDIR:-/tmp}/pgvalet-quickstart.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    chmod 711 "$work" # PostgreSQL may have to run as another user
    read_config

    step 'Building pgvalet (the first time this takes some minutes)'
    (cd "$root" && cargo build --release --quiet --bin pgvalet --example clients)
    [ -x "$programs/pgvalet" ] || die "cargo did not put pgvalet into $programs; set CARGO_TARGET_DIR"

    start_postgres
    start_pgvalet
    show
    by_hand
}

arguments() {
    case ${1:-} in
        '') ;;
        --once) once=yes ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
}

install_what_is_missing() {
    local packages=()
    [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] && PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || die 'cargo is missing. Get Rust from https://rustup.rs, then run this again.'
    pg_find || packages+=(postgresql)
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    [ ${#packages[@]} -gt 0 ] || return 0

    step "Installing ${packages[*]} with apt"
    { install_packages "${packages[@]}" && pg_find; } || die "These packages are missing and could not be installed from here:
    sudo apt-get install ${packages[*]}
Install them, then run this again. (PGBIN= tells where the programs of a PostgreSQL elsewhere are.)"
}

# A thousand clients are a thousand open files in the load program and in pgvalet.
allow_many_files() {
    local wanted=4096 limit
    limit=$(ulimit -Hn)
    [ "$limit" = unlimited ] || [ "$limit" -ge $wanted ] || wanted=$limit
    [ "$(ulimit -Sn)" = unlimited ] || [ "$(ulimit -Sn)" -ge "$wanted" ] || ulimit -Sn "$wanted"
    if [ "$wanted" -lt $((clients + 200)) ]; then
        clients=$((wanted - 200))
        [ "$clients" -gt 0 ] || die "Only $limit open files are allowed here (ulimit -Hn); at least 400 are needed."
        say "Only $limit open files are allowed here (ulimit -Hn), so there will be $clients clients."
    fi
}

# Takes from the configuration what the show has to know: it is meant to be shown as it is, so nothing is repeated here.
read_config() {
    # Its sudo is for a PostgreSQL of the system; here the owner of the cluster is asked through its socket.
    create_role=$(sed -n 's/^# *\(sudo -u [a-z]* \)\{0,1\}\(psql .*CREATE ROLE.*\)/\2/p' "$config")
    [ -n "$create_role" ] || die "$config has no psql command at its top that creates the role"
    listen_port=$(setting '' listen_port 6432)
    server_port=$(setting databases.app port 5432)
    password=$(setting users.app password)
    user=app
    port_is_free "$listen_port" ||
        die "Port $listen_port of 127.0.0.1 is taken (another pooler?). pgvalet listens there, by listen_port in
    $config: stop the other one, then run this again."
    port=$server_port
    if ! port_is_free "$port"; then
        port=$(free_port)
        config=$work/pgvalet.toml
        awk -v port="$port" '
            /^[ \t]*\[/ { in_app = $0 ~ /^[ \t]*\[databases\.app\]/ }
            in_app && /^[ \t]*port[ \t]*=/ { next }
            { print }
            /^[ \t]*\[databases\.app\]/ { print "port = " port }' "$root/config/pgvalet.toml" >"$config"
        chmod 600 "$config"
        say "Port $server_port of 127.0.0.1 is taken, probably by a PostgreSQL of yours, which is left alone. The throwaway one"
        say "listens on port $port, and pgvalet gets a copy of config/pgvalet.toml in which only that port differs."
    fi
}

# setting SECTION KEY [DEFAULT]: prints a value of the configuration, without its quotes.
setting() {
    local value
    value=$(awk -v section="$1" -v key="$2" '
        /^[ \t]*\[/ { here = $0; gsub(/[][ \t]|#.*/, "", here) }
        here == section && $1 == key { sub(/^[^=]*=[ \t]*/, ""); print; exit }' "$config")
    value=${value%%#*}
    value=${value%"${value##*[![:space:]]}"}
    value=${value#\"}
    value=${value%\"}
    echo "${value:-${3:-}}"
}

start_postgres() {
    step "Starting a throwaway PostgreSQL $("$PG_BIN/postgres" --version | cut -d' ' -f3) on 127.0.0.1:$port"
    pg_start "$work" "$port" shared_buffers=128MB synchronous_commit=off
    say "$create_role"
    # The command is the one that the configuration asks its reader to run; it may go through the socket or over TCP.
    local superuser
    superuser=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    pg_psql <<<"ALTER ROLE postgres PASSWORD '$superuser'"
    PATH=$PG_BIN:$PATH PGHOST=$PG_SOCKET PGPORT=$PG_PORT PGUSER=postgres PGPASSWORD=$superuser \
        bash -c "$create_role" >/dev/null
    pg_psql -c 'CREATE SCHEMA quickstart AUTHORIZATION app'
}

start_pgvalet() {
    local deadline=$((SECONDS + 20)) log=$work/pgvalet.log
    step "Starting pgvalet: pgvalet ${config#"$root/"}"
    "$programs/pgvalet" "$config" 2>"$log" &
    valet=$!
    until grep -qw ready "$log"; do
        kill -0 "$valet" 2>/dev/null || die "pgvalet ended at once. It said:"$'\n'"$(tail -20 "$log")"
        [ "$SECONDS" -lt "$deadline" ] || die "pgvalet is not ready after 20 s. It said:"$'\n'"$(tail -20 "$log")"
        sleep 0.1
    done
    address="host=127.0.0.1 port=$listen_port user=$user password=$password"
}

show() {
    step "$clients clients on $(setting databases.app pool_size 20) server connections, for $seconds seconds"
    local status=0
    "$programs/examples/clients" --clients "$clients" --seconds "$seconds" --connect "$address dbname=app" \
        --schema quickstart --observe "host=$PG_SOCKET port=$PG_PORT user=postgres dbname=postgres" \
        --console "$address dbname=pgvalet" --pid "$valet" || status=$?
    if [ "$status" != 0 ]; then
        tail -20 "$work/pgvalet.log" >&2
        die 'Something went wrong, see above; the last lines of the log of pgvalet are there too.'
    fi
}

by_hand() {
    [ -z "$once" ] || return 0
    step 'pgvalet stays up. Try it by hand from another terminal:'
    say "psql 'postgresql://$user:$password@127.0.0.1:$listen_port/app'"
    say "psql 'postgresql://$user:$password@127.0.0.1:$listen_port/pgvalet' -c 'SHOW POOLS'"
    echo
    say "Its log is $work/pgvalet.log. Ctrl-C ends it all and leaves nothing behind."
    wait "$valet" || die "pgvalet ended by itself. It said:"$'\n'"$(tail -20 "$work/pgvalet.log")"
}

clean_up() {
    trap '' INT TERM
    if [ -n "$valet" ]; then
        kill -INT "$valet" 2>/dev/null || true
        local deadline=$((SECONDS + 5))
        while kill -0 "$valet" 2>/dev/null; do
            [ "$SECONDS" -lt "$deadline" ] || kill -KILL "$valet" 2>/dev/null || true
            sleep 0.1
        done
    fi
    pg_stop
    rm -rf "$work"
}

step() {
    printf '\n%s\n' "$*"
}

say() {
    printf '  %s\n' "$*"
}

die() {
    printf '\nquickstart: %s\n' "$*" >&2
    exit 1
}

main "$@"
