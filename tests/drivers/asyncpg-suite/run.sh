#!/usr/bin/env bash
# asyncpg's own test suite, from its sdist, against its wheel of the same version. See run_tests.py and left-out.txt.
set -euo pipefail
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

readonly version=0.32.0
# `distro` is what the tests import besides asyncpg.
python_venv "$DRIVERS_CACHE/venv" "asyncpg==$version" 'distro==1.9.0'
sources=$DRIVERS_CACHE/asyncpg-$version
if [ ! -d "$sources" ]; then
    rm -rf "$DRIVERS_CACHE/sdist"
    "$DRIVERS_CACHE/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary asyncpg \
        --dest "$DRIVERS_CACHE/sdist" "asyncpg==$version" >"$DRIVERS_CACHE/pip.log" 2>&1 ||
        skip "the sdist of asyncpg cannot be had: $(tail -1 "$DRIVERS_CACHE/pip.log")"
    tar xzf "$DRIVERS_CACHE/sdist/asyncpg-$version.tar.gz" -C "$DRIVERS_CACHE"
fi

# The tests create roles, databases and extensions, and expect to be in the database `postgres`.
export PGUSER=$ADMIN_USER PGDATABASE=postgres
rotate_servers
only=()
if [ -n "${SMOKE:-}" ]; then
    only=(test_prepare test_transaction test_cursor test_execute.TestExecuteMany test_cancellation)
fi
"$DRIVERS_CACHE/venv/bin/python" -W ignore run_tests.py "$sources" left-out.txt "${only[@]}"
