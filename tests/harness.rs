//! Tests of the test harness itself, against PostgreSQL alone: what it says about pgvalet can only be trusted then.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::backend::{self, first_error, rows, tags};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role, StopMode};
use support::differential::{How, Script, Side, compare, try_compare};
use support::frontend;
use support::install::Install;
use support::pgvalet::{Pgvalet, binary};
use support::programs::{Pgbench, psql};
use support::scripted::{Act, Gate, ScriptedServer};
use support::transcript::Normalisation;
use support::wire::{Client, Login};
use support::{Endpoint, eventually, scram, within};

fn shared() -> (&'static Cluster, Side) {
    let cluster = Cluster::shared();
    (cluster, Side::direct(cluster, Role::Trust))
}

#[test]
fn every_role_logs_in_over_tcp_and_unix() {
    let cluster = Cluster::shared();
    for endpoint in [cluster.tcp(), cluster.unix()] {
        for role in Role::ALL {
            let mut client =
                Client::login(&endpoint, &role.login()).unwrap_or_else(|e| panic!("{role:?}: {e}"));
            assert_eq!(
                client.value("SELECT current_user || ' ' || current_database()"),
                format!("{} app", role.name())
            );
            client.terminate();
        }
    }
}

#[test]
fn each_method_is_the_one_that_the_role_is_named_after() {
    let cluster = Cluster::shared();
    for (role, code) in [(Role::Trust, 0), (Role::Plain, 3), (Role::Md5, 5), (Role::Scram, 10)] {
        let client = cluster.client(role);
        let first =
            client.greeting.iter().find(|message| message.tag == b'R').expect("an Authentication message");
        assert_eq!(first.body[..4], u32::to_be_bytes(code), "{role:?}: {first:?}");
    }
}

#[test]
fn a_wrong_password_is_refused_for_every_method() {
    let cluster = Cluster::shared();
    for role in [Role::Scram, Role::Md5, Role::Plain] {
        let error = Client::login(&cluster.tcp(), &role.login().password("wrong")).expect_err("refused");
        assert_eq!(error.sqlstate().as_deref(), Some("28P01"), "{role:?}: {error}");
    }
    assert!(
        Client::login(&cluster.tcp(), &Login::new(Role::Scram.name(), DATABASE)).is_err(),
        "no password at all"
    );
}

#[test]
fn secrets_are_computed_as_postgres_stores_them() {
    let cluster = Cluster::shared();
    let stored = |role: Role| {
        cluster.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", role.name()))
    };
    assert_eq!(stored(Role::Md5), scram::md5_secret(Role::Md5.name(), PASSWORD));
    let salt = cluster.value("SELECT split_part(split_part(rolpassword, ':', 2), '$', 1) FROM pg_authid WHERE rolname = 'app_scram'");
    let salt = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, salt).expect("base64");
    assert_eq!(stored(Role::Scram), scram::verifier(PASSWORD, &salt, 4096));
}

#[test]
fn messages_are_shown_in_words() {
    let mut client = Cluster::shared().client(Role::Trust);
    let shown = format!("{:?}", client.query("SELECT 1 AS one, NULL::text AS nothing, 'a\u{1}b'"));
    for part in
        ["one (type 23", "DataRow \"1\", NULL, \"a\\x01b\"", "CommandComplete SELECT 1", "ReadyForQuery I"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let error = client.query("SELECT 1 / 0");
    assert_eq!(first_error(&error).as_deref(), Some("22012"));
    assert_eq!(error[0].field(b'M').as_deref(), Some("division by zero"), "{error:?}");
    assert_eq!(tags(&client.extended("SELECT $1::int", &[Some("7")])), "12DCZ");
}

#[test]
fn every_built_server_message_reads_back_as_itself() {
    let built = [
        (backend::auth_ok(), "Authentication Ok"),
        (backend::parameter_status("a", "b"), "ParameterStatus a=b"),
        (backend::backend_key_data(7, &[1, 2, 3, 4]), "BackendKeyData pid 7, key of 4 bytes"),
        (backend::ready_for_query('T'), "ReadyForQuery T"),
        (backend::command_complete("BEGIN"), "CommandComplete BEGIN"),
        (backend::row_description(&["x"]), "RowDescription x (type 25 size -1 modifier -1 format 0)"),
        (backend::data_row(&[Some("v"), None]), "DataRow \"v\", NULL"),
        (backend::error_response("ERROR", "XX000", "no"), "ErrorResponse S=ERROR V=ERROR C=XX000 M=no"),
        (backend::notice_response("NOTICE", "00000", "oh"), "NoticeResponse S=NOTICE V=NOTICE C=00000 M=oh"),
        (backend::notification_response(9, "c", "p"), "NotificationResponse from 9 on c saying \"p\""),
        (backend::parameter_description(&[23]), "ParameterDescription [23]"),
        (backend::parse_complete(), "ParseComplete"),
    ];
    for (bytes, words) in built {
        let message = backend::Message { tag: bytes[0], body: bytes[5..].to_vec() };
        assert_eq!(format!("{message:?}"), words);
        assert_eq!(message.encode(), bytes);
    }
}

#[test]
fn bytes_arrive_however_they_are_cut() {
    let cluster = Cluster::shared();
    for size in [1, 2, 3, 7] {
        let login = Role::Scram.login().split(Some(size));
        let mut client = Client::login(&cluster.unix(), &login).expect("login in pieces");
        assert_eq!(client.value("SELECT 'cut'"), "cut");
        client.split = None;
        client.send_split(&frontend::extended("SELECT $1", &[Some("again")]), size);
        assert_eq!(rows(&client.until_ready()), [[Some("again".to_string())]]);
    }
}

#[test]
fn a_cancel_request_ends_the_query_of_its_session() {
    let cluster = Cluster::shared();
    let mut client = cluster.client(Role::Trust);
    let pid = client.pid();
    client.send(&frontend::query("SELECT pg_sleep(600)"));
    eventually("the query to run", || {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND query LIKE '%pg_sleep%'");
        (cluster.value(&sql) == "1").then_some(())
    });
    client.cancel().send().expect("the request is taken");
    assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
}

#[test]
fn clients_end_in_every_way() {
    let cluster = Cluster::shared();
    let gone = |pid: i32| {
        eventually("the session to end", || {
            (cluster.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "0")
                .then_some(())
        });
    };
    let client = cluster.client(Role::Trust);
    let pid = client.pid();
    client.terminate();
    gone(pid);
    let client = cluster.client(Role::Trust);
    let pid = client.pid();
    client.reset();
    gone(pid);
    let mut client = cluster.client(Role::Trust);
    client.half_close();
    assert!(client.until_end().is_empty());
}

#[test]
fn a_private_cluster_has_its_own_configuration_and_survives_restarts() {
    let cluster =
        Cluster::builder().config("work_mem = '5MB'").hba("host all app_trust 127.0.0.1/32 reject").start();
    assert_eq!(cluster.value("SHOW work_mem"), "5MB");
    let refused = Client::login(&cluster.tcp(), &Role::Trust.login()).expect_err("rejected");
    assert_eq!(refused.sqlstate().as_deref(), Some("28000"));
    cluster.sql("CREATE TABLE kept AS SELECT 1 AS x");
    let mut waiting = cluster.client(Role::Postgres);
    for mode in [StopMode::Fast, StopMode::Immediate] {
        cluster.stop(mode);
        assert!(Client::connect(&cluster.tcp()).is_err(), "nothing listens after {mode:?}");
        cluster.start_again();
    }
    assert_eq!(cluster.value("SELECT x FROM kept"), "1");
    assert_eq!(first_error(&waiting.until_end()).as_deref(), Some("57P01"));
    cluster.configure("work_mem = '6MB'");
    cluster.reload();
    assert_eq!(cluster.value("SHOW work_mem"), "6MB");
}

#[test]
fn backends_can_be_ended_killed_and_frozen() {
    let cluster = Cluster::start();
    let mut client = cluster.client(Role::Trust);
    cluster.terminate_backend(client.pid());
    assert_eq!(first_error(&client.until_end()).as_deref(), Some("57P01"));

    let mut client = cluster.client(Role::Trust);
    let pid = client.pid();
    cluster.freeze_backend(pid, true);
    client.send(&frontend::query("SELECT 1"));
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    eventually("the backend to stop", || state().contains(") T ").then_some(()));
    cluster.freeze_backend(pid, false);
    assert_eq!(tags(&client.until_ready()), "TDCZ");

    let mut other = cluster.client(Role::Trust);
    cluster.crash_backend(pid);
    // A session that is told nothing is possible too: in a crash PostgreSQL makes no promises.
    let last_words = other.until_end();
    assert!(
        last_words.iter().all(|message| message.field(b'C').as_deref() == Some("57P02")),
        "{last_words:?}"
    );
    eventually("the recovery", || Client::login(&cluster.tcp(), &Role::Trust.login()).ok());
}

#[test]
fn a_cluster_leaves_nothing_behind() {
    let cluster = Cluster::start();
    let (home, port) = (cluster.socket_dir().to_path_buf(), cluster.tcp());
    let postmaster = std::fs::read_to_string(home.join("data/postmaster.pid")).expect("it runs");
    let pid = postmaster.lines().next().expect("a process id").to_string();
    drop(cluster);
    assert!(!home.exists(), "the directory is gone");
    assert!(Client::connect(&port).is_err(), "nothing listens");
    assert!(!std::path::Path::new("/proc").join(pid).exists(), "the process is gone");
}

#[test]
fn a_cluster_ends_with_a_test_process_that_is_killed() {
    // The child runs only the test below, which starts a cluster, says where, and never ends by itself.
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "helper_that_starts_a_cluster_and_waits", "--nocapture"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a second test process");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let home =
        lines.filter_map(|line| line.split_once("cluster in ").map(|(_, home)| home.to_string())).next();
    let home = std::path::PathBuf::from(home.expect("the child says where its cluster is"));
    assert!(home.join("data/postmaster.pid").exists());
    child.kill().expect("the child is killed");
    child.wait().expect("the child is gone");
    eventually("the cluster of the killed process to go", || (!home.exists()).then_some(()));
}

#[test]
#[ignore = "runs only inside a_cluster_ends_with_a_test_process_that_is_killed"]
fn helper_that_starts_a_cluster_and_waits() {
    let cluster = Cluster::start();
    println!("cluster in {}", cluster.socket_dir().display());
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn every_version_found_runs() {
    for install in Install::all() {
        let cluster = Cluster::builder().major(install.major).start();
        let number: u32 = cluster.value("SHOW server_version_num").parse().expect("a number");
        assert_eq!(number / 10_000, install.major);
        for role in Role::ALL {
            cluster.client(role).terminate();
        }
    }
}

#[test]
fn the_programs_run() {
    let cluster = Cluster::start();
    let login = Role::Scram.login();
    assert_eq!(psql(&cluster.tcp(), &login, "SELECT 40 + 2").ok(), "42");
    assert_eq!(psql(&cluster.unix(), &login, "SELECT 1 / 0").code, Some(1));
    Pgbench::initialise(&cluster.unix(), &login, 1);
    let bench = Pgbench { clients: 4, transactions: 25, protocol: "prepared", ..Pgbench::default() };
    let report = bench.spawn(&cluster.tcp(), &login).join().expect("the thread does not panic");
    assert_eq!((report.processed, report.failed), (100, 0), "{:?}", report.output);
    let script = Pgbench { script: Some("SELECT :client_id;".into()), ..bench };
    assert_eq!(script.run(&cluster.tcp(), &login).processed, 100);
}

#[test]
fn a_script_is_the_same_as_itself_in_every_way_of_playing_it() {
    let (cluster, side) = shared();
    let script = Script::new("itself")
        .setup("CREATE TABLE harness_self (id int)")
        .before_each("TRUNCATE harness_self")
        .teardown("DROP TABLE harness_self")
        .query("INSERT INTO harness_self VALUES (1) RETURNING id")
        .query("LISTEN harness")
        .query("NOTIFY harness, 'hello'")
        .client("other")
        .parameter("application_name", "other")
        .query("SELECT * FROM harness_self")
        .query("SHOW application_name")
        .send(frontend::terminate())
        .end();
    for how in [How::WHOLE, How::BYTEWISE, How::ROTATING, How { split: Some(5), rotate: true }] {
        compare(cluster, &script, &side, &side, how);
    }
}

#[test]
fn a_difference_is_found_and_shown() {
    let (cluster, side) = shared();
    let mut other = side.clone();
    other.name = "the other".into();
    other.login = other.login.parameter("extra_float_digits", "-10");
    let script = Script::new("floats").query("SELECT 1").query("SELECT pi()").query("SELECT 2");
    let mismatch = try_compare(cluster, &script, &side, &other, How::WHOLE).expect_err("they differ");
    let shown = mismatch.to_string();
    let marked: Vec<&str> = shown.lines().filter(|line| line.trim_start().starts_with(">>")).collect();
    assert!(marked[0].contains("3.141592653589793") && marked[1].contains("3.1416"), "{shown}");
    assert!(shown.contains("the other") && shown.contains("\"floats\""), "{shown}");

    // A side that says less is a difference too.
    let mut shorter = side.clone();
    shorter.login.user = "nobody at all".into();
    assert!(try_compare(cluster, &script, &side, &shorter, How::WHOLE).is_err());

    // So is a script that both sides leave hanging, or cut short, in the same way.
    let cut_short = Script::new("cut short").send(frontend::terminate()).ready();
    let mismatch =
        try_compare(cluster, &cut_short, &side, &side, How::WHOLE).expect_err("nothing was proved");
    assert!(mismatch.to_string().contains("failed: the connection ended"), "{mismatch}");
}

#[test]
fn what_is_left_out_is_left_out_and_nothing_else() {
    let (cluster, side) = shared();
    let mut scram = Side::direct(cluster, Role::Scram);
    scram.login = scram.login.parameter("application_name", "x");
    let script = Script::new("login").query("SELECT 1");
    assert!(try_compare(cluster, &script, &side, &scram, How::WHOLE).is_err(), "parameters differ");
    let script = script
        .ignore(Normalisation::Parameter("application_name"))
        .ignore(Normalisation::Parameter("session_authorization"));
    compare(cluster, &script, &side, &scram, How::WHOLE);
    let script =
        Script::new("sources").errors(&["22012"]).ignore(Normalisation::ErrorSource).query("SELECT 1 / 0");
    compare(cluster, &script, &side, &side, How::WHOLE);
}

#[test]
#[should_panic(expected = "errors of PostgreSQL in the script \"mistyped\"")]
fn a_script_that_fails_for_another_reason_than_its_own_is_wrong() {
    let (cluster, side) = shared();
    compare(cluster, &Script::new("mistyped").query("SELECT * FROM no_such_table"), &side, &side, How::WHOLE);
}

#[test]
fn the_scripted_server_plays_what_it_is_told() {
    let (gate, key) = Gate::new();
    let answer = [backend::command_complete("MAGIC"), backend::ready_for_query('I')].concat();
    let server = ScriptedServer::start(vec![
        vec![
            Act::Login,
            Act::Expect(frontend::query("one")),
            Act::SendSplit(answer.clone(), 1),
            Act::ExpectTag(b'Q'),
            Act::Wait(gate),
            Act::Send(answer),
            Act::ExpectEnd,
        ],
        vec![Act::Startup, Act::Send(backend::error_response("FATAL", "53300", "full"))],
        vec![Act::Login, Act::Serve("SELECT 0")],
    ]);
    let login = Login::new("u", "d");
    let mut client = Client::login(&server.tcp(), &login).expect("login");
    assert_eq!(client.query("one")[0].command().as_deref(), Some("MAGIC"));
    client.send(&frontend::query("two"));
    client.cancel().send().expect("cancel");
    eventually("the cancel request", || (server.cancels() == [(4242, vec![1, 2, 3, 4])]).then_some(()));
    key.open();
    assert_eq!(client.until_ready()[0].command().as_deref(), Some("MAGIC"));
    client.terminate();
    let refused = Client::login(&server.tcp(), &login).expect_err("full");
    assert_eq!(refused.sqlstate().as_deref(), Some("53300"));
    Client::login(&server.tcp(), &login).expect("login").terminate();
    assert_eq!(server.startups().len(), 3);
    server.finish();
}

#[test]
#[should_panic(expected = "not (Query right)")]
fn the_scripted_server_reports_what_it_did_not_expect() {
    let server = ScriptedServer::start(vec![vec![Act::Login, Act::Expect(frontend::query("right"))]]);
    let mut client = Client::login(&server.tcp(), &Login::new("u", "d")).expect("login");
    client.send(&frontend::query("wrong"));
    client.until_end();
    server.finish();
}

#[test]
#[should_panic(expected = "the last messages that had come:\n")]
fn a_client_that_waits_in_vain_tells_the_story() {
    let mut client = Cluster::shared().client(Role::Trust);
    client.send(&frontend::terminate());
    client.recv();
}

#[test]
fn pgvalet_accepts_the_configuration_that_is_made_for_it() {
    let cluster = Cluster::shared();
    let builder = Pgvalet::in_front_of(cluster)
        .setting("default_pool_size = 3")
        .setting("default_pool_size = 2")
        .setting("listen_addr = [\"127.0.0.1\", \"::1\"]")
        .database_at("by socket", &cluster.unix(), &["dbname = \"app\"", "pool_size = 1"])
        .user("other \"user\"", "md5900150983cd24fb0d6963f7d28e17f72", &["query_timeout = \"5s\""]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = builder.text(directory.path());
    assert_eq!(text.matches("default_pool_size").count(), 1, "{text}");
    let file = directory.path().join("made.toml");
    std::fs::write(&file, &text).expect("the file is written");
    let output = Command::new(binary()).arg("check").arg(&file).output().expect("pgvalet runs");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn waiting_ends_at_its_limit() {
    assert_eq!(within(Duration::ZERO, || None::<()>), None);
    assert_eq!(within(Duration::ZERO, || Some(1)), Some(1));
    let unix = Endpoint::Unix("/tmp/x/.s.PGSQL.5433".into());
    assert_eq!(unix.libpq(), ("/tmp/x".to_string(), 5433));
}

/// What docs/protocol-cases.md names are tests that are there, and each case has some.
#[test]
fn the_cases_of_the_protocol_name_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/protocol-cases.md")).expect("the page is there");
    let source = |path: String| fs::read_to_string(root.join("tests").join(path)).unwrap_or_default();
    let mut cases = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        cases.extend(cells[0].trim_start_matches("| ").trim().parse::<u32>().ok());
        // Every second piece stands between backquotes.
        for name in cells[cells.len() - 1].split('`').skip(1).step_by(2) {
            let names: Vec<&str> = name.split("::").collect();
            let there = match names[..] {
                [file] => {
                    !source(format!("{file}.rs")).is_empty()
                        || root.join(format!("fuzz/fuzz_targets/{file}.rs")).exists()
                }
                [file, name] => {
                    !source(format!("{file}/{name}.rs")).is_empty()
                        || source(format!("{file}.rs")).contains(&format!("fn {name}("))
                }
                [file, part, name] => source(format!("{file}/{part}.rs")).contains(&format!("fn {name}(")),
                _ => false,
            };
            assert!(there, "there is no test {name}: {row}");
        }
    }
    assert!((1..=49).all(|case| cases.contains(&case)), "cases without a row: only {cases:?} have one");
}
