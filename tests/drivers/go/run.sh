#!/usr/bin/env bash
# Go: lib/pq and pgx, as Debian packages them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

sources=/usr/share/gocode/src/github.com
need go golang-go
if [ ! -d "$sources/lib/pq" ] || [ ! -d "$sources/jackc/pgx/v4" ]; then
    apt_install golang-github-lib-pq-dev golang-github-jackc-pgx-v4-dev
fi
# Debian's packages are a GOPATH, not modules.
export GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$DRIVERS_CACHE/build GOFLAGS=
go test -c -o "$DRIVERS_CACHE/drivers.test" .

version() { dpkg-query -W -f '${Version}' "$1" | sed 's/-[^-]*$//'; }

# suite NAME VERSION PREFIX: the tests whose names start so.
status=0
suite() {
    local output=$DRIVERS_CACHE/$3.log good bad
    "$DRIVERS_CACHE/drivers.test" -test.v -test.timeout 300s -test.run "^Test$3" >"$output" 2>&1 || status=1
    good=$(grep -c '^--- PASS' "$output" || true)
    bad=$(grep -c '^--- FAIL' "$output" || true)
    if tail -1 "$output" | grep -qx PASS; then
        passed "$1" "$2" "$good"
    else
        grep -v '^=== RUN\|^--- PASS' "$output" || true
        failed "$1" "$2" "$good" "$bad"
    fi
}

suite lib/pq "$(version golang-github-lib-pq-dev)" Pq
suite pgx "$(version golang-github-jackc-pgx-v4-dev)" Pgx
exit $status
