#!/usr/bin/env bash
# Builds pgvalet with profile-guided optimization: once to watch it at work, once with what was seen.
#
# Usage: bash packaging/pgo.sh [SECONDS]        SECONDS of each kind of work to watch (default 5)
#
# Wants what benches/compare.sh and benches/logins.sh want, and llvm-profdata of the toolchain: rustup component add llvm-tools.
# The program is target/pgo/release/pgvalet below the target folder of cargo.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
seconds=${1:-5}
host=$(rustc -vV | sed -n 's/^host: //p')
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/pgo
profiles=$target/profiles
kinds=simple-1,simple-8,simple-64,extended-8,prepared-8,prepared-64,tpcb-8,pipeline-8,bulk-4,connect-8

profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || { echo "llvm-profdata is missing: rustup component add llvm-tools" >&2; exit 1; }

# build NAME FLAG: the program as target/pgo/NAME/pgvalet. With a named target the flag is not for build scripts and macros.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $2" CARGO_TARGET_DIR=$target/$1.build cargo build --release --quiet --bin pgvalet --target "$host"
    mkdir -p "$target/$1"
    cp "$target/$1.build/$host/release/pgvalet" "$target/$1/pgvalet"
}

rm -rf "$profiles"
mkdir -p "$profiles"
echo '== building the program that is watched'
build watched "-Cprofile-generate=$profiles"
echo '== watching it at work'
bash benches/compare.sh --pgvalet "$target/watched/pgvalet" --only pgvalet --cells "$kinds" --seconds "$seconds" --rounds 1 \
    --syscalls '' --idle 500 >"$target/watched/report.md"
bash benches/logins.sh --pgvalet "$target/watched/pgvalet" --cells tls-8,plain-64 --seconds "$seconds" --rounds 1 --idle 0 \
    >>"$target/watched/report.md"
"$profdata" merge -o "$profiles/merged.profdata" "$profiles"/*.profraw
echo '== building with what was seen'
build release "-Cprofile-use=$profiles/merged.profdata"
echo "$target/release/pgvalet"
