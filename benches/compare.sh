#!/bin/bash
# Measures pgvalet beside what it is to be compared with, in one interleaved run on one machine:
#   direct      PostgreSQL itself, nothing between
#   relay       the floor: relay.c, bytes forwarded one to one, no pooling, no parsing
#   pgvalet     target/release/pgvalet, or the builds named by --pgvalet
#   pgbouncer, odyssey   where they are installed
# Every pooler: 20 server connections, transaction pooling, SCRAM login, plain TCP, prepared statements.
# Needs: PostgreSQL with pgbench, a C compiler, python3; strace for the system calls. Nothing is left behind.
set -Eeuo pipefail

usage() {
    cat <<'USAGE'
Usage: benches/compare.sh [OPTION ...]
  --pgvalet [NAME=]PATH[,...]  builds of pgvalet to measure, shown as pgvalet:NAME (`=PATH`: as pgvalet), or by number where
                            there are several                             (default: target/release/pgvalet, built first)
  --set 'KEY = VALUE'       a general setting for pgvalet's configuration, TOML; may be repeated
  --also 'NAME: KEY = VALUE'  the first build once more as pgvalet:NAME, with this setting; may be repeated
  --unix                    the relay and the first build once more, as relay:unix and pgvalet:unix, with Unix sockets on both sides
  --peers DIR               where bin/pgbouncer and bin/odyssey are (default: those on PATH)
  --only NAME[,NAME...]     only these systems besides the relay: direct, pgvalet, pgbouncer, odyssey
  --cells CELL[,CELL...]    KIND-CLIENTS; KIND is simple, extended, prepared, tpcb, pipeline, bulk, connect,
                            copyout or copyin; of more than 2000 clients the poolers only
                            (default: simple, extended and prepared at 1, 8 and 64 clients)
  --more                    also prepared-1000, tpcb-8, pipeline-8, bulk-4 and connect-8
  --seconds N               measured seconds a cell (default 4)
  --rounds N                rounds over all cells and systems (default 3)
  --threads N               threads of pgbench (default 1)
  --scale N                 scale of pgbench's tables (default 10)
  --syscalls CELL[,...]     cells whose system calls are counted (default simple and prepared at 8 and 64; '' for none)
  --idle N                  idle clients for the memory figure (default 2000; 0 for none)
  --write                   put the report into docs/performance.md as well
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../examples/lib/postgres.sh
. "$root/examples/lib/postgres.sh"

pgvalets='' peers='' only='direct,pgvalet,pgbouncer,odyssey' settings=() also=() unix='' seconds=4 rounds=3 threads=1 scale=10 idle=2000
cells='simple-1,simple-8,simple-64,extended-1,extended-8,extended-64,prepared-1,prepared-8,prepared-64'
syscalls='simple-8,simple-64,prepared-8,prepared-64' write=()
servers=20 # server connections of every pooler

main() {
    arguments "$@"
    check_requirements
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgvalet-compare.XXXXXX")
    trap 'warn "line $LINENO failed: $BASH_COMMAND"' ERR
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    chmod 711 "$work"
    cat /proc/loadavg >"$work/load"
    build
    start_postgres
    systems=() pids=()
    wanted direct && systems+=(--system "direct,$PG_PORT")
    start relay "$work/relay" '{port}' "$PG_PORT"
    if [ -n "$unix" ]; then
        choose_port
        start_at "$work" relay:unix "$work/relay" "$work/.s.PGSQL.{port}" "$PG_SOCKET/.s.PGSQL.$PG_PORT"
    fi
    if wanted pgvalet; then start_pgvalets; fi
    if wanted pgbouncer; then start_pgbouncer; fi
    if wanted odyssey; then start_odyssey; fi
    facts >"$work/facts"
    PGPASSWORD=bench python3 "$root/benches/compare.py" --pgbench "$PG_BIN/pgbench" --database bench --user bench \
        "${systems[@]}" --cells "$cells" --syscalls "$syscalls" --seconds "$seconds" --rounds "$rounds" \
        --threads "$threads" --idle "$idle" --facts "$work/facts" "${write[@]}" || exit 1
}

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --more) cells+=,prepared-1000,tpcb-8,pipeline-8,bulk-4,connect-8 ;;
            --unix) unix=yes ;;
            --write) write=(--write "$root/docs/performance.md") ;;
            --pgvalet | --set | --also | --peers | --only | --cells | --seconds | --rounds | --threads | --scale | --syscalls | --idle)
                [ $# -ge 2 ] || die "$1 wants a value; see --help"
                case $1 in
                    --pgvalet) pgvalets=$2 ;;
                    --set) settings+=("$2") ;;
                    --also) also+=("$2") ;;
                    --peers) peers=$(cd "$2" && pwd) ;;
                    *) printf -v "${1#--}" %s "$2" ;;
                esac
                shift
                ;;
            *) die "unknown option $1; see --help" ;;
        esac
        shift
    done
}

check_requirements() {
    local program
    pg_find || die "PostgreSQL is missing: apt-get install postgresql (or PGBIN=/path/to/its/bin)"
    [ -x "$PG_BIN/pgbench" ] || die "pgbench is missing from $PG_BIN: apt-get install postgresql-contrib"
    for program in cc python3; do
        command -v "$program" >/dev/null || die "$program is missing: apt-get install gcc libc6-dev python3"
    done
    if [ -n "$syscalls" ] && ! command -v strace >/dev/null; then
        warn 'strace is missing (apt-get install strace): no system calls in this report'
        syscalls=''
    fi
    # Each client is a descriptor of pgbench, and one or two of what stands between.
    ulimit -Sn "$(ulimit -Hn)"
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge $((2 * $(most_clients) + idle + 200)) ] ||
        die "the limit of open files ($(ulimit -n)) is too low for this many clients: ulimit -n, or fewer clients"
}

build() {
    cc -O2 -Wall -Wextra -o "$work/relay" "$root/benches/relay.c"
    if wanted pgvalet && [ -z "$pgvalets" ]; then
        (cd "$root" && cargo build --release --quiet --bin pgvalet)
        pgvalets=${CARGO_TARGET_DIR:-$root/target}/release/pgvalet
    fi
}

start_postgres() {
    # The relay and PostgreSQL itself have a backend for each client; a backend that ends lingers for a moment.
    pg_start "$work" "$(free_port)" "max_connections=$((2 * $(most_backends) + 10 * servers))" shared_buffers=256MB \
        autovacuum=off max_wal_size=4GB checkpoint_timeout=1h
    pg_psql -c "CREATE ROLE bench LOGIN PASSWORD 'bench'" -c 'CREATE DATABASE bench OWNER bench'
    PGPASSWORD=bench "$PG_BIN/pgbench" --host=127.0.0.1 --port="$PG_PORT" --username=bench --initialize --quiet \
        --scale="$scale" bench >"$work/pgbench-init.log" 2>&1 || die "$(cat "$work/pgbench-init.log")"
    PGPASSWORD=bench "$PG_BIN/psql" -XAtq -h 127.0.0.1 -p "$PG_PORT" -U bench bench \
        -c 'CREATE UNLOGGED TABLE sink (line text)' \
        -c 'CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$' \
        -c 'CREATE TRIGGER nothing BEFORE INSERT ON sink FOR EACH ROW EXECUTE FUNCTION nothing()'
    pg_psql -c 'CHECKPOINT'
}

start_pgvalets() {
    local path paths=() name number=0
    IFS=, read -ra paths <<<"$pgvalets"
    for path in "${paths[@]}"; do
        number=$((number + 1))
        name=pgvalet
        [ ${#paths[@]} = 1 ] || name=pgvalet:$number
        [[ $path != *=* ]] || name=pgvalet:${path%%=*}
        name=${name%:} path=${path#*=}
        [ -x "$path" ] || die "no such program: $path"
        start_pgvalet "$name" "$path" 127.0.0.1 "${settings[@]}"
    done
    paths[0]=${paths[0]#*=}
    for name in "${also[@]}"; do
        start_pgvalet "pgvalet:${name%%:*}" "${paths[0]}" 127.0.0.1 "${settings[@]}" "${name#*: }"
    done
    [ -z "$unix" ] || start_pgvalet pgvalet:unix "${paths[0]}" "$work" "${settings[@]}"
}

# start_pgvalet NAME PATH HOST SETTING...: HOST is 127.0.0.1, or the directory with the Unix sockets.
start_pgvalet() {
    local name=$1 path=$2 host=$3 server=127.0.0.1
    shift 3
    [ "$host" = 127.0.0.1 ] || server=$PG_SOCKET
    choose_port
    {
        printf '%s\n' "$@" "listen_port = $port" 'max_client_conn = 20000' 'log_connections = false' 'log_disconnections = false'
        if [ "$host" = 127.0.0.1 ]; then echo 'listen_addr = "127.0.0.1"'; else echo "unix_socket_dir = \"$host\""; fi
        printf '%s\n' '[databases.bench]' "host = \"$server\"" "port = $PG_PORT" "pool_size = $servers"
        printf '%s\n' '[users.bench]' 'password = "bench"'
    } >"$work/$name.toml"
    start_at "$host" "$name" "$path" "$work/$name.toml"
    described+=("$name: $("$path" --version 2>/dev/null | head -1) ($path)${*:+, with $*}")
}

start_pgbouncer() {
    local path version
    path=$(peer pgbouncer) || { warn 'pgbouncer is not installed, so it is not compared'; return; }
    version=$("$path" --version | head -1)
    if [ "$(printf '%s\n' 1.21 "${version#* }" | sort -V | head -1)" != 1.21 ]; then
        warn "$version ($path) knows no prepared statements, so it is not compared; 1.21 or later is wanted"
        return
    fi
    choose_port
    echo '"bench" "bench"' >"$work/userlist.txt"
    cat >"$work/pgbouncer.ini" <<INI
[databases]
bench = host=127.0.0.1 port=$PG_PORT
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $work/userlist.txt
pool_mode = transaction
default_pool_size = $servers
max_client_conn = 20000
max_prepared_statements = 200
log_connections = 0
log_disconnections = 0
INI
    start pgbouncer "${PG_AS[@]}" "$path" "$work/pgbouncer.ini" # it refuses to run as root, as PostgreSQL does
    described+=("$version")
}

start_odyssey() {
    local path workers
    path=$(peer odyssey) || { warn 'odyssey is not installed, so it is not compared'; return; }
    workers=${ODYSSEY_WORKERS:-1}
    choose_port
    cat >"$work/odyssey.conf" <<CONF
daemonize no
log_to_stdout yes
log_format "%p %t %l [%i %s] (%c) %m\n"
log_session no
workers $workers
listen {
    host "127.0.0.1"
    port $port
}
storage "postgres" {
    type "remote"
    host "127.0.0.1"
    port $PG_PORT
}
database "bench" {
    user "bench" {
        authentication "scram-sha-256"
        password "bench"
        storage "postgres"
        storage_user "bench"
        storage_password "bench"
        pool "transaction"
        pool_size $servers
        pool_discard no
        pool_reserve_prepared_statement yes
    }
}
CONF
    start odyssey "${PG_AS[@]}" "$path" "$work/odyssey.conf"
    described+=("$("$path" --version | head -1 | cut -d' ' -f1,2), $workers worker(s)")
}

# start NAME COMMAND...: starts a system on $port (a `{port}` in the command stands for it) and waits until it listens.
start() {
    start_at 127.0.0.1 "$@"
}

start_at() {
    local host=$1 name=$2 log=$work/$2.log
    shift 2
    [ "$name" != relay ] || choose_port
    "${@//\{port\}/$port}" >"$log" 2>&1 </dev/null &
    pids+=($!)
    systems+=(--system "$name,$port,$!,$host")
    local deadline=$((SECONDS + 15))
    while port_is_free "$port" && [ ! -S "$host/.s.PGSQL.$port" ]; do
        kill -0 $! 2>/dev/null || die "$name ended at once: $(tail -5 "$log")"
        [ "$SECONDS" -lt "$deadline" ] || die "$name does not listen on port $port: $(tail -5 "$log")"
        sleep 0.1
    done
    [[ $name = relay* ]] || PGPASSWORD=bench "$PG_BIN/psql" -XAtq -h "$host" -p "$port" -U bench -d bench -c 'SELECT 1' \
        >/dev/null || die "$name does not answer: $(tail -5 "$log")"
}

# What the report starts with: the machine and the versions.
facts() {
    local line
    echo "- Measured on $(date -u +%Y-%m-%d): $(nproc) x $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), Linux" \
        "$(uname -r), PostgreSQL $("$PG_BIN/postgres" --version | cut -d' ' -f3) with pgbench on the same machine, scale $scale."
    # What others do on the machine meanwhile does not stop a comparison, but takes much of its worth.
    awk -v cores="$(nproc)" '$1 > cores / 2 { print "- **The machine was not idle**: load average " $1 " before the start." }' "$work/load"
    for line in "${described[@]}"; do echo "- $line."; done
}

choose_port() {
    port=$(free_port)
}

# Prints where a peer is: in --peers DIR, or on PATH when no such directory was given.
peer() {
    if [ -n "$peers" ]; then [ -x "$peers/bin/$1" ] && echo "$peers/bin/$1"; else command -v "$1"; fi
}

wanted() {
    [[ ,$only, == *,$1,* ]]
}

most_clients() {
    tr , '\n' <<<"$cells,$syscalls" | sed 's/.*-//' | sort -n | tail -1
}

# The relay and PostgreSQL itself are not measured with more than 2000 clients.
most_backends() {
    tr , '\n' <<<"$cells,$syscalls" | sed 's/.*-//' | awk '$1 <= 2000' | sort -n | tail -1
}

clean_up() {
    trap '' INT TERM
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    pg_stop
    wait
    rm -rf "$work"
}

warn() {
    echo "compare: $*" >&2
}

die() {
    warn "$*"
    exit 1
}

described=() systems=() pids=() port=''
main "$@"
