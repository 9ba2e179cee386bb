#!/usr/bin/env bash
# Builds the .deb, installs it, starts pgvalet as its unit does, asks it something, and purges it again.
#
#   sudo bash packaging/test-deb.sh [--profile NAME]     NAME: the cargo profile to build (release)
#   sudo bash packaging/test-deb.sh --pgo [SECONDS]      built with a profile of itself at work: packaging/pgo.sh
#   sudo bash packaging/test-deb.sh --deb FILE           of a package that is built already; wants nothing but Debian
#
# Wants root, for dpkg; fetches cargo-deb into .cache if it is missing. Nothing is left behind but the package itself,
# in target/debian, or target/pgo/debian.
set -euo pipefail

profile=release
deb=''
pgo=''
case ${1:-} in
    --profile) profile=$2 ;;
    --pgo) pgo=${2:-5} ;;
    --deb) deb=$(realpath "$2") ;;
esac
[ "$(id -u)" = 0 ] || { echo "this installs a package: run it as root" >&2; exit 1; }
! dpkg -s pgvalet >/dev/null 2>&1 || { echo "pgvalet is installed here already: this would remove it" >&2; exit 1; }

build() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    PATH=$PWD/.cache/tools/bin:$PATH
    # What builds the package need not be fast itself.
    command -v cargo-deb >/dev/null || CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install cargo-deb --locked --root .cache/tools
    local strip=() build=()
    if [ -n "$pgo" ]; then
        bash packaging/pgo.sh "$pgo"
        CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/pgo
        export CARGO_TARGET_DIR
        build=(--no-build)
    fi
    [ "$profile" = release ] || strip=(--no-strip)
    deb=$(cargo deb --profile "$profile" "${build[@]}" "${strip[@]}" | tail -1)
}
[ -n "$deb" ] || build
dpkg --info "$deb"

work=$(mktemp -d)
valet=''
clean_up() {
    [ -z "$valet" ] || kill "$valet" 2>/dev/null || true
    dpkg --purge pgvalet >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT

dpkg --install "$deb"
echo '== files, and who may read them'
[ "$(stat -c '%U:%G %a' /etc/pgvalet/pgvalet.toml)" = 'root:pgvalet 640' ]
man --warnings -l -Tascii /usr/share/man/man1/pgvalet.1.gz >/dev/null
man --warnings -l -Tascii /usr/share/man/man5/pgvalet.toml.5.gz >/dev/null
if command -v systemd-analyze >/dev/null; then systemd-analyze verify /lib/systemd/system/pgvalet.service; fi

echo '== it starts as the user of its unit, with the configuration that was installed'
as_unit=(setpriv --reuid pgvalet --regid pgvalet --clear-groups --no-new-privs --)
"${as_unit[@]}" /usr/bin/pgvalet check /etc/pgvalet/pgvalet.toml
sed 's/^listen_port.*/listen_port = 0\nmetrics_listen = "127.0.0.1:0"/' /etc/pgvalet/pgvalet.toml > "$work/pgvalet.toml"
chown -R pgvalet "$work"
"${as_unit[@]}" /usr/bin/pgvalet "$work/pgvalet.toml" 2> "$work/log" &
valet=$!
for _ in $(seq 100); do
    ! grep -q ' ready ' "$work/log" || break
    sleep 0.1
done
metrics=$(sed -n 's/.*metrics are served address="\([^"]*\)".*/\1/p' "$work/log")
[ -n "$metrics" ] || { cat "$work/log"; exit 1; }
# bash speaks enough HTTP for this.
exec 3<> "/dev/tcp/${metrics/://}"
printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
head -1 <&3 | grep -q ' 200 '
kill -TERM "$valet"
wait "$valet"
valet=''

echo '== it goes without a trace'
dpkg --purge pgvalet
[ ! -e /etc/pgvalet/pgvalet.toml ] && [ ! -e /usr/bin/pgvalet ]
echo "== $deb is fine"
