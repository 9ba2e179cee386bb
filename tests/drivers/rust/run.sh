#!/usr/bin/env bash
# Rust: tokio-postgres, sqlx, diesel-async. A cargo package of its own, apart from pgvalet's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

export CARGO_TARGET_DIR=$DRIVERS_CACHE/target
command -v cargo >/dev/null || skip 'cargo is missing: https://rustup.rs'
[ -d "$CARGO_TARGET_DIR" ] || cargo fetch --quiet --locked || skip 'cargo could not fetch the crates'
cargo test --quiet --locked --no-run

version() { sed -n "/^name = \"$1\"$/{ n; s/^version = \"\\(.*\\)\"/\\1/p }" Cargo.lock; }

# suite CRATE: the tests in tests/CRATE.rs.
status=0
suite() {
    local output=$DRIVERS_CACHE/$1.log good bad
    if ! timeout 300 cargo test --quiet --locked --test "${1//-/_}" >"$output" 2>&1; then
        cat "$output"
        status=1
    fi
    good=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$output")
    bad=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$output")
    if [ "$bad" = 0 ]; then passed "$1" "$(version "$1")" "$good"; else failed "$1" "$(version "$1")" "${good:-0}" "${bad:-1}"; fi
}

suite tokio-postgres
suite sqlx
if [ -z "${SMOKE:-}" ]; then suite diesel-async; fi
exit $status
