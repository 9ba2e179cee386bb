#!/usr/bin/env bash
# PostgreSQL's own client programs: psql, pg_dump and pg_restore, pgbench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

need psql postgresql-client
command -v pgbench >/dev/null || PATH=$PATH:$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
command -v pgbench >/dev/null || apt_install postgresql-contrib
export PSQLRC=/dev/null LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# How many transactions pgbench does in each client.
transactions=100
[ -z "${SMOKE:-}" ] || transactions=10

# directly COMMAND...: with PostgreSQL itself.
directly() { PGHOST=$DIRECT_HOST PGPORT=$DIRECT_PORT "$@"; }
# ask SQL: its values, from PostgreSQL itself.
ask() { directly psql -qAtc "$1"; }

# expect WHAT EXPECTED ACTUAL: one check.
ok=0 bad=0
expect() {
    if [ "$2" = "$3" ]; then
        ok=$((ok + 1))
    else
        bad=$((bad + 1))
        printf 'not ok: %s\n' "$1"
        diff <(printf '%s\n' "$2") <(printf '%s\n' "$3") | sed 's/^/    /' | head -40 || true
    fi
}

# report NAME VERSION: the result of one program's checks.
status=0
report() {
    if [ $bad = 0 ]; then passed "$1" "$2" $ok; else failed "$1" "$2" $ok $bad; status=1; fi
    ok=0 bad=0
}

version() { "$1" --version | grep -oE '[0-9]+(\.[0-9]+)+' | head -1; }

# --- psql: what a script prints through pgvalet is what it prints without ---

directly psql -qX <psql_setup.sql >/dev/null
for script in psql_*.sql; do
    [ "$script" != psql_setup.sql ] || continue
    through=$(psql -X -v HISTFILE=/dev/null <"$script" 2>&1 || true)
    alone=$(directly psql -X -v HISTFILE=/dev/null <"$script" 2>&1 || true)
    expect "$script prints the same" "$alone" "$through"
done
expect 'the exit status of an error' 3 "$(psql -X -v ON_ERROR_STOP=1 <<<'SELECT 1/0;' >/dev/null 2>&1 || echo $?)"
expect 'a single transaction with an error leaves nothing' 0 "$(
    psql -qX -1 -v ON_ERROR_STOP=1 <<<"INSERT INTO cli_item VALUES (99, 'x'); SELECT 1/0;" >/dev/null 2>&1 || true
    ask 'SELECT count(*) FROM cli_item WHERE id = 99')"
expect 'several commands of one -c are one transaction' 0 "$(
    psql -qX -c "INSERT INTO cli_item VALUES (98, 'x'); SELECT 1/0" >/dev/null 2>&1 || true
    ask 'SELECT count(*) FROM cli_item WHERE id = 98')"
expect 'FETCH_COUNT reads all rows by a cursor' 100000 "$(
    psql -qAtX -v FETCH_COUNT=999 <<<'SELECT i FROM generate_series(1, 100000) i;' | sort -un | wc -l | tr -d ' ')"
# \copy both ways, with a file and with a program.
seq 1 20000 | sed 's/.*/&\trow &/' >"$work/rows"
psql -qX <<SQL
TRUNCATE cli_copy;
\\copy cli_copy FROM '$work/rows'
\\copy cli_copy TO '$work/copied'
\\copy (SELECT id FROM cli_copy ORDER BY id LIMIT 3) TO PROGRAM 'cat > $work/program'
SQL
expect '\copy in and out' "$(cksum <"$work/rows")" "$(cksum <"$work/copied")"
expect '\copy to a program' $'1\n2\n3' "$(cat "$work/program")"
printf '1\tfirst\nnot a number\tx\n' >"$work/bad"
expect 'a \copy that fails' "$(directly psql -X -c "\\copy cli_copy FROM '$work/bad'" 2>&1 || true)" \
    "$(psql -X -c "\\copy cli_copy FROM '$work/bad'" 2>&1 || true)"
# Ctrl-C: psql sends a cancel.
PGAPPNAME='cli interrupt' psql -X -c 'SELECT pg_sleep(60) /* cli interrupt */' >"$work/interrupted" 2>&1 &
sleeper=$!
until [ "$(ask "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60) /* cli%' AND state = 'active'")" = 1 ]; do :; done
kill -INT $sleeper
wait $sleeper || true
expect 'an interrupted query' 'Cancel request sent
ERROR:  canceling statement due to user request' "$(cat "$work/interrupted")"
report psql "$(version psql)"

# --- pg_dump and pg_restore ---

# A database's dump by PostgreSQL itself, in a file, without the key that differs each time. Sorted, since rows lie in
# another order where two servers inserted them.
dump_of() { directly pg_dump "$1" | grep -v '^\\\(un\)\?restrict ' | sort >"$work/$1.sql"; }
# restored WHAT COMMAND...: makes an empty database, has the command fill it from standard input, and compares.
restored() {
    local what=$1 status=0
    shift
    ask 'DROP DATABASE IF EXISTS cli_restored WITH (FORCE)' 2>/dev/null
    ask 'CREATE DATABASE cli_restored'
    "$@" >"$work/restore.log" 2>&1 || status=$?
    [ $status = 0 ] || tail -5 "$work/restore.log"
    expect "$what: its status" 0 $status
    dump_of cli_restored
    expect "$what: what was restored" '' "$(diff "$work/$PGDATABASE.sql" "$work/cli_restored.sql" | head -20)"
}
psql_restores() { psql -qX -v ON_ERROR_STOP=1 -d cli_restored; }

dump_of "$PGDATABASE"
pg_dump >"$work/plain.sql"
restored 'a plain dump, by psql' psql_restores <"$work/plain.sql"
pg_dump -Fc -f "$work/custom"
restored 'a custom dump' pg_restore -d cli_restored "$work/custom"
if [ -z "${SMOKE:-}" ]; then
    pg_dump --inserts --rows-per-insert=100 >"$work/inserts.sql"
    restored 'a dump as INSERTs, by psql' psql_restores <"$work/inserts.sql"
    restored 'a custom dump, in one transaction' pg_restore --single-transaction -d cli_restored "$work/custom"
    restored 'a custom dump, twice' eval "pg_restore -d cli_restored $work/custom && pg_restore --clean --if-exists -d cli_restored $work/custom"
    # `pg_dump -j 2` holds three servers at the same time, more than the pool has; pg_restore's jobs come one by one.
    pg_dump -Fd -f "$work/directory"
    restored 'a directory, by two jobs' pg_restore -j 2 -d cli_restored "$work/directory"
fi
ask 'DROP DATABASE cli_restored WITH (FORCE)'
report pg_dump "$(version pg_dump)"

# --- pgbench: every protocol, with and without pipelines; each transaction counted once ---

pgbench -i -q -s 1 --unlogged-tables >/dev/null 2>&1
# bench WHAT ARGUMENT...: six clients, each a thread, since pgbench prepares without looking at its other clients.
bench() {
    local what=$1 output
    shift
    output=$(pgbench -n -c 6 -j 6 -t $transactions "$@" 2>&1) || true
    expect "pgbench $what" "$((6 * transactions))/$((6 * transactions)) 0" "$(
        sed -n 's/^number of transactions actually processed: //p' <<<"$output") $(
        sed -n 's/^number of failed transactions: \([0-9]*\) .*/\1/p' <<<"$output")"
}
for mode in simple extended prepared; do
    before=$(ask 'SELECT count(*) FROM pgbench_history')
    bench "TPC-B $mode" -M $mode
    expect "history after TPC-B $mode" $((before + 6 * transactions)) "$(ask 'SELECT count(*) FROM pgbench_history')"
    bench "select only $mode" -M $mode -S
    [ $mode = simple ] || bench "pipeline $mode" -M $mode -f pgbench_pipeline.sql
done
expect 'the sums agree' t "$(ask "SELECT a = t AND t = b AND b = h FROM (SELECT
    (SELECT sum(abalance) FROM pgbench_accounts) a, (SELECT sum(tbalance) FROM pgbench_tellers) t,
    (SELECT sum(bbalance) FROM pgbench_branches) b, (SELECT sum(delta) FROM pgbench_history) h) s")"
ask 'DROP TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers'
report pgbench "$(version pgbench)"
exit $status
