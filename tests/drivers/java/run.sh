#!/usr/bin/env bash
# pgjdbc, as Debian packages it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=tests/drivers/lib/suite.sh
. ../lib/suite.sh

need javac default-jdk-headless
jar=/usr/share/java/postgresql.jar
[ -e "$jar" ] || apt_install libpostgresql-jdbc-java
if [ ! "$DRIVERS_CACHE/classes/Pgjdbc.class" -nt Pgjdbc.java ]; then
    javac -Xlint:all -Werror -d "$DRIVERS_CACHE/classes" -cp "$jar" Pgjdbc.java || { failed pgjdbc - 0 1; exit 1; }
fi
status=0
output=$(java -XX:TieredStopAtLevel=1 -cp "$jar:$DRIVERS_CACHE/classes" Pgjdbc 2>&1) || status=$?
grep -v '^result ' <<<"$output" || true
read -r _ version ok bad <<<"$(grep '^result ' <<<"$output" || echo 'result - 0 1')"
if [ $status = 0 ]; then passed pgjdbc "$version" "$ok"; else failed pgjdbc "$version" "$ok" "$bad"; fi
exit $status
