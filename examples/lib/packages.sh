# shellcheck shell=bash
# Debian packages that a script needs: to be sourced by the scripts of examples/ and tests/.

# as_root COMMAND...: runs it as root; fails if there is no way to.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        return 1
    elif [ -t 0 ] && [ -t 2 ]; then
        sudo "$@"
    else
        # Nobody is there to type a password.
        sudo -n "$@" 2>/dev/null
    fi
}

# install_packages PACKAGE...: by apt, silently but for errors. Fails, having done nothing, where there is no apt or no way
# to become root; fails too if apt does.
install_packages() {
    command -v apt-get >/dev/null && as_root true || return 1
    # Debian's PostgreSQL starts a cluster on port 5432 when it is installed for the first time. Nobody asked for one.
    local hold=/etc/postgresql-common/createcluster.d/pgvalet.conf status=0
    as_root mkdir -p "${hold%/*}"
    echo 'create_main_cluster = false' | as_root tee "$hold" >/dev/null
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@"; } >/dev/null ||
        status=$?
    as_root rm -f "$hold"
    return $status
}
