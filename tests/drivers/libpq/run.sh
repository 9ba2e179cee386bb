#!/usr/bin/env bash
# libpq from C: pipeline mode, single rows, COPY, cancel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

need cc gcc libc6-dev
need pg_config libpq-dev
[ -e "$(pg_config --includedir)/libpq-fe.h" ] || apt_install libpq-dev
cc -std=c11 -Wall -Wextra -Werror -O1 -I "$(pg_config --includedir)" pipeline.c -L "$(pg_config --libdir)" -lpq -o "$DRIVERS_CACHE/pipeline"
status=0
output=$(timeout 60 "$DRIVERS_CACHE/pipeline" 2>&1) || status=$?
grep -v '^result ' <<<"$output" || true
read -r _ version ok bad <<<"$(grep '^result ' <<<"$output" || echo 'result - 0 1')"
if [ $status = 0 ]; then passed libpq "$version" "$ok"; else failed libpq "$version" "$ok" "$bad"; fi
exit $status
