#!/usr/bin/env bash
# Checks examples/monitoring/grafana.json against Grafana's published schema (npm: @grafana/schema). Wants node and npm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/.cache/dashboard
mkdir -p "$work"
if ! cmp -s "$here/package.json" "$work/installed.json"; then
    cp "$here/package.json" "$work/package.json"
    npm install --prefix "$work" --no-audit --no-fund --loglevel=error
    cp "$here/package.json" "$work/installed.json"
fi
node "$here/write.mjs" "$root/examples/monitoring/grafana.json" > "$work/dashboard.ts"
"$work/node_modules/.bin/tsc" --noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext "$work/dashboard.ts"
echo "examples/monitoring/grafana.json fits $(node -p "const p = require('$work/node_modules/@grafana/schema/package.json'); p.name + ' ' + p.version")"
