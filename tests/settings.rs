//! Settings belong to the client: they hold in each of its transactions, whichever server runs it, and nowhere else.

mod support;

use support::backend::{Message, first_error};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login, LoginError};

/// A pool of two servers. [`Rotor`] makes them take turns.
fn two_servers(cluster: &Cluster) -> Builder {
    Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 2")
        .user("app_trust", PASSWORD, &[])
        .database(DATABASE, cluster, &[])
}

/// Two clients that take turns in holding one of two servers, so that whoever else comes gets each in turn.
struct Rotor {
    holder: Client,
    free: Client,
}

impl Rotor {
    fn new(valet: &Pgvalet) -> Self {
        let mut rotor = Self { holder: valet.client(Role::Trust), free: valet.client(Role::Trust) };
        rotor.holder.query("BEGIN");
        rotor
    }

    /// The server that was free until now is held from now on, and the other one is free.
    fn turn(&mut self) {
        self.free.query("BEGIN");
        self.holder.query("COMMIT");
        std::mem::swap(&mut self.holder, &mut self.free);
    }
}

/// What `client` sees of these settings on both servers, which must be the same. Unknown ones read as empty text, since a
/// server on which a custom setting was made once cannot forget it.
#[track_caller]
fn on_both(rotor: &mut Rotor, client: &mut Client, names: &[&str]) -> Vec<String> {
    let show: Vec<_> = names.iter().map(|name| format!("current_setting('{name}', true)")).collect();
    let sql = format!("SELECT pg_backend_pid(), {}", show.join(", "));
    let look = |client: &mut Client| -> Vec<String> {
        client.rows(&sql).remove(0).into_iter().map(|value| value.unwrap_or_default()).collect()
    };
    let one = look(client);
    rotor.turn();
    let other = look(client);
    assert_ne!(one[0], other[0], "another server");
    assert_eq!(one[1..], other[1..], "the same on both servers: {names:?}");
    one[1..].to_vec()
}

fn reports(messages: &[Message]) -> Vec<(String, String)> {
    messages.iter().filter_map(Message::parameter).collect()
}

fn sorted_greeting(client: &Client) -> Vec<(String, String)> {
    let mut all = reports(&client.greeting);
    all.sort();
    all
}

#[test]
fn what_a_client_logs_in_with_holds_in_each_of_its_transactions() {
    let valet = two_servers(Cluster::shared()).start();
    let mut rotor = Rotor::new(&valet);
    let login = Role::Trust
        .login()
        .parameter("application_name", "it's \"mine\" \\ really")
        .parameter("DateStyle", "German")
        .parameter("TimeZone", "Asia/Tokyo")
        .parameter("pgvalet_test.custom", "custom value")
        .parameter(
            "options",
            "-c work_mem=3MB --statement-timeout=12345 -clock_timeout=7s -c pgvalet_test.other=with\\ blank",
        );
    let names = [
        "application_name",
        "DateStyle",
        "TimeZone",
        "pgvalet_test.custom",
        "work_mem",
        "statement_timeout",
        "lock_timeout",
        "pgvalet_test.other",
    ];
    let truth = {
        let mut direct = Client::login(&Cluster::shared().tcp(), &login).expect("direct login");
        names.map(|name| direct.value(&format!("SHOW {name}"))).to_vec()
    };
    assert_eq!(truth[4..], ["3MB", "12345ms", "7s", "with blank"]);
    let mut client = valet.login(&login);
    let mut stranger = valet.client(Role::Trust);
    let plain = on_both(&mut rotor, &mut stranger, &names);
    for _ in 0..3 {
        assert_eq!(on_both(&mut rotor, &mut client, &names), truth);
        assert_eq!(on_both(&mut rotor, &mut stranger, &names), plain);
    }
}

#[test]
fn a_login_reports_what_postgresql_would_report() {
    let cluster = Cluster::shared();
    let valet = two_servers(cluster).start();
    let logins = [
        Role::Trust.login(),
        Role::Trust.login().parameter("application_name", "x").parameter("client_encoding", "LATIN1"),
        Role::Trust.login().parameter("datestyle", "sql, ymd").parameter("timezone", "europe/berlin"),
        Role::Trust
            .login()
            .parameter("options", "-c IntervalStyle=iso_8601 -c standard_conforming_strings=off"),
        Role::Trust.login().parameter("options", "-c default_transaction_read_only=on"),
        // The parameters of the packet count, not those in options; the last of two counts.
        Role::Trust.login().parameter("options", "-c TimeZone=UTC").parameter("TimeZone", "Asia/Tokyo"),
        Role::Trust.login().parameter("TimeZone", "Asia/Tokyo").parameter("TIMEZONE", "Asia/Dhaka"),
    ];
    for login in logins {
        let direct = Client::login(&cluster.tcp(), &login).expect("direct login");
        let expected = sorted_greeting(&direct);
        // Twice: the second time pgvalet knows the settings already.
        for _ in 0..2 {
            let mut client = valet.login(&login);
            assert_eq!(sorted_greeting(&client), expected, "{:?}", login.parameters);
            for (name, value) in &expected {
                assert_eq!(client.value(&format!("SELECT current_setting('{name}')")), *value, "{name}");
            }
            assert_eq!(reports(&client.query("SELECT 1")), [], "nothing is left to say");
        }
    }
}

#[test]
fn wrong_values_get_postgresqls_own_answer_at_login() {
    let cluster = Cluster::shared();
    let valet = two_servers(cluster).start();
    for (name, value) in [
        ("DateStyle", "nonsense"),
        ("TimeZone", "Nowhere/Land"),
        ("client_encoding", "KLINGON"),
        ("work_mem", "lots"),
        ("work_mem", "1kB"),
        ("no_such_parameter", "1"),
        ("options", "-c statement_timeout=soon"),
        ("options", "-c no_such_parameter=1"),
        ("server_version", "1"),
        ("shared_buffers", "1GB"),
        ("max_connections", "7"),
        ("log_statement", "all"),
        ("options", "-c intervalstyle="),
    ] {
        let login = Role::Trust.login().parameter(name, value);
        let answer = |endpoint| match Client::login(&endpoint, &login) {
            Err(LoginError::Refused(message)) => {
                (message.field(b'S'), message.field(b'C'), message.field(b'M'), message.field(b'H'))
            }
            other => panic!("{name}={value}: {other:?}"),
        };
        assert_eq!(answer(valet.tcp()), answer(cluster.tcp()), "{name}={value}");
    }
    let mut stranger = valet.client(Role::Trust);
    let mut rotor = Rotor::new(&valet);
    assert_eq!(on_both(&mut rotor, &mut stranger, &["DateStyle", "work_mem"]), ["ISO, MDY", "4MB"]);
}

#[test]
fn set_follows_the_client_from_server_to_server_and_reaches_nobody_else() {
    let valet = two_servers(Cluster::shared()).start();
    let mut rotor = Rotor::new(&valet);
    let (mut client, mut stranger) = (valet.client(Role::Trust), valet.client(Role::Trust));
    let settings = [
        ("TimeZone", "'Asia/Tokyo'", "Asia/Tokyo"),
        ("DateStyle", "'German'", "German, DMY"),
        ("application_name", "'o''clock \\ \"x\"'", "o'clock \\ \"x\""),
        ("client_encoding", "'LATIN1'", "LATIN1"),
        ("IntervalStyle", "'iso_8601'", "iso_8601"),
        ("standard_conforming_strings", "off", "off"),
        ("default_transaction_read_only", "on", "on"),
    ];
    for (name, literal, value) in settings {
        let plain = on_both(&mut rotor, &mut stranger, &[name]);
        let reply = client.query(&format!("SET {name} = {literal}"));
        let told = reports(&reply);
        assert!(first_error(&reply).is_none(), "{reply:?}");
        assert_eq!(on_both(&mut rotor, &mut client, &[name]), [value], "{name}");
        // default_transaction_read_only is reported since version 14, as all others are.
        assert_eq!(told, [(name.to_string(), value.to_string())], "told once, by the SET itself");
        assert_eq!(on_both(&mut rotor, &mut stranger, &[name]), plain, "{name}");
    }
    let names = settings.map(|(name, ..)| name);
    assert_eq!(on_both(&mut rotor, &mut client, &names), settings.map(|(.., value)| value));
}

#[test]
fn a_client_is_told_only_what_changes_for_it() {
    let valet = two_servers(Cluster::shared()).start();
    let mut rotor = Rotor::new(&valet);
    let mut tokyo = valet.login(&Role::Trust.login().parameter("TimeZone", "Asia/Tokyo"));
    let mut german = valet.login(&Role::Trust.login().parameter("DateStyle", "German"));
    let mut plain = valet.client(Role::Trust);
    for _ in 0..4 {
        for client in [&mut tokyo, &mut german, &mut plain] {
            assert_eq!(reports(&client.query("SELECT now()")), []);
        }
        rotor.turn();
    }
    assert_eq!(reports(&tokyo.query("SET TimeZone = 'Asia/Tokyo'")), [], "as it was");
    assert_eq!(reports(&plain.query("SET TimeZone = 'Asia/Tokyo'")).len(), 1);
    rotor.turn();
    assert_eq!(reports(&plain.query("SET TimeZone = 'Asia/Tokyo'")), []);
}

#[test]
fn a_value_that_is_canonicalised_otherwise_is_not_sent_for_ever() {
    let valet = two_servers(Cluster::shared())
        .setting("admin_users = [\"boss\"]")
        .user("boss", PASSWORD, &[])
        .start();
    let mut client = valet.client(Role::Trust);
    for _ in 0..5 {
        client.query("SET datestyle TO 'iso , dmy'");
        assert_eq!(client.value("SHOW datestyle"), "ISO, DMY");
    }
    let mut console = valet.login(&Login::new("boss", "pgvalet"));
    let reply = console.query("SHOW COUNTERS");
    let columns = reply[0].columns().expect("columns");
    let at = columns.iter().position(|name| name == "setting_syncs").expect("a column");
    let rows = support::backend::rows(&reply);
    let syncs: u64 =
        rows.iter().map(|row| row[at].as_deref().unwrap_or("0").parse::<u64>().expect("a number")).sum();
    // A full reset between leases may call for one each; more would be a loop.
    assert!(syncs <= 10, "{syncs}");
}

#[test]
fn what_a_transaction_takes_back_was_never_set() {
    let valet = two_servers(Cluster::shared()).start();
    let mut rotor = Rotor::new(&valet);
    let mut client = valet.login(&Role::Trust.login().parameter("DateStyle", "German"));
    let names = ["TimeZone", "DateStyle"];
    let before = ["UTC", "German, DMY"];
    let run = |client: &mut Client, sqls: &[&str]| {
        for sql in sqls {
            client.query(sql);
        }
    };
    run(&mut client, &["BEGIN", "SET TimeZone = 'Asia/Tokyo'", "SET DateStyle = 'SQL'", "ROLLBACK"]);
    assert_eq!(on_both(&mut rotor, &mut client, &names), before, "ROLLBACK");

    run(&mut client, &["BEGIN", "SET TimeZone = 'Asia/Tokyo'", "SELECT 1/0", "COMMIT"]);
    assert_eq!(on_both(&mut rotor, &mut client, &names), before, "a failed transaction");

    run(&mut client, &["BEGIN", "SET LOCAL TimeZone = 'Asia/Tokyo'"]);
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    run(&mut client, &["COMMIT"]);
    assert_eq!(on_both(&mut rotor, &mut client, &names), before, "SET LOCAL");

    client.query("SET LOCAL TimeZone = 'Asia/Tokyo'");
    assert_eq!(on_both(&mut rotor, &mut client, &names), before, "SET LOCAL outside a transaction");

    run(&mut client, &["BEGIN", "SET TimeZone = 'Asia/Dhaka'", "SAVEPOINT s", "SET TimeZone = 'Asia/Tokyo'"]);
    run(&mut client, &["SET DateStyle = 'SQL'", "ROLLBACK TO s", "COMMIT"]);
    assert_eq!(on_both(&mut rotor, &mut client, &names), ["Asia/Dhaka", "German, DMY"], "ROLLBACK TO");

    // A client that leaves in its transaction takes nothing along and leaves nothing behind.
    run(&mut client, &["BEGIN", "SET TimeZone = 'Asia/Tokyo'"]);
    client.reset();
    let mut stranger = valet.client(Role::Trust);
    assert_eq!(on_both(&mut rotor, &mut stranger, &names), ["UTC", "ISO, MDY"]);
}

#[test]
fn set_config_and_functions_are_followed_as_set_is() {
    let cluster = Cluster::shared();
    cluster.sql(
        "CREATE FUNCTION settings_tokyo() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET TimeZone = 'Asia/Tokyo'; END $$",
    );
    let valet = two_servers(cluster).start();
    let mut rotor = Rotor::new(&valet);
    let mut stranger = valet.client(Role::Trust);
    for sql in [
        "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
        "SELECT settings_tokyo()",
        "DO $$ BEGIN PERFORM set_config('timezone', 'Asia/Tokyo', false); END $$",
    ] {
        let mut client = valet.client(Role::Trust);
        client.extended(sql, &[]);
        assert_eq!(on_both(&mut rotor, &mut client, &["TimeZone"]), ["Asia/Tokyo"], "{sql}");
        assert_eq!(on_both(&mut rotor, &mut stranger, &["TimeZone"]), ["UTC"], "{sql}");
    }
}

#[test]
fn lists_survive_their_quoting() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE SCHEMA IF NOT EXISTS \"odd, \"\"name\"\"\"");
    cluster.sql("CREATE SCHEMA IF NOT EXISTS app_trust AUTHORIZATION app_trust");
    cluster.sql("GRANT USAGE ON SCHEMA \"odd, \"\"name\"\"\" TO PUBLIC");
    let valet = two_servers(cluster).start();
    let mut rotor = Rotor::new(&valet);
    let path = "\"$user\", public, \"odd, \"\"name\"\"\"";
    let escaped = path.replace('\\', "\\\\").replace(' ', "\\ ");
    for login in [
        Role::Trust.login().parameter("search_path", path),
        Role::Trust.login().parameter("options", &format!("-c search_path={escaped}")),
        Role::Trust.login().parameter("options", "-csearch_path=public,pg_catalog"),
    ] {
        let mut direct = Client::login(&cluster.tcp(), &login).expect("direct login");
        let mut client = valet.login(&login);
        for _ in 0..2 {
            assert_eq!(
                on_both(&mut rotor, &mut client, &["search_path"]),
                [direct.value("SHOW search_path")],
                "{:?}",
                login.parameters
            );
            let schemas = "SELECT current_schemas(true)";
            assert_eq!(client.value(schemas), direct.value(schemas));
        }
    }
}

#[test]
fn settings_of_the_database_configuration_are_the_pools_own() {
    let lines = [
        "timezone = \"Asia/Dhaka\"",
        "application_name = \"from the pool\"",
        "connect_query = \"SET work_mem = '7MB'\"",
    ];
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("reset = \"never\"")
        .user("app_trust", PASSWORD, &[])
        .database(DATABASE, Cluster::shared(), &lines)
        .start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(client.parameter("TimeZone").as_deref(), Some("Asia/Dhaka"));
    assert_eq!(
        client.value("SELECT current_setting('application_name') || current_setting('work_mem')"),
        "from the pool7MB"
    );
    let mut named = valet.login(&Role::Trust.login().parameter("application_name", "own"));
    assert_eq!(named.value("SHOW application_name"), "own");
    assert_eq!(named.value("SHOW TimeZone"), "Asia/Dhaka");
    assert_eq!(client.value("SHOW application_name"), "from the pool");
}

#[test]
fn a_change_of_the_servers_configuration_reaches_idle_servers_and_their_clients() {
    let cluster = Cluster::start();
    let valet = two_servers(&cluster).start();
    let mut rotor = Rotor::new(&valet);
    let (mut idle, mut own) = (valet.client(Role::Trust), valet.client(Role::Trust));
    own.query("SET TimeZone = 'Asia/Tokyo'");
    on_both(&mut rotor, &mut idle, &["TimeZone"]);
    for zone in ["Asia/Dhaka", "Europe/Berlin", "Asia/Dhaka"] {
        cluster.sql(&format!("ALTER SYSTEM SET timezone = '{zone}'"));
        cluster.reload();
        let mut told = Vec::new();
        for _ in 0..4 {
            told.extend(reports(&idle.query("SELECT 1")));
            rotor.turn();
        }
        assert_eq!(told, [("TimeZone".to_string(), zone.to_string())], "told once");
        assert_eq!(on_both(&mut rotor, &mut idle, &["TimeZone"]), [zone]);
        assert_eq!(on_both(&mut rotor, &mut own, &["TimeZone"]), ["Asia/Tokyo"], "its own SET counts more");
        let mut fresh = valet.client(Role::Trust);
        let mut news = reports(&fresh.greeting);
        news.extend(reports(&fresh.query("SELECT 1")));
        let last = news.iter().rev().find(|(name, _)| name == "TimeZone").expect("it is told the zone");
        assert_eq!(last.1, zone);
        assert_eq!(on_both(&mut rotor, &mut fresh, &["TimeZone"]), [zone]);
    }
}
