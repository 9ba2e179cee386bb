# shellcheck shell=bash
# What the run.sh of a suite needs to install itself and to say how it went. To be sourced.
#
# The environment that tests/drivers/run.sh gives to a suite:
#   PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE   pgvalet, or PostgreSQL itself if DRIVERS_DIRECT=1
#   DIRECT_HOST DIRECT_PORT                      PostgreSQL itself, with the same user, password and database
#   ADMIN_USER                                   a superuser with the same password, known to pgvalet too
#   PGVALET_BIN                                  the program; not with DRIVERS_DIRECT=1
#   DRIVERS_CACHE                                the suite's own directory for what it installs; it outlives the run
#   SMOKE                                        1: the short subset
#
# A suite ends with a line `NAME VERSION: N passed` for each driver, and with status 0 if all passed, 77 if it cannot be
# installed here (the last line says why), anything else if something failed.

# shellcheck source=examples/lib/packages.sh
. ../../../examples/lib/packages.sh

# skip REASON: ends the suite as one that cannot run here.
skip() { printf 'skipped: %s\n' "$*"; exit 77; }

# passed NAME VERSION COUNT, failed NAME VERSION COUNT-PASSED COUNT-FAILED: the result of one driver.
passed() { printf '%s %s: %s passed\n' "$1" "$2" "$3"; }
failed() { printf '%s %s: %s failed, %s passed\n' "$1" "$2" "$4" "$3"; }

# need PROGRAM PACKAGE...: a program, by apt if it is missing and we may; else the suite is skipped.
need() {
    local program=$1
    shift
    command -v "$program" >/dev/null 2>&1 || apt_install "$@"
    command -v "$program" >/dev/null 2>&1 || skip "$program is missing: sudo apt-get install $*"
}

# apt_install PACKAGE...: installs Debian packages; skips the suite if that is not possible here.
apt_install() {
    install_packages "$@" 2>"$DRIVERS_CACHE/apt.log" ||
        skip "needs packages: sudo apt-get install $* $(tail -1 "$DRIVERS_CACHE/apt.log")"
}

# rotate_servers: lets the servers rotate for a suite that uses another pool than that of PGUSER and PGDATABASE as given;
# to be called after setting these. It ends with the suite.
rotate_servers() {
    [ -z "${DRIVERS_DIRECT:-}" ] || return 0
    bash ../lib/rotator.sh >/dev/null 2>&1 </dev/null &
    # shellcheck disable=SC2064 # this process, now
    trap "kill $! 2>/dev/null" EXIT
}

# python_venv DIR REQUIREMENT...: a virtual environment with exactly these packages in it, made once.
python_venv() {
    local dir=$1 wanted
    shift
    need python3 python3-venv
    wanted=$(printf '%s\n' "$@")
    [ "$(cat "$dir/.installed" 2>/dev/null)" != "$wanted" ] || return 0
    rm -rf "$dir"
    python3 -m venv "$dir" >/dev/null 2>&1 || { rm -rf "$dir"; apt_install python3-venv; python3 -m venv "$dir"; } ||
        skip "python3 -m venv does not work here: sudo apt-get install python3-venv"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "$@" >"$dir/pip.log" 2>&1 ||
        skip "pip install failed: $(tail -1 "$dir/pip.log")"
    echo "$wanted" >"$dir/.installed"
}

# node_modules DIR PACKAGE.JSON: installs what the file lists into DIR/node_modules, once.
node_modules() {
    [ ! -e "$1/complete" ] || ! cmp -s "$2" "$1/package.json" || return 0
    rm -rf "$1"
    mkdir -p "$1"
    cp "$2" "$1/package.json"
    # No install scripts: some fetch programs from elsewhere, and none is needed.
    npm install --prefix "$1" --no-package-lock --ignore-scripts --no-audit --no-fund --no-update-notifier \
        >"$1/npm.log" 2>&1 || skip "npm install failed: $(tail -1 "$1/npm.log")"
    touch "$1/complete"
}
