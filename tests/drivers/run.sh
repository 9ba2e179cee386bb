#!/usr/bin/env bash
# Client drivers at their default settings through pgvalet: transaction pooling, two servers for all, other clients
# rotating them.
#
#   bash tests/drivers/run.sh [--list] [--smoke] [--direct] [NAME ...]
#
#     --list     the suites there are
#     --smoke    the short subset of each
#     --direct   straight against PostgreSQL instead, which shows that the tests are right
#     NAME       only these suites (folders next to this file); default: all
#
# What the suites need is installed below .cache/drivers. PGVALET_BIN chooses the pgvalet (default: `cargo build
# --release`), PGVALET_PG_BIN the PostgreSQL, DRIVERS_KEEP=1 keeps the logs of a run that passed.
# lib/suite.sh says what a suite gets and gives. Status 1: a suite failed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/postgres.sh
. "$root/tests/lib/postgres.sh"
# shellcheck source=tests/drivers/lib/cluster.sh
. "$here/lib/cluster.sh"

# Seconds that one suite may take, its installation included.
readonly time_limit=900

all_suites() { for file in "$here"/*/run.sh; do basename "$(dirname "$file")"; done; }

direct=false smoke=false suites=()
while [ $# -gt 0 ]; do
    case $1 in
        --list) all_suites; exit 0 ;;
        --smoke) smoke=true ;;
        --direct) direct=true ;;
        -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "drivers/run.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
        *) [ -f "$here/$1/run.sh" ] || { echo "drivers/run.sh: no suite $1 (see --list)" >&2; exit 2; }; suites+=("$1") ;;
    esac
    shift
done
[ ${#suites[@]} -gt 0 ] || mapfile -t suites < <(all_suites)

work=$(mktemp -d "${TMPDIR:-/tmp}/pgvalet-drivers.XXXXXX")
failures=0
finished() {
    local status=$?
    if [ $status = 0 ] && [ -z "${DRIVERS_KEEP:-}" ]; then touch "$work/passed"; else echo "logs: $work"; fi
    stop_all
}
trap finished EXIT
trap 'exit 130' INT TERM

ensure_installed_pg
pg_bin=${PGVALET_PG_BIN:-$(installed_pg_bin)}
if ! $direct; then
    pgvalet_bin=${PGVALET_BIN:-}
    if [ -z "$pgvalet_bin" ]; then
        (cd "$root" && cargo build --release --quiet)
        pgvalet_bin=$(cd "$root" && realpath "${CARGO_TARGET_DIR:-target}/release/pgvalet")
    fi
    # The suites start in folders of their own.
    pgvalet_bin=$(realpath -e "$pgvalet_bin")
fi

start_guard
start_cluster
if $direct; then
    port=$pg_port
    where="PostgreSQL itself"
else
    start_pgvalet
    start_rotator
    port=$pgvalet_port
    where="$("$pgvalet_bin" --version) with two servers"
fi
say "${#suites[@]} driver suites against $where, $("$pg_bin/postgres" --version)"

# run_suite NAME: its output goes to $work/NAME.log.
run_suite() {
    local cache=$root/.cache/drivers/$1
    mkdir -p "$cache"
    # Only what a suite is promised, and nothing of the caller's own PostgreSQL settings.
    (
        for name in "${!PG@}"; do unset "$name"; done
        export PGHOST=127.0.0.1 PGPORT=$port PGUSER=$driver_user PGPASSWORD=$driver_password PGDATABASE=$driver_database
        export DIRECT_HOST=127.0.0.1 DIRECT_PORT=$pg_port ADMIN_USER=$admin_user DRIVERS_CACHE=$cache
        if $direct; then export DRIVERS_DIRECT=1; else unset DRIVERS_DIRECT; export PGVALET_BIN=$pgvalet_bin; fi
        if $smoke; then export SMOKE=1; else unset SMOKE; fi
        cd "$here/$1"
        exec timeout --kill-after=10 "$time_limit" bash ./run.sh
    ) >"$work/$1.log" 2>&1 </dev/null {guard_pipe}>&-
}

# A line for each driver of suite $1, from its output: "name version|result".
results_of() {
    sed -nE 's/^([^ ]+ [^ ]+): ([0-9]+ (passed|failed).*|skipped.*)$/\1|\2/p' "$work/$1.log"
}

table=()
for suite in "${suites[@]}"; do
    clean_database
    started=$SECONDS status=0
    run_suite "$suite" || status=$?
    seconds=$((SECONDS - started))
    case $status in
        0) outcome=passed ;;
        77) outcome="skipped: $(tail -1 "$work/$suite.log" | sed 's/^skipped: //')" ;;
        124 | 137) outcome="FAILED: not done after $time_limit s" ;;
        *) outcome="FAILED: status $status" ;;
    esac
    if ! $direct; then
        if ! pgvalet_runs; then
            outcome='FAILED: pgvalet ended'
        elif grep -q 'panicked at' "$work/pgvalet.log"; then
            outcome='FAILED: pgvalet panicked'
        fi
    fi
    printf '%-16s %4d s  %s\n' "$suite" "$seconds" "$outcome"
    while IFS='|' read -r driver result; do
        printf '    %s: %s\n' "$driver" "$result"
        table+=("$suite|$driver|$result")
    done < <(results_of "$suite")
    case $outcome in
        FAILED*)
            failures=$((failures + 1))
            table+=("$suite||$outcome")
            sed 's/^/    | /' "$work/$suite.log" | tail -60
            ;;
        skipped*) table+=("$suite||$outcome") ;;
    esac
    if ! $direct && ! pgvalet_runs; then tail -20 "$work/pgvalet.log"; break; fi
done

say "drivers through $where ($SECONDS s)"
printf '%s\n' "${table[@]}" | awk -F'|' '{ printf "%-16s %-28s %s\n", $1, $2, $3 }'
[ $failures = 0 ] || { say "FAILED: $failures of ${#suites[@]} suites"; exit 1; }
