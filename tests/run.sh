#!/usr/bin/env bash
# All checks and tests of pgvalet, set-up included: the one command for a fresh Debian or Ubuntu with a Rust toolchain.
#
#   bash tests/run.sh             everything, on every PostgreSQL version that can be had (at most 15 minutes on 2 cores)
#   bash tests/run.sh --quick     everything once, on one PostgreSQL version
#   bash tests/run.sh --drivers   with the whole of the driver suites (tests/drivers), not the short subset of some
#   bash tests/run.sh --package   with the Debian package: built, installed, started and purged (wants root)
#   bash tests/run.sh --features  with every combination of Cargo features: built, and the tests that depend on them
#   bash tests/run.sh --pgbouncer only what compares with pgbouncer, with the newest one that Debian has
#   bash tests/run.sh --regression  only PostgreSQL's own regression tests, in transaction pooling (about 5 minutes)
#
# PGVALET_PG_BIN chooses the PostgreSQL of the main run by the directory of its programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# What a compiler keeps to be quicker the next time takes more room than all the tests, and slows down the first time.
export CARGO_INCREMENTAL=0
# shellcheck source=tests/lib/postgres.sh
. tests/lib/postgres.sh
# shellcheck source=tests/lib/regression.sh
. tests/lib/regression.sh
# shellcheck source=tests/lib/pgbouncer.sh
. tests/lib/pgbouncer.sh

# Major versions tested besides the installed one, and the test binaries whose outcome depends on the version.
majors=(14 15 16 17 18)
versioned=(harness differential findings protocol_copy protocol_extended protocol_sharing protocol_sql_prepare
    protocol_startup protocol_transactions session_state session_state_pins session_state_settings)

quick=false
all_drivers=false
package=false
features=false
regression=false
pgbouncer=false
for argument in "$@"; do
    case $argument in
        --quick) quick=true ;;
        --drivers) all_drivers=true ;;
        --package) package=true ;;
        --features) features=true ;;
        --pgbouncer) pgbouncer=true ;;
        --regression) regression=true ;;
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "tests/run.sh: unknown argument $argument (see --help)" >&2; exit 2 ;;
    esac
done

stage='set-up'
finished() {
    local status=$?
    [ $status = 0 ] || printf '\n== FAILED in: %s (after %s s)\n' "$stage" "$SECONDS" >&2
}
trap finished EXIT

step() { stage=$1; say "$1 (at $SECONDS s)"; shift; "$@"; }

# What everything needs, and what only some tests do. One list and one installation, so that nobody has to come back.
install_what_is_missing() {
    local tools=() packages=() further=()
    # A login shell would have this on its PATH; a CI runner may not.
    # shellcheck source=/dev/null
    [ ! -f "${CARGO_HOME:-$HOME/.cargo}/env" ] || . "${CARGO_HOME:-$HOME/.cargo}/env"
    if ! command -v cargo >/dev/null; then
        tools+=('a Rust toolchain: https://rustup.rs')
    else
        cargo fmt --version >/dev/null 2>&1 || tools+=('rustfmt: rustup component add rustfmt')
        cargo clippy --version >/dev/null 2>&1 || tools+=('clippy: rustup component add clippy')
    fi
    mapfile -t packages < <(missing_pg_packages)
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    # The directory of tests/auth_ldap.rs, which runs it by itself.
    [ -x /usr/sbin/slapd ] || packages+=(slapd)
    # For the drivers; npm for further versions of PostgreSQL, too.
    python3 -c 'import ensurepip' 2>/dev/null || further+=(python3-venv)
    command -v npm >/dev/null || further+=(nodejs npm)
    command -v pg_config >/dev/null && [ -e "$(pg_config --includedir)/libpq-fe.h" ] || further+=(libpq-dev)
    # For the comparison with pgbouncer, and the scripts that watch it.
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || further+=(pgbouncer)
    command -v check_postgres >/dev/null || further+=(check-postgres)
    # What counts instructions.
    command -v valgrind >/dev/null || further+=(valgrind)

    if [ ${#packages[@]} -gt 0 ]; then
        say "installing ${packages[*]} with apt"
        install_packages "${packages[@]}" || tools+=("packages: sudo apt-get install ${packages[*]} ${further[*]}")
    fi
    if [ ${#tools[@]} -gt 0 ]; then
        printf 'missing, and cannot be installed from here: %s\n' "${tools[@]}" >&2
        exit 1
    fi
    [ ${#further[@]} -gt 0 ] || return 0
    say "installing ${further[*]} with apt, for the tests of drivers, of pgbouncer's tools and of further PostgreSQL versions"
    install_packages "${further[@]}" || note "some tests are skipped for want of packages: sudo apt-get install ${further[*]}"
}

# Driver suites that are quick to install.
smoke_suites=(python node libpq cli tls)

# Fills `others` with the bin directories of the versions besides the main one.
find_other_versions() {
    local cache major main_major
    main_major=$("$main_bin/postgres" --version | grep -oE '[0-9]+' | head -1)
    tested=$main_major
    others=()
    ! $quick || return 0
    cache=$(pg_cache_dir "$PWD")
    for major in "${majors[@]}"; do
        [ "$major" != "$main_major" ] || continue
        if [ -x "/usr/lib/postgresql/$major/bin/initdb" ]; then
            others+=("/usr/lib/postgresql/$major/bin")
        elif fetch_pg_major "$cache" "$major"; then
            others+=("$cache/$major/bin")
        else
            note "PostgreSQL $major is not tested"
            continue
        fi
        tested+=" $major"
    done
}

# promtool, which judges the names of metrics and the rules in examples/, comes in a package with a service that nobody
# wants here: it is unpacked beside the tests.
fetch_promtool() {
    command -v promtool >/dev/null || [ -x .cache/promtool ] || (
        unpacked=$(mktemp -d) && cd "$unpacked" && apt-get download -qq prometheus >/dev/null 2>&1 &&
            dpkg-deb -x ./*.deb . && mkdir -p "$OLDPWD/.cache" && cp usr/bin/promtool "$OLDPWD/.cache/"
        rm -rf "$unpacked"
    ) || true
    command -v promtool >/dev/null || [ -x .cache/promtool ] || note "no promtool: a test of metrics will say so"
}

# Licences, sources and bans can be judged offline; advisories where their database can be fetched.
check_dependencies() {
    cargo deny --log-level error check bans licenses sources
    if cargo deny --log-level off fetch db >/dev/null 2>&1; then
        cargo deny --log-level error check advisories
    else
        note "the advisory database cannot be fetched: advisories are not checked"
    fi
}

# Without what TLS computes with there is no pgvalet, and whoever tries is told what to choose.
build_without_cryptography() {
    local said
    if said=$(cargo check --quiet --lib --no-default-features 2>&1); then
        echo 'pgvalet was built without cryptography' >&2
        return 1
    fi
    # That, and that it could not be built.
    if ! grep -q 'choose what TLS computes with' <<<"$said" || [ "$(grep -c '^error' <<<"$said")" != 2 ]; then
        printf 'instead of a word about cryptography:\n%s\n' "$said" >&2
        return 1
    fi
}

# Every combination that may differ, and where a feature has tests, these. (PAM's own wants root and libpam.)
build_all_features() {
    local combination tests
    command -v pam_getenv >/dev/null || [ -e /usr/include/security/pam_appl.h ] || install_packages libpam0g-dev
    for combination in ring ring,ldap ring,oauth ring,pam aws-lc-rs aws-lc-rs,ldap,oauth,pam ring,aws-lc-rs; do
        say "features $combination (at $SECONDS s)"
        cargo clippy --quiet --all-targets --no-default-features --features "$combination" -- -D warnings
        tests=(--test config --test login --test tls_clients --test tls_servers)
        case $combination in *ldap*) tests+=(--test auth_ldap) ;; esac
        case $combination in *oauth*) tests+=(--test auth_oauth) ;; esac
        case $combination in *pam*) tests+=(--test auth_pam) ;; esac
        cargo test --quiet --no-default-features --features "$combination" --lib "${tests[@]}"
    done
    build_without_cryptography
}

# The tests that depend on the version, on the PostgreSQL in directory $1.
test_version() {
    local arguments=() name
    for name in "${versioned[@]}"; do arguments+=(--test "$name"); done
    PGVALET_PG_BIN=$1 cargo test --quiet "${arguments[@]}"
}

install_what_is_missing
fetch_promtool
main_bin=${PGVALET_PG_BIN:-$(installed_pg_bin)}
if $regression; then
    stage='regression tests of PostgreSQL'
    PGVALET_REGRESSION=$(fetch_regression "$(pg_cache_dir "$PWD")" "$main_bin")
    export PGVALET_REGRESSION PGVALET_PG_BIN=$main_bin
    step "$stage" cargo test --test regression_sql -- --ignored --nocapture
    exit 0
fi
if $pgbouncer; then
    stage='the newest pgbouncer'
    PGVALET_PGBOUNCER=$(fetch_pgbouncer "$(pg_cache_dir "$PWD")")
    export PGVALET_PGBOUNCER PGVALET_PG_BIN=$main_bin
    step "$stage, $("$PGVALET_PGBOUNCER" --version | head -1)" \
        cargo test --test side_by_side --test side_by_side_limits --test peers -- --include-ignored
    exit 0
fi
step 'PostgreSQL versions' find_other_versions
echo "   $("$main_bin/postgres" --version), in full; of the others: ${others[*]:-none}"

step 'cargo fmt --check' cargo fmt --check
step 'cargo clippy' cargo clippy --quiet --all-targets -- -D warnings
if $features; then step 'every combination of features' build_all_features; fi
RUSTDOCFLAGS='-D warnings' step 'cargo doc' cargo doc --quiet --no-deps --document-private-items --lib
if cargo deny --version >/dev/null 2>&1; then step 'cargo deny check' check_dependencies; fi
step 'cargo test' env PGVALET_PG_BIN="$main_bin" cargo test
if $all_drivers; then
    step 'client drivers' env PGVALET_PG_BIN="$main_bin" bash tests/drivers/run.sh
else
    step 'client drivers, the short subset of some' env PGVALET_PG_BIN="$main_bin" \
        PGVALET_BIN="${CARGO_TARGET_DIR:-target}/debug/pgvalet" bash tests/drivers/run.sh --smoke "${smoke_suites[@]}"
fi
if command -v npm >/dev/null; then
    step "Grafana's schema" bash tests/dashboard/check.sh
else
    note "no npm: examples/monitoring/grafana.json is not checked against Grafana's schema"
fi
if $package; then step 'the Debian package' bash packaging/test-deb.sh --profile dev; fi
for bin in "${others[@]}"; do
    step "tests that depend on the version, on $("$bin/postgres" --version)" test_version "$bin"
done

stage='the end'
printf '\n== all passed on PostgreSQL %s in %d min %02d s\n' "$tested" $((SECONDS / 60)) $((SECONDS % 60))
