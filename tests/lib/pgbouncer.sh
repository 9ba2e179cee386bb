# shellcheck shell=bash
# The newest pgbouncer that Debian has, with its own libraries, beside the system: to compare with, and to be a peer of.
#
# To be sourced, behind postgres.sh. Owns the directory <cache>/pgbouncer: root, the unpacked packages, and the program
# pgbouncer, which starts them.

# fetch_pgbouncer CACHE: prints the program, fetched if need be.
fetch_pgbouncer() {
    local target=$1/pgbouncer work
    if [ ! -x "$target/pgbouncer" ]; then
        work=$(mktemp -d "$1/.unpack.XXXXXX")
        unpack_pgbouncer "$work" "$target" >&2 || { rm -rf "$work"; note "no newest pgbouncer to be had" >&2; return 1; }
        rm -rf "$work"
    fi
    echo "$target/pgbouncer"
}

# unpack_pgbouncer WORK TARGET: the packages of Debian unstable that pgbouncer needs, from the C library up.
unpack_pgbouncer() (
    cd "$1" && mkdir -p lists/partial cache/archives/partial root || exit 1
    : >status
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg program loader
    [ -e "$keys" ] || { note "no keys of Debian: debian-archive-keyring"; exit 1; }
    # The archive of this machine, if it is one of Debian's.
    local archive
    archive=$(grep -shoP '^(URIs:|deb( \[[^]]*\])?)\s*\K\S+/debian/?(?=\s|$)' /etc/apt/sources.list.d/*.sources \
        /etc/apt/sources.list | head -1) || true
    echo "deb [signed-by=$keys] ${archive:-http://deb.debian.org/debian} sid main" >source.list
    local own=(-o "Dir::Etc::sourcelist=$1/source.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$1/lists"
        -o "Dir::State::status=$1/status" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1
        -o APT::Install-Recommends=false)
    apt-get -qq "${own[@]}" update >/dev/null || exit 1
    apt-get -qq -y "${own[@]}" --download-only install pgbouncer >/dev/null || exit 1
    local package
    for package in cache/archives/*.deb; do dpkg-deb -x "$package" root || exit 1; done
    mkdir made && mv root made/ || exit 1
    program=$(find made/root -type f -path '*bin/pgbouncer') loader=$(find made/root -name 'ld-linux*.so.*' | head -1)
    [ -n "$program" ] && [ -n "$loader" ] || exit 1
    printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$2/${loader#made/}" \
        "$2/$(dirname "$(find made/root -name 'libevent-2*.so.*' | head -1)" | sed 's|^made/||')" "$2/${program#made/}" \
        >made/pgbouncer
    chmod -R a+rX made && chmod a+x made/pgbouncer && chmod a+rx "$1" && rm -rf "$2" && mv made "$2" || exit 1
    as_server_user "$2/pgbouncer" --version || exit 1
)
