#!/usr/bin/env bash
# Builds and runs the fuzz targets with a stable toolchain. Usage: fuzz/run.sh [SECONDS [TARGET...]]
# What it finds is left in fuzz/artifacts/TARGET; what it learnt in fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz_targets && ls | sed 's/\.rs$//')
# The flags of coverage-guided fuzzing are unstable in name only; cargo-fuzz passes the same ones.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing'
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --quiet --release --target "$host" --bins
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "== $target, $seconds s"
    "${CARGO_TARGET_DIR:-target}/$host/release/$target" -max_total_time="$seconds" -artifact_prefix="artifacts/$target/" \
        -print_final_stats=1 "corpus/$target" 2>&1 | tail -n 8
done
