//! pgbouncer and pgvalet with the same files, asked the same: what SHOW shows, what fails and how, what happens.
//!
//! The pgbouncer is the distribution's (tests/run.sh installs it), or that of `PGVALET_PGBOUNCER`. What a newer one has
//! besides is compared with the list in `support::tables`.

mod support;

use std::collections::BTreeMap;

use support::backend::{Message, first_error, rows};
use support::cluster::Cluster;
use support::poolers::{Pooler, Program};
use support::tables::{PGBOUNCER, described, expected};
use support::wire::{Client, Login, LoginError};
use support::{eventually, frontend};

/// An ini with a bit of everything; `@PORT@` is the cluster's.
const INI: &str = "
;; comments of both kinds
# and an empty line

[databases]
app = host=127.0.0.1 port=@PORT@ dbname=app
small = host=127.0.0.1 port=@PORT@ dbname=app user=postgres pool_size=1 reserve_pool=2 pool_mode=session
alias = host=127.0.0.1 port=@PORT@ dbname=postgres min_pool_size=0 max_db_connections=7 pool_mode=statement
odd_name = host=127.0.0.1 port=@PORT@ dbname='app' connect_query='SET application_name = ''connected'''
nowhere = host=127.0.0.1 port=@PORT@ dbname=nosuch
* = host=127.0.0.1 port=@PORT@

[users]
app_trust = pool_mode=session max_user_connections=5

%include @HOME@/more.ini
";

const MORE: &str = "
[pgbouncer]
listen_port = 6432
unix_socket_dir = @HOME@
auth_type = trust
auth_file = userlist.txt
admin_users = postgres, other
stats_users = watcher
pool_mode = transaction
default_pool_size = 4
default_pool_size = 3
max_client_conn = 20
query_wait_timeout = 1
idle_transaction_timeout = 1
server_idle_timeout = 100.5
server_lifetime = 1200
log_connections = 0
ignore_startup_parameters = extra_float_digits
server_reset_query =
stats_period = 2
";

const USERS: &str =
    "\"postgres\" \"\"\n\"app_trust\" \"\"\n\"watcher\" \"\"\n\"other\" \"x\"\n\"nosuch\" \"\"\n";

fn start(program: Program, cluster: &Cluster, more: &str) -> Pooler {
    let ini = INI.replace("@PORT@", &cluster.port().to_string());
    let text = format!("{MORE}{more}");
    Pooler::start(program, &ini, &[("more.ini", &text), ("userlist.txt", USERS)])
}

fn both(cluster: &Cluster, more: &str) -> [Pooler; 2] {
    Program::BOTH.map(|program| start(program, cluster, more))
}

/// Rows by column, NULL as `None`.
type Table = Vec<BTreeMap<String, Option<String>>>;

fn show(console: &mut Client, what: &str) -> Table {
    let messages = console.query(&format!("SHOW {what}"));
    let columns =
        messages.iter().find_map(Message::columns).unwrap_or_else(|| panic!("{what}: {messages:?}"));
    rows(&messages).into_iter().map(|row| columns.iter().cloned().zip(row).collect()).collect()
}

/// The columns of a table that both have and whose values do not depend on the moment.
fn picked(table: Table, columns: &[&str]) -> Vec<Vec<Option<String>>> {
    table
        .into_iter()
        .map(|mut row| columns.iter().filter_map(|column| row.remove(*column)).collect())
        .collect()
}

/// The primary message of the first error. Up to 1.24 pgbouncer had SUSPEND, and spoke of it.
fn error(messages: &[Message]) -> Option<String> {
    let text = messages.iter().find(|message| message.tag == b'E').and_then(|message| message.field(b'M'))?;
    Some(text.replace("paused/suspended", "paused").replace("suspended/paused", "paused"))
}

/// Whether the pgbouncer at hand is old: its defaults were others then, and its clients were never idle.
fn is_old() -> bool {
    let version = Program::Pgbouncer.version();
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    minor.unwrap_or_else(|| panic!("{version}")) < 24
}

/// The primary message of the error that comes next, whether or not the session ends by it.
fn next_error(client: &mut Client) -> Option<String> {
    error(&client.until(b'E'))
}

/// The primary message with which a login is refused.
fn refusal(pooler: &Pooler, login: &Login) -> Option<String> {
    match Client::login(&pooler.socket(), login) {
        Err(LoginError::Refused(message)) => message.field(b'M'),
        other => panic!("{:?}: {other:?}", pooler.program),
    }
}

/// Settings that are shown otherwise, and why.
const SHOWN_OTHERWISE: [(&str, &str); 10] = [
    ("auth_file", "a path is absolute"),
    ("auth_query", "the default one is not written out"),
    ("conffile", "each has its own directory, and it does not change"),
    ("ignore_startup_parameters", "a comma is followed by a space"),
    ("admin_users", "a comma is followed by a space"),
    ("unix_socket_dir", "each has its own directory"),
    ("unix_socket_mode", "pgbouncer shows a value in decimal and its default in octal"),
    ("shutdown_timeout", "pgbouncer has none"),
    ("verbose", "pgbouncer has no default"),
    ("track_extra_parameters", "some versions write the default out"),
];

/// Settings that had another default in old versions.
const DEFAULT_THEN_OTHERWISE: [&str; 5] = [
    "client_tls_ciphers",
    "max_prepared_statements",
    "server_check_query",
    "server_tls_ciphers",
    "server_tls_sslmode",
];

#[test]
fn every_column_of_pgbouncer_is_there_in_its_order_and_with_its_type() {
    let [theirs, ours] = both(Cluster::shared(), "");
    let (mut theirs, mut ours) = (theirs.console(), ours.console());
    for (table, columns) in PGBOUNCER {
        let (ours, columns) = (described(&ours.query(&format!("SHOW {table}"))), expected(columns));
        assert_eq!(ours, columns, "{table}");
        let replies = theirs.query(&format!("SHOW {table}"));
        if first_error(&replies).is_some() {
            // Each version has tables that others do not.
            continue;
        }
        // It had another name up to 1.23.
        let renamed =
            |name: String| if name == "reserve_pool" { "reserve_pool_size".to_owned() } else { name };
        let mut rest = columns.iter();
        for (name, oid) in described(&replies) {
            // Keys are told to nobody, so their type does not matter.
            let column = (renamed(name), if table == "FDS" && oid == 17 { 25 } else { oid });
            assert!(
                rest.any(|other| *other == column),
                "{table}: {column:?} is missing, or elsewhere in {ours:?}"
            );
        }
    }
}

#[test]
fn what_is_configured_is_shown_alike() {
    let [theirs, ours] = both(Cluster::shared(), "");
    let (mut theirs, mut ours) = (theirs.console(), ours.console());
    let columns = [
        "name",
        "host",
        "port",
        "database",
        "force_user",
        "pool_size",
        "min_pool_size",
        "reserve_pool_size",
        "server_lifetime",
        "pool_mode",
        "max_connections",
        "paused",
        "disabled",
    ];
    let shared: Vec<&str> = {
        let row = show(&mut theirs, "DATABASES").remove(0);
        columns.into_iter().filter(|column| row.contains_key(*column)).collect()
    };
    let databases = |console: &mut Client| picked(show(console, "DATABASES"), &shared);
    assert_eq!(databases(&mut theirs), databases(&mut ours));
    for (table, columns) in [("USERS", &["name", "pool_mode"][..]), ("LISTS", &["list"])] {
        let keep = |console: &mut Client| {
            let mut rows = picked(show(console, table), columns);
            rows.sort();
            rows
        };
        let (theirs, ours) = (keep(&mut theirs), keep(&mut ours));
        assert!(theirs.iter().all(|row| ours.contains(row)), "{table}: {theirs:?} and {ours:?}");
    }
    // Of the settings: value and default, where an empty text and none are the same.
    let config = |console: &mut Client| -> BTreeMap<String, [String; 2]> {
        let of = |mut row: BTreeMap<String, Option<String>>| {
            let mut take = |column: &str| row.remove(column).flatten().unwrap_or_default();
            let key = take("key");
            let is_cipher = key.ends_with("_ciphers");
            let usual = |value: String| if is_cipher && value == "default" { String::new() } else { value };
            (key, [usual(take("value")), usual(take("default"))])
        };
        show(console, "CONFIG").into_iter().map(of).collect()
    };
    let (theirs, ours) = (config(&mut theirs), config(&mut ours));
    let usual = |setting: &[String; 2]| {
        setting.clone().map(|value| if value == "default" { String::new() } else { value })
    };
    let differ: Vec<String> = theirs
        .iter()
        .filter(|(key, _)| !is_old() || !DEFAULT_THEN_OTHERWISE.contains(&&***key))
        .filter(|(key, _)| !SHOWN_OTHERWISE.iter().any(|(other, _)| other == key))
        .filter(|(key, setting)| ours.get(*key).map(&usual) != Some(usual(setting)))
        .map(|(key, setting)| format!("{key}: {setting:?} and {:?}", ours.get(key)))
        .collect();
    assert_eq!(differ, Vec::<String>::new());
}

#[test]
fn the_same_work_leaves_the_same_counts() {
    let cluster = Cluster::start();
    let counts = |pooler: &Pooler| {
        let mut client = pooler.login(&Login::new("postgres", "app"));
        for sql in ["SELECT 1", "BEGIN", "SELECT 2", "COMMIT", "SELECT 3; SELECT 4"] {
            client.query(sql);
        }
        client.extended("SELECT $1", &[Some("x")]);
        let mut busy = pooler.login(&Login::new("postgres", "app"));
        busy.query("BEGIN");
        let mut waiting = pooler.login(&Login::new("postgres", "small"));
        let mut holder = pooler.login(&Login::new("postgres", "small"));
        holder.query("BEGIN");
        waiting.send(&frontend::query("SELECT 1"));
        let _session = pooler.login(&Login::new("app_trust", "app"));
        let mut console = pooler.console();
        eventually("a client to wait", || {
            let pools = show(&mut console, "POOLS");
            pools.iter().any(|row| row["cl_waiting"].as_deref() == Some("1")).then_some(())
        });
        let sorted = |table: Table, columns: &[&str]| {
            let mut rows = picked(table, columns);
            rows.sort();
            rows
        };
        let pool_columns =
            ["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_login", "pool_mode"];
        let pools = sorted(show(&mut console, "POOLS"), &pool_columns);
        let states = ["type", "user", "database", "state"];
        let columns = if is_old() { &states[..3] } else { &states };
        let clients = sorted(show(&mut console, "CLIENTS"), columns);
        let servers = sorted(show(&mut console, "SERVERS"), &states);
        // An open transaction is counted when it begins, or when it ends.
        busy.query("COMMIT");
        let of_app = |row: &BTreeMap<String, Option<String>>| row["database"].as_deref() == Some("app");
        let stats = show(&mut console, "STATS_TOTALS").into_iter().filter(of_app).collect();
        (picked(stats, &["xact_count", "query_count"]), pools, clients, servers)
    };
    let [theirs, ours] = both(&cluster, "query_wait_timeout = 100\nidle_transaction_timeout = 0\n");
    assert_eq!(counts(&theirs), counts(&ours));
}

#[test]
fn what_fails_fails_with_the_same_words() {
    let cluster = Cluster::start();
    let refusals = |pooler: &Pooler| -> Vec<Option<String>> {
        let login = |user: &str, database: &str| pooler.login(&Login::new(user, database));
        let mut said = Vec::new();
        let mut statements = login("postgres", "alias");
        statements.send(&frontend::query("BEGIN"));
        said.push(next_error(&mut statements));
        let mut idle = login("postgres", "app");
        idle.query("BEGIN");
        said.push(next_error(&mut idle));
        let mut slow = login("postgres", "app");
        slow.send(&frontend::query("SELECT pg_sleep(1000)"));
        said.push(next_error(&mut slow));
        let mut holder = login("postgres", "small");
        holder.query("SELECT 1");
        let mut late = login("postgres", "small");
        late.send(&frontend::query("SELECT 1"));
        said.push(next_error(&mut late));
        said.push(error(&login("watcher", "pgbouncer").query("PAUSE")));
        pooler.console().query("DISABLE app");
        for (user, database) in
            [("postgres", "app"), ("app_trust", "pgbouncer"), ("postgres", "nowhere"), ("nosuch", "alias")]
        {
            said.push(refusal(pooler, &Login::new(user, database)));
        }
        let more = || Client::login(&pooler.socket(), &Login::new("postgres", "alias")).ok();
        let _full: Vec<Client> = std::iter::from_fn(more).collect();
        said.push(refusal(pooler, &Login::new("postgres", "alias")));
        said
    };
    let [theirs, ours] = both(&cluster, "query_timeout = 2\n");
    let (theirs, ours) = (refusals(&theirs), refusals(&ours));
    assert_eq!(theirs.len(), ours.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let (theirs, ours) = (theirs.as_deref().expect("words"), ours.as_deref().expect("words"));
        assert!(ours == theirs || ours.starts_with(&format!("{theirs}: ")), "{theirs:?} and {ours:?}");
    }
}

#[test]
fn the_console_answers_wrong_commands_with_the_same_words() {
    let [theirs, ours] = both(Cluster::shared(), "");
    let (mut theirs, mut ours) = (theirs.console(), ours.console());
    for command in [
        "SELECT 1 FROM nowhere",
        "SHOW nosuch",
        "nonsense",
        "SET nosuch = 1",
        "SET pool_mode = fast",
        "RESUME",
        "RESUME app",
        "DISABLE",
        "DISABLE pgbouncer",
        "PAUSE pgbouncer",
        "KILL pgbouncer",
        "RECONNECT pgbouncer",
        "SHUTDOWN nonsense",
    ] {
        let (theirs, ours) = (error(&theirs.query(command)), error(&ours.query(command)));
        assert!(theirs.is_some(), "{command}");
        assert_eq!(theirs, ours, "{command}");
    }
}

#[test]
fn orders_do_the_same() {
    let cluster = Cluster::start();
    let [theirs, ours] = both(&cluster, "");
    let story = |pooler: &Pooler| {
        let mut console = pooler.console();
        let mut told = Vec::new();
        let mut tell = |console: &mut Client, command: &str| {
            let replies = console.query(command);
            let last = replies.iter().find(|message| matches!(message.tag, b'C' | b'E')).expect("an answer");
            told.push(format!(
                "{command}: {}",
                last.command().or_else(|| error(&replies)).unwrap_or_default()
            ));
        };
        let mut client = pooler.login(&Login::new("postgres", "app"));
        client.query("SELECT 1");
        for command in [
            "PAUSE app",
            "RESUME app",
            "PAUSE",
            "PAUSE",
            "RESUME",
            "DISABLE app",
            "DISABLE app",
            "ENABLE app",
            "RELOAD",
            "RECONNECT app",
            "WAIT_CLOSE app",
            "RECONNECT",
            "SET query_timeout = 5",
            "SET query_wait_timeout=300",
            "KILL alias",
            "RESUME alias",
        ] {
            tell(&mut console, command);
        }
        assert_eq!(client.value("SELECT 'still served'"), "still served");
        tell(&mut console, "PAUSE app");
        client.send(&frontend::query("SELECT 'held'"));
        eventually("the client to be held", || {
            let pools = show(&mut console, "POOLS");
            pools.iter().any(|row| row["cl_waiting"].as_deref() == Some("1")).then_some(())
        });
        tell(&mut console, "RESUME app");
        assert_eq!(rows(&client.until_ready()), [[Some("held".to_owned())]]);
        told
    };
    let (theirs, ours) = (story(&theirs), story(&ours));
    assert_eq!(theirs, ours);
}

/// With `auth_type = any` a name proves nothing: everybody may look at the console, and databases need a user of their own.
#[test]
fn any_name_may_look_at_the_console_where_any_name_is_taken() {
    let port = Cluster::shared().port();
    let ini = format!(
        "[databases]\nfixed = host=127.0.0.1 port={port} dbname=app user=postgres\nopen = host=127.0.0.1 port={port} dbname=app\n\
         [pgbouncer]\nunix_socket_dir = @HOME@\nauth_type = any\nadmin_users = postgres\n"
    );
    let story = |program: Program| {
        let pooler = Pooler::start(program, &ini, &[]);
        let mut nobody = pooler.login(&Login::new("nobody", "pgbouncer"));
        let version = nobody.query("SHOW VERSION")[0].tag;
        let refused = refusal(&pooler, &Login::new("nobody", "open")).unwrap_or_default();
        let user = pooler.login(&Login::new("nobody", "fixed")).value("SELECT session_user");
        let paused = pooler.console().query("PAUSE")[0].command();
        (version, error(&nobody.query("PAUSE")), user, paused, refused.split(": ").next().map(str::to_owned))
    };
    assert_eq!(story(Program::Pgbouncer), story(Program::Pgvalet));
}
