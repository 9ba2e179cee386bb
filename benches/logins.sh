#!/bin/bash
# Measures what logins cost: clients that connect, log in by SCRAM (over TLS 1.3 with a full handshake, and without TLS), run one
# query and leave; what a client that stays waits meanwhile; and the memory of clients that stay idle.
# pgvalet and pgbouncer take turns within each round; both know the same SCRAM verifier and have the same certificate.
# Needs: PostgreSQL, openssl, a Rust toolchain; pgbouncer 1.21 or later on PATH or in --peers. Nothing is left behind.
set -Eeuo pipefail

usage() {
    cat <<'USAGE'
Usage: benches/logins.sh [OPTION ...]
  --pgvalet PATH[,PATH...]  builds of pgvalet to measure (default: target/release/pgvalet, built first)
  --storm PATH              the load client (default: built first)
  --peers DIR               where bin/pgbouncer is (default: the one on PATH)
  --cells CELL[,CELL...]    KIND-CLIENTS; KIND is tls or plain (default: tls-8, tls-500, plain-8, plain-500)
  --key ecdsa|rsa           kind of the certificate's key (default ecdsa: P-256; rsa: 2048 bits)
  --seconds N               seconds of each measurement (default 3)
  --rounds N                rounds over all cells and systems (default 3)
  --idle N                  idle clients over TLS for the memory figure (default 1000; 0 for none)
  --set 'KEY = VALUE'       a general setting for pgvalet's configuration, TOML; may be repeated
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../examples/lib/postgres.sh
. "$root/examples/lib/postgres.sh"

pgvalets='' storm='' peers='' cells='tls-8,tls-500,plain-8,plain-500' key=ecdsa seconds=3 rounds=3 idle=1000 settings=()
servers=20

main() {
    arguments "$@"
    pg_find || die 'PostgreSQL is missing: apt-get install postgresql'
    command -v openssl >/dev/null || die 'openssl is missing: apt-get install openssl'
    ulimit -Sn "$(ulimit -Hn)"
    build
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgvalet-logins.XXXXXX")
    trap 'warn "line $LINENO failed: $BASH_COMMAND"' ERR
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    chmod 711 "$work"
    identity
    pg_start "$work" "$(free_port)" max_connections=200 autovacuum=off
    pg_psql -c "CREATE ROLE bench LOGIN PASSWORD 'bench'" -c 'CREATE DATABASE bench OWNER bench'
    verifier=$(pg_psql -At -c "SELECT rolpassword FROM pg_authid WHERE rolname = 'bench'")
    start_pgvalets
    start_pgbouncer
    # First: what storms have taken of memory is kept for the next one.
    [ "$idle" = 0 ] || memory >"$work/memory"
    local round
    for ((round = 0; round < rounds; round++)); do measure "$round"; done
    report
    [ "$idle" = 0 ] || cat "$work/memory"
}

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --set) settings+=("$2") ;;
            --peers) peers=$(cd "$2" && pwd) ;;
            --pgvalet) pgvalets=$2 ;;
            --storm | --cells | --key | --seconds | --rounds | --idle) printf -v "${1#--}" %s "$2" ;;
            *) die "unknown option $1; see --help" ;;
        esac
        shift 2
    done
}

build() {
    local target=${CARGO_TARGET_DIR:-$root/target}
    if [ -z "$pgvalets" ]; then
        (cd "$root" && cargo build --release --quiet --bin pgvalet)
        pgvalets=$target/release/pgvalet
    fi
    if [ -z "$storm" ]; then
        (cd "$root" && cargo build --profile tool --quiet --example storm)
        storm=$target/tool/examples/storm
    fi
}

# A certificate that signs itself, for all poolers.
identity() {
    local algorithm=(ec -pkeyopt ec_paramgen_curve:P-256)
    [ "$key" = ecdsa ] || algorithm=(rsa:2048)
    openssl req -x509 -newkey "${algorithm[@]}" -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout "$work/tls.key" -out "$work/tls.crt" 2>"$work/openssl.log" || die "$(cat "$work/openssl.log")"
    chmod 600 "$work/tls.key"
}

start_pgvalets() {
    local path paths=() number=0 name port
    IFS=, read -ra paths <<<"$pgvalets"
    for path in "${paths[@]}"; do
        number=$((number + 1))
        name=pgvalet
        [ ${#paths[@]} = 1 ] || name=$(basename "$path")
        port=$(free_port)
        {
            printf '%s\n' "${settings[@]}" 'listen_addr = "127.0.0.1"' "listen_port = $port" 'client_tls_sslmode = "allow"' \
                "client_tls_cert_file = \"$work/tls.crt\"" "client_tls_key_file = \"$work/tls.key\"" \
                'server_tls_sslmode = "disable"' 'log_connections = false' 'log_disconnections = false'
            printf '%s\n' '[databases.bench]' 'host = "127.0.0.1"' "port = $PG_PORT" "pool_size = $servers"
            printf '%s\n' '[users.bench]' "password = \"$verifier\""
        } >"$work/pgvalet$number.toml"
        chmod 600 "$work/pgvalet$number.toml"
        start "$name" "$port" "$path" "$work/pgvalet$number.toml"
    done
}

start_pgbouncer() {
    local path port
    path=${peers:+$peers/bin/}pgbouncer
    command -v "$path" >/dev/null || { warn 'pgbouncer is not installed, so it is not compared'; return; }
    port=$(free_port)
    printf '"bench" "%s"\n' "$verifier" >"$work/userlist.txt"
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
log_connections = 0
log_disconnections = 0
client_tls_sslmode = allow
client_tls_cert_file = $work/pgbouncer.crt
client_tls_key_file = $work/pgbouncer.key
server_tls_sslmode = disable
INI
    cp "$work/tls.crt" "$work/pgbouncer.crt"
    cp "$work/tls.key" "$work/pgbouncer.key"
    [ ${#PG_AS[@]} = 0 ] || chown "$(stat -c %U "$PG_DATA")" "$work/pgbouncer."{crt,key} "$work/userlist.txt"
    start pgbouncer "$port" "${PG_AS[@]}" "$path" "$work/pgbouncer.ini" # it refuses to run as root
}

# start NAME PORT COMMAND...: starts a pooler and lets the first login through it open its servers.
start() {
    local name=$1 port=$2 log=$work/$1.log deadline=$((SECONDS + 15))
    shift 2
    "$@" >"$log" 2>&1 </dev/null &
    systems+=("$name") ports[$name]=$port pids[$name]=$!
    while port_is_free "$port"; do
        kill -0 "${pids[$name]}" 2>/dev/null || die "$name ended at once: $(tail -5 "$log")"
        [ "$SECONDS" -lt "$deadline" ] || die "$name does not listen: $(tail -5 "$log")"
        sleep 0.1
    done
    storm "$name" tls 8 0.5 >/dev/null
}

# storm NAME KIND CLIENTS SECONDS [MODE]: what the load client prints.
storm() {
    local mode=()
    [ -z "${5:-}" ] || mode=("$5")
    "$storm" "${mode[@]}" "127.0.0.1:${ports[$1]}" bench bench bench "$3" "$4" "$2"
}

# Nanoseconds that all threads of a process were on a processor.
cpu() {
    cat /proc/"$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# One round: each system in each cell, alone and then beside a client that stays. The order rotates.
measure() {
    local cell kind clients name before after line turn
    for cell in ${cells//,/ }; do
        kind=${cell%-*} clients=${cell#*-}
        for ((turn = 0; turn < ${#systems[@]}; turn++)); do
            name=${systems[(turn + $1) % ${#systems[@]}]}
            before=$(cpu "${pids[$name]}")
            line=$(storm "$name" "$kind" "$clients" "$seconds")
            after=$(cpu "${pids[$name]}")
            echo "storm $cell $name cpu=$((after - before)) $line" >>"$work/results"
            storm "$name" "$kind" "$clients" "$seconds" >/dev/null &
            local storming=$!
            line=$(storm "$name" "$kind" 1 "$seconds" watch)
            wait "$storming"
            echo "watch $cell $name $line" >>"$work/results"
        done
    done
}

# Medians over the rounds, as Markdown.
report() {
    echo "- $(date -u +%Y-%m-%d), $(nproc) x $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1), key $key, $rounds rounds of $seconds s."
    echo
    echo '| logins | at once | system | CPU us each | logins/s | p50 ms | p99 ms | failed | others wait p50 ms | p99 ms | max ms |'
    echo '| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: |'
    awk '
        function median(list, count,   i, j, swap) {
            for (i = 1; i < count; i++) for (j = i; j > 0 && list[j - 1] > list[j]; j--) {
                swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap
            }
            return count % 2 ? list[int(count / 2)] : (list[count / 2 - 1] + list[count / 2]) / 2
        }
        function middle(key,   list, i) { for (i = 0; i < n[key]; i++) list[i] = v[key, i]; return median(list, n[key]) }
        function add(key, value) { v[key, n[key]++] = value }
        {
            what = $2 " " $3
            if (!(what in seen)) { seen[what] = 1; order[total++] = what }
            for (i = 4; i <= NF; i++) { split($i, pair, "="); field[pair[1]] = pair[2] }
            if ($1 == "storm") {
                add(what " cpu", field["cpu"] / 1000 / (field["done"] ? field["done"] : 1))
                add(what " rate", field["done"] / field["seconds"])
                add(what " p50", field["p50"]); add(what " p99", field["p99"]); failed[what] += field["failed"]
            } else { add(what " w50", field["p50"]); add(what " w99", field["p99"]); add(what " wmax", field["max"]) }
        }
        END {
            for (i = 0; i < total; i++) {
                what = order[i]; split(what, part, " "); split(part[1], cell, "-")
                printf "| %s | %s | %s | %.0f | %.0f | %.1f | %.1f | %d | %.2f | %.1f | %.1f |\n", cell[1], cell[2], part[2],
                    middle(what " cpu"), middle(what " rate"), middle(what " p50"), middle(what " p99"), failed[what],
                    middle(what " w50"), middle(what " w99"), middle(what " wmax")
            }
        }' "$work/results"
}

# Proportional set size in bytes.
pss() {
    awk '/^Pss:/ { print $2 * 1024 }' "/proc/$1/smaps_rollup"
}

# What each idle client over TLS takes.
memory() {
    local name before after holder
    echo
    echo "| system | bytes for each of $idle idle clients over TLS |"
    echo '| --- | --: |'
    for name in "${systems[@]}"; do
        before=$(pss "${pids[$name]}")
        mkfifo "$work/hold"
        storm "$name" tls "$idle" 100 hold <"$work/hold" >"$work/held" &
        holder=$!
        exec 9>"$work/hold"
        until grep -q holding "$work/held"; do
            kill -0 "$holder" 2>/dev/null || die "the idle clients of $name did not come in"
            sleep 0.1
        done
        sleep 1 # what was lent for logins is given back
        after=$(pss "${pids[$name]}")
        exec 9>&-
        wait "$holder"
        rm "$work/hold"
        echo "| $name | $(((after - before) / idle)) |"
    done
}

clean_up() {
    trap '' INT TERM
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    pg_stop
    wait
    rm -rf "$work"
}

warn() {
    echo "logins: $*" >&2
}

die() {
    warn "$*"
    exit 1
}

systems=() work='' verifier=''
declare -A ports=() pids=()
main "$@"
