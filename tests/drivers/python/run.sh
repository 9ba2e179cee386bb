#!/usr/bin/env bash
# Python: psycopg 3 (with libpq's pipeline mode), psycopg 2, asyncpg, pg8000, SQLAlchemy (on psycopg and asyncpg), Django ORM.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

mapfile -t packages <requirements.txt
python_venv "$DRIVERS_CACHE/venv" "${packages[@]}"
subset=()
if [ -n "${SMOKE:-}" ]; then subset=(-m smoke); fi
# The results of each driver come from conftest.py.
"$DRIVERS_CACHE/venv/bin/python" -m pytest -q --no-header -p no:cacheprovider --tb=short "${subset[@]}" .
