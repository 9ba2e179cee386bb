//! What the clients say in SQL.
//!
//! Each client has a table of its own (`c0`, `c1`, ...), so that nothing it is answered depends on what others do. Some
//! texts are the same for all, some differ, and both are prepared under the same names.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::random::Random;

/// What is said only if asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Changes of a table that statements were prepared for.
    Ddl,
    /// SQL's own PREPARE, EXECUTE and DEALLOCATE, of names that the protocol uses too.
    Prepare,
    /// Literals whose meaning depends on settings, in prepared statements.
    Literals,
    /// Names that differ only behind the 63 bytes that PostgreSQL looks at.
    LongNames,
}

/// Whether the conversations of this run are about `topic`: `PGVALET_TOPICS` names them.
pub fn is_about(topic: Topic) -> bool {
    static TOPICS: OnceLock<BTreeSet<Topic>> = OnceLock::new();
    let read = || {
        let text = std::env::var("PGVALET_TOPICS").unwrap_or_default();
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names
            .map(|name| match name {
                "ddl" => Topic::Ddl,
                "prepare" => Topic::Prepare,
                "literals" => Topic::Literals,
                "long_names" => Topic::LongNames,
                _ => panic!("PGVALET_TOPICS: {name} is none of ddl, prepare, literals, long_names"),
            })
            .collect()
    };
    TOPICS.get_or_init(read).contains(&topic)
}

/// What a client's session may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing that matters for its server.
    Sharing,
    /// The same, and it listens; nothing that it says keeps it on a server.
    Listening,
    /// Anything: it may keep a server for itself.
    Keeping,
}

/// Whether the text may make what keeps its client on a server.
pub fn may_keep(sql: &str) -> bool {
    ["TEMP", "advisory", "WITH HOLD", "nextval", "setval"].iter().any(|word| sql.contains(word))
}

/// Something about state that is only in one session. Nothing of it is seen by other clients.
pub fn state(random: &mut Random, client: usize, role: Role) -> String {
    let c = client;
    let channel = random.pick(&["a", "a", "b"]);
    let listening = match random.below(12) {
        0..=2 => format!("LISTEN {channel}{c}"),
        3 => format!("UNLISTEN {channel}{c}"),
        4 => "UNLISTEN *".into(),
        5 | 6 => format!("NOTIFY {channel}{c}, '{}'", random.pick(&["one", "two", ""])),
        7 | 8 => format!("SELECT pg_notify('{channel}{c}', 'by {c}')"),
        9 => format!("DO $$ BEGIN EXECUTE 'LISTEN {channel}{c}'; NOTIFY a{c}, 'from DO'; END $$"),
        10 => format!("LISTEN b{c}; NOTIFY a{c}; NOTIFY b{c}; SELECT 1 / {}", random.below(3)),
        _ => "SELECT pg_listening_channels() ORDER BY 1".into(),
    };
    if role == Role::Listening || random.chance(25) {
        return listening;
    }
    let table = random.pick(&["mine", "mine", "other"]);
    let key = random.below(3);
    match random.below(33) {
        0..=2 => format!("CREATE TEMP TABLE {table} (n int)"),
        3 => format!("CREATE TEMP TABLE IF NOT EXISTS {table} AS SELECT {c} AS n"),
        4 => format!("CREATE TEMP TABLE {table} (n int) ON COMMIT DROP"),
        5 => format!("CREATE TEMP TABLE {table} (n int) ON COMMIT DELETE ROWS"),
        6 | 7 => format!("INSERT INTO {table} VALUES ({key})"),
        8 | 9 => format!("SELECT count(*), sum(n) FROM {table}"),
        10 => format!("DROP TABLE {table}"),
        11 => format!("DROP TABLE IF EXISTS {table}; SELECT 1 / {}", random.below(3)),
        12 => "DISCARD TEMP".into(),
        13 | 14 => format!("SELECT pg_advisory_lock({c}, {key})"),
        15 => format!("SELECT pg_try_advisory_lock_shared({c}, {key})"),
        16 | 17 => format!("SELECT pg_advisory_unlock({c}, {key})"),
        18 => format!("SELECT pg_advisory_xact_lock({c}, {key})"),
        19 => "SELECT pg_advisory_unlock_all()".into(),
        20 => "SELECT classid, objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2, 3".into(),
        21 | 22 => format!("DECLARE held{key} CURSOR WITH HOLD FOR SELECT id, v FROM c{c} ORDER BY id, v, n"),
        23 | 24 => format!("FETCH 2 FROM held{key}"),
        25 => format!("CLOSE held{key}"),
        26 => "SELECT name, is_holdable FROM pg_cursors WHERE name LIKE 'held%' ORDER BY 1".into(),
        27 | 28 => format!("SELECT nextval('q{c}')"),
        29 => format!("SELECT setval('q{c}', 40 + {key})"),
        30 => format!("SELECT currval('q{c}')"),
        31 => "SELECT lastval()".into(),
        _ => "DISCARD SEQUENCES".into(),
    }
}

/// A statement for the extended protocol.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub sql: String,
    pub parameters: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Text,
}

/// Makes what belongs to a client.
pub fn build(client: usize) -> String {
    format!(
        "CREATE SEQUENCE q{client};
         CREATE TABLE c{client} (id int, v text, n int, at timestamptz DEFAULT '2024-01-02 03:04+00');"
    )
}

/// Makes it as it was.
pub fn restore(client: usize) -> String {
    let d = match is_about(Topic::Ddl) {
        true => {
            format!("DROP TABLE IF EXISTS d{client}; CREATE TABLE d{client} AS SELECT 1 AS a, 'one' AS b;")
        }
        false => String::new(),
    };
    format!(
        "{d}
         SELECT setval('q{client}', 1, false); DELETE FROM c{client};
         INSERT INTO c{client} SELECT g, 'row ' || g || ' of {client}', g * {client} FROM generate_series(1, 5) AS g;"
    )
}

/// A statement to prepare, rarely a faulty one.
pub fn prepared(random: &mut Random, client: usize, role: Role) -> Prepared {
    use Kind::{Number, Text};
    let c = client;
    if is_about(Topic::Ddl) && random.chance(20) {
        let sql = match random.below(4) {
            0 | 1 => format!("SELECT * FROM d{c}"),
            2 => format!("SELECT a FROM d{c}"),
            _ => format!("INSERT INTO d{c} (a) VALUES (5) RETURNING *"),
        };
        return Prepared { sql, parameters: vec![] };
    }
    if is_about(Topic::Literals) && random.chance(20) {
        let sql = match random.below(4) {
            0 | 1 => format!("SELECT date '0{}/02/2024'", 1 + c),
            2 => "SELECT timestamptz '2024-06-01 12:00', $1::int".into(),
            _ => "SELECT '02/01/2024' = $1::date".into(),
        };
        let parameters = match sql.contains('$') {
            true if sql.contains("date") => vec![Text],
            true => vec![Number],
            false => vec![],
        };
        return Prepared { sql, parameters };
    }
    let (sql, parameters): (String, Vec<Kind>) = match random.below(41) {
        0 | 1 => ("SELECT $1::int + 1".into(), vec![Number]),
        2 | 3 => (format!("SELECT {c}, $1::int"), vec![Number]),
        4 | 5 => (format!("SELECT id, v, n FROM c{c} WHERE n >= $1 ORDER BY id, v, n"), vec![Number]),
        6 => (format!("SELECT id, v FROM c{c} ORDER BY id, v, n"), vec![]),
        7 => (format!("SELECT at, v FROM c{c} ORDER BY id, v, n"), vec![]),
        8 => (format!("INSERT INTO c{c} (v, id) VALUES ($1, $2) RETURNING id, v"), vec![Text, Number]),
        9 => (format!("UPDATE c{c} SET n = n + 1 WHERE id = $1"), vec![Number]),
        10 => (format!("DELETE FROM c{c} WHERE id = $1"), vec![Number]),
        11 | 12 => ("SELECT g, repeat('x', g) FROM generate_series(1, 7) AS g".into(), vec![]),
        13 => ("SELECT $1::text || ' and ' || $2::text".into(), vec![Text, Text]),
        14 => ("SELECT 10 / $1::int".into(), vec![Number]),
        15 => ("SELECT 10 / g FROM generate_series(2, $1, -1) AS g".into(), vec![Number]),
        16 => ("SELECT timestamptz '2024-06-01 12:00+00', interval '1 day 2 hours 3 minutes'".into(), vec![]),
        17 => (format!("SELECT '{}/02/2024'::text::date", 1 + c), vec![]),
        18 => ("SELECT $1::text::timestamptz".into(), vec![Text]),
        19 => {
            let names = ["TimeZone", "DateStyle", "IntervalStyle", "application_name", "client_encoding"];
            (format!("SHOW {}", random.pick(&names)), vec![])
        }
        20 => ("SELECT current_setting('TimeZone'), current_setting('application_name')".into(), vec![]),
        21 => (setting(random, client, role), vec![]),
        22 => ("BEGIN".into(), vec![]),
        23 => ("COMMIT".into(), vec![]),
        24 => ("ROLLBACK".into(), vec![]),
        25 => ("SAVEPOINT a".into(), vec![]),
        26 => ("ROLLBACK TO a".into(), vec![]),
        27 => (format!("COPY (SELECT id, v FROM c{c} ORDER BY id, v, n) TO STDOUT"), vec![]),
        28 => (String::new(), vec![]),
        29 => ("SELEC".into(), vec![]),
        30 => (format!("SELECT nothing FROM nowhere{c}"), vec![]),
        31 => ("SELECT 1; SELECT 2".into(), vec![]),
        32 => (notice(client), vec![]),
        33 => ("SELECT chr(233) || $1::text".into(), vec![Text]),
        34 => (format!("DECLARE cursor CURSOR FOR SELECT id, v FROM c{c} ORDER BY id, v, n"), vec![]),
        35 => ("FETCH 2 FROM cursor".into(), vec![]),
        36 => (format!("SELECT repeat('{c}', 20000)"), vec![]),
        37 => ("FETCH 2 FROM kept".into(), vec![]),
        38 => (format!("SELECT {}", random.below(30)), vec![]),
        39 if role == Role::Listening => (format!("SELECT {c}"), vec![]),
        39 => (format!("SELECT nextval('q{c}')"), vec![]),
        _ => (format!("VALUES ({c}, 'a'), (2, $1)"), vec![Text]),
    };
    Prepared { sql, parameters }
}

/// A Query that is no COPY FROM.
pub fn query(random: &mut Random, client: usize, role: Role) -> String {
    let c = client;
    if is_about(Topic::Ddl) && random.chance(20) {
        return match random.below(8) {
            0 | 1 => format!("ALTER TABLE d{c} ADD COLUMN n{} int DEFAULT 7", random.below(1000)),
            2 => format!("ALTER TABLE d{c} ALTER a TYPE {}", random.pick(&["bigint", "int", "text"])),
            3 => format!("ALTER TABLE d{c} DROP COLUMN IF EXISTS b"),
            4 => format!("DROP TABLE d{c}; CREATE TABLE d{c} (a int, b text)"),
            5 => format!("DROP TABLE IF EXISTS d{c}"),
            6 => format!("CREATE TABLE d{c} (a int, x int)"),
            _ => format!("SELECT * FROM d{c}"),
        };
    }
    if is_about(Topic::Prepare) && random.chance(20) {
        let name = random.pick(&["s1", "s1", "s2", "s3"]);
        return match random.below(6) {
            0 => format!("PREPARE {name} AS SELECT {c}, 'by SQL'"),
            1 => format!("PREPARE {name} (int) AS SELECT {c}, $1"),
            2 => format!("EXECUTE {name}"),
            3 => format!("EXECUTE {name} (4)"),
            4 => format!("DEALLOCATE {name}"),
            _ => format!("SELECT 1; DEALLOCATE {name}; SELECT 2"),
        };
    }
    match random.below(36) {
        0 => String::new(),
        1 => " ; ; ".into(),
        2 => format!("SELECT {c}"),
        3 | 4 => format!("SELECT id, v, n, at FROM c{c} ORDER BY id, v, n"),
        5 => format!("INSERT INTO c{c} (v, id) VALUES ('simple', {}) RETURNING id, v", random.below(10)),
        6 => format!("UPDATE c{c} SET v = v || '!' WHERE id <= {}", random.below(6)),
        7 => format!("SELECT 1; SELECT {c}; SELECT 'three'"),
        8 => format!("SELECT 1; SELECT 1 / 0; SELECT {c}"),
        9 => format!("INSERT INTO c{c} (n) VALUES (77); SELECT count(*) FROM c{c}; SELECT nonsense"),
        10 => format!("BEGIN; INSERT INTO c{c} (n) VALUES (78); COMMIT; SELECT count(*) FROM c{c}"),
        11 => format!("BEGIN; INSERT INTO c{c} (n) VALUES (79); ROLLBACK; SELECT count(*) FROM c{c}"),
        12 => format!("INSERT INTO c{c} (n) VALUES (80); COMMIT; SELECT 1 / 0"),
        13 => "SELECT 1; BEGIN; SELECT 2".into(),
        14 => "SELECT 'unfinished".into(),
        15 => "SELECT * FROM nowhere".into(),
        16 => notice(client),
        17 => format!("COPY (SELECT id, v FROM c{c} ORDER BY id, v, n) TO STDOUT"),
        18 => format!("SELECT {c}; COPY (SELECT 1) TO STDOUT; SELECT 1"),
        19 => "SELECT chr(8364)".into(),
        20 => "SELECT length('é'), 'é'".into(),
        21 => "FETCH 1 FROM kept".into(),
        22 => format!("DECLARE cursor CURSOR FOR SELECT v FROM c{c} ORDER BY id, v, n; FETCH 1 FROM cursor"),
        23 => format!("FETCH 2 FROM {}", random.pick(&["cursor", "p1", "p2"])),
        24 => format!("CLOSE {}", random.pick(&["cursor", "p1"])),
        25 => "SHOW TimeZone; SHOW DateStyle; SHOW application_name; SHOW client_encoding".into(),
        26 => format!("SELECT repeat('{c}', 30000)"),
        27 => format!("LOCK TABLE c{c}"),
        28 => "SHOW work_mem; SHOW search_path; SHOW statement_timeout".into(),
        29 => format!("SELECT g, 'row of {c}' FROM generate_series(1, 300) AS g"),
        30 => format!("BEGIN; CREATE INDEX ON c{c} (n); ROLLBACK"),
        31 => {
            format!("BEGIN; CREATE TEMP TABLE t ON COMMIT DROP AS SELECT {c} AS n; SELECT n FROM t; COMMIT")
        }
        32 if role == Role::Listening => format!("SELECT {c}"),
        32 => format!("SELECT nextval('q{c}')"),
        _ => setting(random, client, role),
    }
}

/// Something that opens or ends a transaction, or is about it.
pub fn transaction(random: &mut Random, in_transaction: bool) -> String {
    let list: &[&str] = if in_transaction {
        &[
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
            "ROLLBACK",
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "RELEASE a",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "BEGIN",
            "COMMIT; BEGIN",
        ]
    } else {
        &[
            "BEGIN",
            "BEGIN",
            "BEGIN READ ONLY",
            "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "COMMIT",
            "SAVEPOINT a",
        ]
    };
    random.pick(list).to_string()
}

/// A change of a setting, reported by PostgreSQL or not.
pub fn setting(random: &mut Random, client: usize, role: Role) -> String {
    let name: &[(&str, &[&str])] = &[
        ("DateStyle", &["ISO, MDY", "ISO, DMY", "German", "SQL, DMY", "Postgres, MDY", "nonsense"]),
        ("TimeZone", &["UTC", "Asia/Tokyo", "America/New_York", "+03", "Nowhere/Land"]),
        ("application_name", &["one", "two", "", "it's", "caf\u{e9}"]),
        ("client_encoding", &["UTF8", "LATIN1", "UTF8", "latin1"]),
        ("IntervalStyle", &["postgres", "iso_8601", "sql_standard"]),
        ("work_mem", &["3MB", "5MB", "64kB", "1"]),
        ("search_path", &["public", "pg_catalog, public", "\"$user\", public"]),
        ("statement_timeout", &["1h", "0", "77min"]),
    ];
    let (mut name, mut values) = *random.pick(name);
    if role == Role::Listening && name == "client_encoding" {
        // Who reads another encoding than UTF-8 keeps its server while it listens.
        (name, values) = ("work_mem", &["7MB"]);
    }
    let value = random.pick(values).replace('\'', "''");
    match random.below(12) {
        0 => format!("RESET {name}"),
        1 => format!("SET {name} TO DEFAULT"),
        2 => format!("SET LOCAL {name} = '{value}'"),
        3 => format!("SELECT set_config('{name}', '{value}', false)"),
        4 => format!("SELECT set_config('{name}', '{value}', true)"),
        5 => format!("DO $$ BEGIN PERFORM set_config('{name}', '{value}', false); END $$"),
        6 => "RESET ALL".into(),
        7 => format!("SET application_name = 'client {client}'"),
        _ => format!("SET {name} = '{value}'"),
    }
}

/// The beginning of a COPY FROM in which `rows` are read.
pub fn copy_from(client: usize) -> String {
    format!("COPY c{client} (v, n) FROM STDIN")
}

fn notice(client: usize) -> String {
    format!("DO $$ BEGIN RAISE NOTICE 'from client {client}'; RAISE WARNING 'and on'; END $$")
}
