#!/usr/bin/env bash
# Node.js: node-postgres (with its cursors, streams and COPY), postgres.js, Drizzle ORM on both, Prisma.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh
export NPM_CONFIG_UPDATE_NOTIFIER=false

version() { node -p "require('$DRIVERS_CACHE/$1/package.json').version"; }

# suite NAME VERSION MODULES FILE: runs a file of tests with these node_modules.
status=0
suite() {
    local output=$DRIVERS_CACHE/$1.tap
    if NODE_PATH=$DRIVERS_CACHE/$3/node_modules node --test --test-reporter=tap "$4" >"$output" 2>&1; then
        passed "$1" "$2" "$(sed -n 's/^# pass //p' "$output")"
    else
        # The subtests that failed, with their details.
        awk '/^ *ok /{ shown = 0 } /^ *not ok /{ shown = 1 } shown' "$output"
        failed "$1" "$2" "$(sed -n 's/^# pass //p' "$output")" "$(awk '/^# (fail|cancelled) /{ n += $3 } END { print n }' "$output")"
        status=1
    fi
}

need node nodejs
need npm npm
node_modules "$DRIVERS_CACHE/orm" orm/package.json
suite node-postgres "$(version orm/node_modules/pg)" orm node_postgres.test.js
suite postgres.js "$(version orm/node_modules/postgres)" orm postgres_js.test.js
[ -z "${SMOKE:-}" ] || exit $status

suite Drizzle "$(version orm/node_modules/drizzle-orm)" orm drizzle.test.js
node_modules "$DRIVERS_CACHE/prisma" prisma/package.json
cp prisma/schema.prisma "$DRIVERS_CACHE/prisma/"
# To generate takes no engine, but the command would fetch one unless it is told of a program.
(cd "$DRIVERS_CACHE/prisma" && PRISMA_SCHEMA_ENGINE_BINARY=$BASH CHECKPOINT_DISABLE=1 PRISMA_HIDE_UPDATE_MESSAGE=1 \
    node_modules/.bin/prisma generate --schema schema.prisma --no-hints >generate.log 2>&1) ||
    { cat "$DRIVERS_CACHE/prisma/generate.log"; exit 1; }
suite Prisma "$(version prisma/node_modules/@prisma/client)" prisma prisma/prisma.test.js
exit $status
