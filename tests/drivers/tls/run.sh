#!/usr/bin/env bash
# TLS with each client: every sslmode, certificates that do not fit, certificates of clients, replaced certificates; and
# bearer tokens with libpq 18. The suite starts pgvalets of its own in front of the PostgreSQL of the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

[ -z "${DRIVERS_DIRECT:-}" ] || skip "it is about pgvalet's own TLS"
need openssl openssl
need psql postgresql-client
need node nodejs
need npm npm

mapfile -t packages <requirements.txt
python_venv "$DRIVERS_CACHE/venv" "${packages[@]}"
node_modules "$DRIVERS_CACHE/node" package.json
export NODE_PATH=$DRIVERS_CACHE/node/node_modules
subset=()
if [ -n "${SMOKE:-}" ]; then
    # A JDK is much to install.
    subset=(-k 'not pgjdbc')
else
    need javac default-jdk-headless
    jar=/usr/share/java/postgresql.jar
    [ -e "$jar" ] || apt_install libpostgresql-jdbc-java
    if [ ! "$DRIVERS_CACHE/classes/Connects.class" -nt Connects.java ]; then
        javac -Xlint:all -Werror -d "$DRIVERS_CACHE/classes" -cp "$jar" Connects.java
    fi
    export CONNECTS_CLASSPATH=$jar:$DRIVERS_CACHE/classes
fi
# No certificates of whoever runs this.
export HOME=$DRIVERS_CACHE PSQLRC=/dev/null LC_ALL=C
"$DRIVERS_CACHE/venv/bin/python" -m pytest -q --no-header -p no:cacheprovider --tb=short "${subset[@]}" .
