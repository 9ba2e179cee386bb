//! Logins: versions that are negotiated, cancel keys of every length, startup parameters, and what the server reports.
//!
//! The two connections of a client negotiate apart: what the client is told depends on pgvalet alone. So PostgreSQL 18,
//! which speaks all that pgvalet does, is what its answers are compared with; older versions serve behind it all the same.

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use faithful::{direct_only, faithful, faithful_as};
use support::backend::{self, Message, tags};
use support::cluster::{Cluster, DATABASE, Role};
use support::differential::{How, Script, Side, compare};
use support::frontend::{self, PROTOCOL_3_0, PROTOCOL_3_2, query};
use support::install::Install;
use support::pgvalet::Pgvalet;
use support::scripted::{Act, Gate, ScriptedServer};
use support::wire::{Client, Login};

/// What libpq of PostgreSQL 19 asks for, to see that servers negotiate.
const GREASE: u32 = 3 << 16 | 9_999;

fn of_version(version: u32) -> Login {
    Role::Trust.login().version(version)
}

/// Case 4: every minor version, with and without options of the protocol, as PostgreSQL 18 answers it.
#[test]
fn versions_and_options_are_negotiated_as_postgresql_18_does() {
    if Install::of_major(18).is_none() {
        eprintln!("not tested: there is no PostgreSQL 18 here");
        return;
    }
    let cluster = Cluster::builder().major(18).start();
    let valet = Pgvalet::in_front_of(&cluster).setting("auth_type = \"trust\"").start();
    let script = Script::new("negotiation").query("SELECT 1");
    for version in [PROTOCOL_3_0, 3 << 16 | 1, PROTOCOL_3_2, 3 << 16 | 3, GREASE, 3 << 16 | 0xffff] {
        for options in [&[][..], &["_pq_.test_protocol_negotiation"], &["_pq_.one", "_pq_.two"], &["_pq_."]] {
            let login = options.iter().fold(of_version(version), |login, name| login.parameter(name, "x"));
            let direct = Side::new("PostgreSQL 18", cluster.tcp(), login.clone());
            compare(&cluster, &script, &direct, &direct, How::WHOLE);
            if !direct_only() {
                for how in [How::WHOLE, How::BYTEWISE] {
                    compare(
                        &cluster,
                        &script,
                        &direct,
                        &Side::new("pgvalet", valet.tcp(), login.clone()),
                        how,
                    );
                }
            }
        }
    }
}

/// Case 4: it is said once, and in front of everything else.
#[test]
fn a_version_is_negotiated_once_and_first_with_every_server() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for (version, option, negotiated) in [
        (PROTOCOL_3_0, None, false),
        (PROTOCOL_3_2, None, false),
        (PROTOCOL_3_0, Some("_pq_.x"), true),
        (GREASE, None, true),
        (GREASE, Some("_pq_.test_protocol_negotiation"), true),
    ] {
        let login =
            option.iter().fold(Role::Scram.login().version(version), |login, name| login.parameter(name, ""));
        let client = valet.login(&login);
        let messages: Vec<&Message> = client.greeting.iter().filter(|message| message.tag == b'v').collect();
        assert_eq!(messages.len(), usize::from(negotiated), "{version:x} {option:?}: {:?}", client.greeting);
        assert_eq!(client.greeting[0].tag == b'v', negotiated, "{:?}", client.greeting);
        if let [message] = messages[..] {
            let names: Vec<u8> = option.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
            let count = u32::from(option.is_some());
            // What was asked for, if that is spoken, else the newest that is.
            let newest = version.min(PROTOCOL_3_2);
            assert_eq!(message.body, [&newest.to_be_bytes()[..], &count.to_be_bytes(), &names].concat());
        }
    }
}

/// A server's login with this key (or none), then one query that waits at a gate.
fn server_with_key(key: Option<&[u8]>, negotiates: bool, gate: Gate) -> Vec<Act> {
    let mut greeting = Vec::new();
    if negotiates {
        greeting.extend(frontend::frame(b'v', &[PROTOCOL_3_0.to_be_bytes(), [0; 4]].concat()));
    }
    greeting.extend(backend::auth_ok());
    for (name, value) in [("server_version", "16.0"), ("client_encoding", "UTF8"), ("TimeZone", "UTC")] {
        greeting.extend(backend::parameter_status(name, value));
    }
    if let Some(key) = key {
        greeting.extend(backend::backend_key_data(4_711, key));
    }
    greeting.extend(backend::ready_for_query('I'));
    let done = |reply: Vec<u8>| [reply, backend::ready_for_query('I')].concat();
    vec![
        Act::Startup,
        Act::Send(greeting),
        // pgvalet reads the catalog first.
        Act::ExpectTag(b'Q'),
        Act::Send(done(backend::command_complete("SELECT 0"))),
        Act::ExpectTag(b'Q'),
        Act::Wait(gate),
        Act::Send(done(backend::error_response("ERROR", "57014", "canceled"))),
        Act::ExpectEnd,
    ]
}

/// Case 5: a server's key may have any length that the protocol allows, and each client has a key of its own.
#[test]
fn keys_of_every_length_work_on_both_sides() {
    for length in [4, 5, 32, 255, 256] {
        for version in [PROTOCOL_3_0, PROTOCOL_3_2] {
            let key: Vec<u8> = (0..length).map(|byte: u32| byte.to_be_bytes()[3]).collect();
            let (gate, opener) = Gate::new();
            let server = ScriptedServer::start(vec![server_with_key(Some(&key), length == 5, gate)]);
            let valet = Pgvalet::builder()
                .setting("auth_type = \"trust\"")
                .setting("default_pool_size = 1")
                .setting("workers = 1")
                .setting("reset = \"never\"")
                .all_roles()
                .database_at(DATABASE, &server.tcp(), &[])
                .start();
            let mut client = valet.login(&of_version(version));
            let own = client.cancel();
            let fits = if version == PROTOCOL_3_0 { 4..=4 } else { 4..=256 };
            assert!(fits.contains(&own.key.len()), "{} bytes", own.key.len());
            client.send(&query("SELECT 1"));
            own.send().expect("the request is taken");
            support::eventually("the request to reach the server", || {
                (server.cancels() == [(4_711, key.clone())]).then_some(())
            });
            opener.open();
            assert_eq!(tags(&client.until_ready()), "EZ");
            client.terminate();
            drop(valet);
            server.finish();
        }
    }
}

/// Case 5: a server without a key serves, and cannot be asked to cancel.
#[test]
fn a_server_without_a_key_serves() {
    let (gate, opener) = Gate::new();
    let server = ScriptedServer::start(vec![server_with_key(None, false, gate)]);
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 1")
        .setting("workers = 1")
        .setting("reset = \"never\"")
        .all_roles()
        .database_at(DATABASE, &server.tcp(), &[])
        .start();
    let mut client = valet.login(&of_version(PROTOCOL_3_0));
    let own = client.cancel();
    client.send(&query("SELECT 1"));
    own.send().expect("the request is taken");
    opener.open();
    assert_eq!(tags(&client.until_ready()), "EZ");
    assert_eq!(server.cancels(), [], "there is no key to send");
    client.terminate();
    drop(valet);
    server.finish();
}

/// Case 5: a server that knows only 3.0 says so to pgvalet, which tells its clients nothing of it.
#[test]
fn clients_of_the_newest_version_are_served_by_servers_of_any() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).setting("auth_type = \"trust\"").start();
    let mut clients: Vec<Client> =
        [PROTOCOL_3_0, PROTOCOL_3_2].map(|version| valet.login(&of_version(version))).into();
    for client in &mut clients {
        assert_eq!(client.value("SELECT 'served'"), "served");
        assert!(client.greeting.iter().all(|message| message.tag != b'v'), "{:?}", client.greeting);
    }
    let lengths = clients.iter().map(|client| client.cancel().key.len()).collect::<Vec<_>>();
    assert_eq!(lengths[0], 4);
    assert!(lengths[1] > 4, "a longer key for who can take it");
}

/// Case 6: everything that a startup packet can set is in force, and what RESET goes back to.
#[test]
fn startup_parameters_and_options_are_what_reset_goes_back_to() {
    let mut script = Script::new("startup parameters")
        .parameter("application_name", "it's a \"test\" \\ 1")
        .parameter("TimeZone", "Europe/Berlin")
        .parameter("search_path", "\"$user\", public, pg_catalog")
        .parameter("lock_timeout", "17s")
        .parameter(
            "options",
            "-c work_mem=3MB --statement-timeout=12345 -cidle_in_transaction_session_timeout=54s -c a.b=with\\ blank\\\\",
        );
    let all = "SHOW application_name; SHOW TimeZone; SHOW search_path; SHOW lock_timeout; SHOW work_mem; \
               SHOW statement_timeout; SHOW idle_in_transaction_session_timeout; SHOW a.b";
    for command in [
        "SELECT 1",
        "BEGIN; SET LOCAL work_mem = '9MB'; SET LOCAL TimeZone = 'Asia/Tokyo'; COMMIT",
        "SET TimeZone = 'Asia/Tokyo'; RESET TimeZone",
        "SET application_name = 'other'; RESET application_name",
        "BEGIN; SET TimeZone = 'Asia/Tokyo'; ROLLBACK",
    ] {
        script = script.query(command).query(all);
    }
    faithful(&script);
}

/// Case 6: RESET ALL and DISCARD ALL go back to the values of the startup packet, too.
#[test]
fn reset_all_and_discard_all_go_back_to_the_startup_parameters() {
    let mut script = Script::new("RESET ALL")
        .parameter("application_name", "mine")
        .parameter("TimeZone", "Europe/Berlin")
        .parameter("options", "-c work_mem=3MB -c DateStyle=German");
    for command in ["RESET ALL", "DISCARD ALL", "SET TimeZone = DEFAULT; SET DateStyle TO DEFAULT"] {
        script = script
            .query("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL'")
            .query(command)
            .query("SHOW application_name; SHOW TimeZone; SHOW work_mem; SHOW DateStyle");
    }
    faithful(&script);
}

/// Case 15: what the server reports, and when, for everything that all versions report.
#[test]
fn reports_come_when_postgresql_sends_them() {
    faithful(
        &Script::new("reports")
            .errors(&["22023", "22012"])
            .query("SET application_name = 'a'; SET application_name = 'b'; SET TimeZone = 'Asia/Tokyo'")
            .query("SET application_name = 'b'")
            .query("SET IntervalStyle = 'iso_8601'")
            .query("SET client_encoding = 'LATIN1'; SET client_encoding = 'UTF8'")
            .query("BEGIN; SET DateStyle = 'German'")
            .query("SELECT 1; SET DateStyle = 'SQL, DMY'; SELECT current_date - current_date")
            .query("ROLLBACK")
            .query("SET default_transaction_read_only = on")
            .query("SET default_transaction_read_only = off")
            .query("SET standard_conforming_strings = off; SET escape_string_warning = off")
            .query("RESET standard_conforming_strings")
            .query(
                "SELECT set_config('TimeZone', 'UTC', false), set_config('IntervalStyle', 'postgres', false)",
            )
            .query("SET TimeZone = 'nowhere'")
            .query("SET TimeZone = 'Asia/Tokyo'; SELECT 1 / 0")
            .extended("SET TimeZone = 'Asia/Seoul'", &[])
            .extended("SHOW TimeZone", &[])
            .query("BEGIN; SAVEPOINT a; SET TimeZone = 'Asia/Tokyo'; ROLLBACK TO a; COMMIT")
            .query("SHOW TimeZone"),
    );
}

/// Case 15: what newer versions report besides.
#[test]
fn reports_of_newer_versions_come_when_postgresql_sends_them() {
    let major = Cluster::shared().major();
    let mut script = Script::new("newer reports");
    if major >= 16 {
        script = script
            .query("BEGIN; SET scram_iterations = 5000")
            .query("SELECT 1")
            .query("ROLLBACK")
            .query("SET scram_iterations = 6000")
            .query("SHOW scram_iterations")
            .query("RESET scram_iterations");
    }
    if major >= 18 {
        script = script
            .query("BEGIN; SET search_path = pg_catalog")
            .query("ROLLBACK")
            .query("SET search_path = pg_catalog, public")
            .query("SHOW search_path")
            .query("SELECT 1")
            .query("RESET search_path");
    }
    faithful(&script.query("SELECT 'on every version'"));
}

/// Cases 6 and 15: a login is greeted alike whatever it sets.
#[test]
fn greetings_tell_what_the_startup_packet_has_set() {
    for (name, value) in [
        ("client_encoding", "latin1"),
        ("DateStyle", "german"),
        ("timezone", "asia/tokyo"),
        ("application_name", "n\u{e4}me"),
        ("intervalstyle", "ISO_8601"),
        ("standard_conforming_strings", "0"),
        ("options", "-c TimeZone=Europe/Paris -c TimeZone=Europe/Rome"),
        ("default_transaction_read_only", "true"),
    ] {
        let login = Role::Trust.login().parameter(name, value);
        let script = Script::new(name).query("SHOW TimeZone").query("SELECT 1");
        faithful_as(&script, login, &[], &[How::WHOLE, How::ROTATING]);
    }
}

/// Case 7: what pgvalet runs itself is PostgreSQL's own, whatever a role's search path puts in front of it.
#[test]
fn functions_in_the_search_path_are_not_taken_for_postgresqls() {
    let functions = [
        ("pg_advisory_unlock_all", "", "void"),
        ("set_config", "text, text, boolean", "text"),
        ("current_setting", "text", "text"),
        ("pg_backend_pid", "", "int"),
        ("lower", "text", "text"),
        ("array_agg", "text", "text[]"),
        ("format_type", "oid, int", "text"),
    ];
    let evil = functions.map(|(name, arguments, result)| {
        format!("CREATE FUNCTION evil.{name}({arguments}) RETURNS {result} {}", evil_body(name))
    });
    assert_nothing_evil_is_called(&evil);
}

/// Case 7: nor are operators and tables.
#[test]
fn operators_and_tables_in_the_search_path_are_not_taken_for_postgresqls() {
    let mut evil = vec!["CREATE TABLE evil.pg_class (x int); CREATE TABLE evil.pg_proc (x int)".to_string()];
    for kind in ["oid", "name", "text", "\"char\"", "int4", "int2", "bool"] {
        for operator in ["=", "<>", "<", ">", ">=", "<="] {
            let number = evil.len();
            let body = evil_body(&format!("{operator} of {}", kind.replace('"', "")));
            evil.push(format!(
                "CREATE FUNCTION evil.op{number}({kind}, {kind}) RETURNS boolean {body}; CREATE OPERATOR evil.{operator} \
                 (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = evil.op{number})"
            ));
        }
    }
    assert_nothing_evil_is_called(&evil);
}

/// The rest of a function that should not be called.
fn evil_body(what: &str) -> String {
    format!("LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil {what}'; END $$")
}

/// Puts objects in front of PostgreSQL's, and lets a client leave everything behind that pgvalet cleans up.
#[track_caller]
fn assert_nothing_evil_is_called(objects: &[String]) {
    let cluster = Cluster::start();
    cluster.sql("CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE SEQUENCE public.drawn");
    for object in objects {
        cluster.sql(object);
    }
    cluster.sql("ALTER ROLE app_trust SET search_path = evil, pg_catalog, public");
    let valet = Pgvalet::in_front_of(&cluster)
        .setting("auth_type = \"trust\"")
        .setting("unix_socket_mode = \"0700\"")
        .setting("default_pool_size = 1")
        .setting("server_check_delay = \"0\"")
        .start();
    let mut other = valet.client(Role::Trust);
    for what in [
        "SELECT pg_catalog.nextval('public.drawn')",
        "SELECT pg_catalog.pg_advisory_lock(1)",
        "SET TimeZone = 'Asia/Tokyo'",
        "SET work_mem = '3MB'",
        "LISTEN here",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "CREATE TEMPORARY TABLE own (x int)",
        "PREPARE own AS SELECT 1",
        "RESET ALL",
    ] {
        // What pins a client is gone when it has left.
        let mut one = valet.client(Role::Trust);
        assert_eq!(backend::first_error(&one.query(what)), None, "{what}");
        one.terminate();
        assert_eq!(other.value("SELECT 1"), "1", "{what}");
    }
    let pinned = valet.count_log(&["WARN", "every server of the pool is kept by one client"]);
    assert_eq!(valet.count_log(&["WARN"]), pinned, "{:?}", valet.log());
    assert!(!cluster.log().contains("ERROR"), "something evil was called:\n{}", cluster.log());
}
