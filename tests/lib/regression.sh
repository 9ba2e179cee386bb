# shellcheck shell=bash
# PostgreSQL's own regression tests, from the source package of the distribution: for tests/regression_sql.rs.
#
# To be sourced, behind postgres.sh. Owns the directory <cache>/regression/<major>: parallel_schedule, sql, data, and lib with
# the functions in C that the tests call.

# fetch_regression CACHE BIN: prints the directory with the files for the server in BIN, fetched and built if need be.
fetch_regression() {
    local cache=$1 bin=$2 major target work
    major=$("$bin/postgres" --version | grep -oE '[0-9]+' | head -1)
    target=$cache/regression/$major
    if [ ! -e "$target/lib/regress.so" ]; then
        mkdir -p "$cache/regression"
        work=$(mktemp -d "$cache/regression/.unpack.XXXXXX")
        unpack_regression "$work" "$major" "$bin" "$target" >&2 || { rm -rf "$work"; return 1; }
        rm -rf "$work"
    fi
    echo "$target"
}

# unpack_regression WORK MAJOR BIN TARGET: fetches the sources and the headers of the server, and builds regress.so.
unpack_regression() (
    cd "$1" || exit 1
    # The sources are where the packages are; nothing of this machine's own lists is touched.
    mkdir -p lists/partial
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb /deb-src /p' >source.list
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$(basename "$file")"
    done
    mkdir parts && mv ./*.sources parts/ 2>/dev/null
    local own=(-o "Dir::Etc::sourcelist=$1/source.list" -o "Dir::Etc::sourceparts=$1/parts"
        -o "Dir::State::lists=$1/lists" -o "Dir::Cache=$1")
    apt-get -qq "${own[@]}" update >/dev/null 2>&1
    local version
    # Mirrors list versions that they do not have.
    for version in $(apt-cache "${own[@]}" showsrc "postgresql-$2" | sed -n 's/^Version: //p' | sort -rV); do
        ! apt-get -qq "${own[@]}" source --download-only "postgresql-$2=$version" >/dev/null 2>&1 || break
    done
    compgen -G "postgresql-$2_*.orig.tar.*" >/dev/null || { note "no source package of postgresql-$2"; exit 1; }
    tar xf postgresql-"$2"_*.orig.tar.* --wildcards '*/src/test/regress' || exit 1
    for version in $(apt-cache madison "postgresql-server-dev-$2" | awk '{ print $3 }' | sort -rV); do
        ! apt-get -qq download "postgresql-server-dev-$2=$version" >/dev/null 2>&1 || break
    done
    dpkg-deb -x ./postgresql-server-dev-*.deb dev 2>/dev/null ||
        { note "no headers of the server: postgresql-server-dev-$2"; exit 1; }
    local source=(postgresql-*/src/test/regress) headers=dev/usr/include/postgresql
    mkdir -p made/lib && cp -r "${source[0]}"/{sql,data,parallel_schedule} made/ || exit 1
    cc -shared -fPIC -O1 -w -I"$headers/$2/server" -I"$headers/internal" -I"${source[0]}" \
        -o made/lib/regress.so "${source[0]}/regress.c" || exit 1
    ln -s "$("$3/pg_config" --pkglibdir 2>/dev/null || echo "$3/../lib")"/{refint,autoinc}.so made/lib/ || exit 1
    chmod -R a+rX made && chmod a+rx "$1" && rm -rf "$4" && mv made "$4"
)
