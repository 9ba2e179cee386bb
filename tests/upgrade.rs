//! A new process takes the place of a running one, with its listening sockets and its clients.

mod support;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::backend::{Message, first_error, rows};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend::{self, query};
use support::install::as_server_user;
use support::pgvalet::{Builder, Pgvalet, binary};
use support::programs::Pgbench;
use support::tls::{Authority, Dial, Files, Wanted};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, begin_endless, eventually};

fn house() -> Builder {
    Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 2")
}

fn console(valet: &Pgvalet) -> Client {
    valet.login(&Login::new("postgres", "pgvalet"))
}

/// Has a new process take over; its process id.
#[track_caller]
fn upgrade(valet: &Pgvalet) -> u32 {
    upgrade_as(valet, &Login::new("postgres", "pgvalet"))
}

#[track_caller]
fn upgrade_as(valet: &Pgvalet, login: &Login) -> u32 {
    let (ready, taken) = ([" ready"], ["another process has taken over"]);
    let before = [valet.count_log(&ready), valet.count_log(&taken)];
    let answer = valet.login(login).query("UPGRADE");
    assert_eq!(answer[0].command().as_deref(), Some("UPGRADE"), "{answer:?}");
    eventually("the new process to serve", || {
        let now = [valet.count_log(&ready), valet.count_log(&taken)];
        (now[0] > before[0] && now[1] > before[1]).then_some(())
    });
    let log = valet.log();
    let line = log.iter().rev().find(|line| line.contains(taken[0])).expect("it was just there");
    let pid = line.split("pid=").nth(1).and_then(|pid| pid.trim().parse().ok());
    let pid = pid.expect("the log names the new process");
    valet.succeeded_by(pid);
    pid
}

/// Why an upgrade is refused or fails.
#[track_caller]
fn failure(valet: &Pgvalet) -> String {
    let answer = console(valet).query("UPGRADE");
    assert!(first_error(&answer).is_some(), "{answer:?}");
    answer.iter().find_map(|message| message.field(b'M')).expect("an error has a message")
}

fn is_running(pid: u32) -> bool {
    // A child that has ended and was not waited for is a zombie.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id is not zero");
    test_kill_process(pid).is_ok() && !state.contains(") Z ")
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id is not zero");
    kill_process(pid, signal).expect("a signal is taken");
}

/// Clients of the database that the process which answers has.
fn clients(valet: &Pgvalet) -> usize {
    let rows = console(valet).rows("SHOW CLIENTS");
    rows.iter().filter(|row| row[2].as_deref() == Some(DATABASE)).count()
}

#[test]
fn pgbench_notices_nothing_of_two_upgrades_in_a_row() {
    for (protocol, connect) in [("simple", false), ("prepared", false), ("simple", true)] {
        // Where pgbench prepares, all clients of one of its threads wait for one: each may need a server.
        let size = if protocol == "prepared" { 12 } else { 4 };
        let valet = house().setting(&format!("default_pool_size = {size}")).start();
        let login = Role::Trust.login().password(PASSWORD);
        let script = "BEGIN;\nSELECT 1;\nSELECT pg_sleep(0.001);\nCOMMIT;\nSELECT 2;\n";
        let bench = Pgbench {
            clients: 12,
            transactions: if connect { 40 } else { 300 },
            protocol,
            script: Some(script.into()),
            arguments: if connect { vec!["-C".into()] } else { Vec::new() },
            ..Pgbench::default()
        };
        let endpoint = if protocol == "prepared" { valet.unix() } else { valet.tcp() };
        let running = bench.spawn(&endpoint, &login);
        eventually("pgbench to run", || (valet.count_log(&["client logged in"]) >= 12).then_some(()));
        let first = upgrade(&valet);
        let second = upgrade(&valet);
        assert!(!running.is_finished(), "the upgrades came too late for {protocol}");
        let report = running.join().expect("pgbench runs");
        assert_eq!(report.output.code, Some(0), "{protocol}: {}", report.output.stderr);
        assert_eq!((report.processed, report.failed), (u64::from(12 * bench.transactions), 0), "{protocol}");
        // The replaced processes are gone, with all that they had.
        assert_eq!(valet.wait_exit().code(), Some(0));
        eventually("the first new process to end", || (!is_running(first)).then_some(()));
        assert!(is_running(second));
        assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
        kill(second, Signal::TERM);
        eventually("the last one to end", || (!is_running(second)).then_some(()));
        assert!(!valet.home().join(valet.unix().to_string()).exists(), "its socket's file goes with it");
    }
}

#[test]
fn a_session_goes_on_as_it_was() {
    let valet = house().start();
    let mut client = valet.login(&Role::Trust.login().parameter("application_name", "mover"));
    client.query("SET work_mem = '7MB'");
    client.query("SET my.own = 'kept'");
    client.query("PREPARE by_sql (int) AS SELECT $1 + 1");
    client.send(&[frontend::parse("by_protocol", "SELECT $1::text || ' again'"), frontend::sync()].concat());
    client.until_ready();
    let key = client.cancel();
    let pid = upgrade(&valet);
    eventually("the client to be there", || (clients(&valet) == 1).then_some(()));
    assert_eq!(client.value("SHOW work_mem"), "7MB");
    assert_eq!(client.value("SELECT current_setting('my.own')"), "kept");
    assert_eq!(client.value("SELECT current_setting('application_name')"), "mover");
    assert_eq!(client.value("EXECUTE by_sql(41)"), "42");
    let execute =
        [frontend::bind("", "by_protocol", &[Some("once")]), frontend::execute("", 0), frontend::sync()];
    client.send(&execute.concat());
    assert_eq!(rows(&client.until_ready()), [[Some("once again".to_owned())]]);
    // RESET goes back to what it logged in with.
    client.query("RESET ALL");
    assert_eq!(client.value("SELECT current_setting('application_name')"), "mover");
    assert_ne!(client.value("SHOW work_mem"), "7MB");
    // Its cancel key is the one that it was told by the process that is gone.
    assert_eq!(valet.wait_exit().code(), Some(0));
    begin_endless(Cluster::shared(), &mut client);
    key.send().expect("a cancel request is taken");
    assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    assert!(is_running(pid));
}

#[test]
fn a_transaction_ends_where_it_began_and_is_canceled_from_the_other_process() {
    let valet = house().start();
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    client.query("CREATE TEMP TABLE mine (a int) ON COMMIT DROP");
    let mut half = valet.client(Role::Trust);
    let message = query("SELECT 'in two halves'");
    let (one, other) = message.split_at(9);
    half.send(one);
    upgrade(&valet);
    eventually("the idle client to be there", || (clients(&valet) == 1).then_some(()));
    half.send(other);
    assert_eq!(rows(&half.until_ready()), [[Some("in two halves".to_owned())]]);
    assert_eq!(client.value("SELECT count(*) FROM mine"), "0", "the transaction goes on");
    assert_eq!(valet.exit_status(), None);
    // The request comes to the new process, the client is with the old one.
    begin_endless(Cluster::shared(), &mut client);
    client.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
    client.query("ROLLBACK");
    assert_eq!(valet.wait_exit().code(), Some(0));
    assert_eq!(client.value("SELECT 'there'"), "there");
    assert_eq!(clients(&valet), 2);
}

#[test]
fn who_waits_in_line_and_who_is_paused_go_too() {
    let valet = house().setting("default_pool_size = 1").start();
    let mut holder = valet.client(Role::Trust);
    holder.query("BEGIN");
    let mut waiting = valet.client(Role::Trust);
    waiting.send(&query("SELECT 'served'"));
    let mut admin = console(&valet);
    eventually("the client to wait", || {
        let pools = admin.rows("SHOW POOLS");
        pools.iter().any(|row| row[3].as_deref() == Some("1")).then_some(())
    });
    upgrade(&valet);
    assert_eq!(rows(&waiting.until_ready()), [[Some("served".to_owned())]], "there is a server for it there");
    holder.query("COMMIT");
    assert_eq!(valet.wait_exit().code(), Some(0));
    // What was paused or disabled stays so.
    console(&valet).query("PAUSE app");
    console(&valet).query("DISABLE postgres");
    waiting.send(&query("SELECT 'after the pause'"));
    let again = upgrade(&valet);
    let refused = Client::login(&valet.tcp(), &Role::Trust.login().database("postgres"));
    assert!(matches!(refused, Err(LoginError::Refused(_))), "{refused:?}");
    let databases = console(&valet).rows("SHOW DATABASES");
    let app = databases.iter().find(|row| row[0].as_deref() == Some("app")).expect("the database");
    assert_eq!(app[15].as_deref(), Some("1"), "it is paused");
    console(&valet).query("RESUME app");
    assert_eq!(rows(&waiting.until_ready()), [[Some("after the pause".to_owned())]]);
    assert!(is_running(again));
}

/// A program that is pgvalet until it is replaced.
struct Program {
    home: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let program = Self { home };
        fs::hard_link(binary(), program.path())
            .or_else(|_| fs::copy(binary(), program.path()).map(drop))
            .expect("the program is copied");
        program
    }

    fn path(&self) -> std::path::PathBuf {
        self.home.path().join("pgvalet")
    }

    fn replace(&self, script: &str) {
        fs::remove_file(self.path()).expect("the program can be removed");
        fs::write(self.path(), format!("#!/bin/sh\n{script}\n")).expect("the program can be written");
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }

    fn remove(&self) {
        fs::remove_file(self.path()).expect("the program can be removed");
    }

    fn put_back(&self) {
        let _ = fs::remove_file(self.path());
        symlink(binary(), self.path()).expect("a link can be made");
    }
}

#[test]
fn a_new_process_that_cannot_start_changes_nothing() {
    let program = Program::new();
    let valet = house().setting("metrics_listen = \"127.0.0.1:0\"").program(&program.path()).start();
    let mut client = valet.client(Role::Trust);
    let good = valet.config();
    let still_serves = |client: &mut Client| {
        assert_eq!(client.value("SELECT 1"), "1");
        assert_eq!(valet.client(Role::Trust).value("SELECT 2"), "2");
        assert_eq!(valet.exit_status(), None);
        assert!(Path::new(&valet.unix().to_string()).exists());
    };
    // What is wrong with the configuration is told.
    valet.write_config("nonsense = 1\n");
    let reason = failure(&valet);
    assert!(reason.contains("this process goes on") && reason.contains("nonsense"), "{reason}");
    still_serves(&mut client);
    // An address that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("an address");
    let line = format!("metrics_listen = \"{address}\"");
    valet.write_config(&good.replace("metrics_listen = \"127.0.0.1:0\"", &line));
    let reason = failure(&valet);
    assert!(reason.contains(&format!("cannot listen on {address}")), "{reason}");
    still_serves(&mut client);
    valet.write_config(&good);
    // A program that ends, one that says nonsense, and none at all.
    program.replace("exit 3");
    let reason = failure(&valet);
    assert!(reason.contains("ended before it could serve (exit status: 3)"), "{reason}");
    program.replace("printf 'HTTP/1.1 200 OK' >&0");
    let reason = failure(&valet);
    assert!(reason.contains("the new process is not understood"), "{reason}");
    program.remove();
    let reason = failure(&valet);
    assert!(reason.contains("cannot start"), "{reason}");
    still_serves(&mut client);
    // And then it works.
    program.put_back();
    upgrade(&valet);
    assert_eq!(client.value("SELECT 3"), "3");
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn if_the_new_process_crashes_the_old_one_goes_on_while_it_is_there() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let pidfile = home.path().join("pid");
    let valet = house().setting(&format!("pidfile = \"{}\"", pidfile.display())).start();
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    let pid = upgrade(&valet);
    let number = || fs::read_to_string(&pidfile).unwrap_or_default().trim().parse::<u32>().ok();
    assert_eq!(number(), Some(pid));
    kill(pid, Signal::KILL);
    valet.wait_log(&["the process that had taken over is gone"]);
    eventually("the pidfile to name the old one again", || (number() == Some(valet.pid())).then_some(()));
    assert_eq!(client.value("SELECT 'here'"), "here");
    client.query("COMMIT");
    assert_eq!(client.value("SELECT 'and stays'"), "and stays");
    eventually("logins", || Client::login(&valet.unix(), &Role::Trust.login()).ok());
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
    // It can be upgraded again.
    let pid = upgrade(&valet);
    assert_eq!(client.value("SELECT 'gone over'"), "gone over");
    assert_eq!(valet.wait_exit().code(), Some(0));
    assert!(is_running(pid));
}

#[test]
fn clients_with_tls_or_a_server_of_their_own_stay_until_they_leave() {
    let (authority, files) = (Authority::new("clients' authority"), Files::default());
    files.identity("server", &authority.issue(&Wanted::local()));
    let path = |name: &str| files.path(name).display().to_string();
    let valet = house()
        .setting("client_tls_sslmode = \"allow\"")
        .setting(&format!("client_tls_cert_file = \"{}\"", path("server.crt")))
        .setting(&format!("client_tls_key_file = \"{}\"", path("server.key")))
        .setting("default_pool_size = 3")
        .start();
    let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
    let mut encrypted = Client::login_over(stream, &valet.tcp(), &Role::Trust.login()).expect("a login");
    let mut pinned = valet.client(Role::Trust);
    pinned.query("CREATE TEMP TABLE mine AS SELECT 5 AS five");
    let mut plain = valet.client(Role::Trust);
    upgrade(&valet);
    eventually("the plain client to be there", || (clients(&valet) == 1).then_some(()));
    for _ in 0..3 {
        assert_eq!(encrypted.value("SELECT 'served'"), "served");
        assert_eq!(pinned.value("SELECT five FROM mine"), "5");
        assert_eq!(plain.value("SELECT 1"), "1");
    }
    assert_eq!(valet.exit_status(), None);
    pinned.query("DROP TABLE mine");
    eventually("the client to go over once it keeps nothing", || (clients(&valet) == 2).then_some(()));
    assert_eq!(valet.exit_status(), None);
    encrypted.terminate();
    assert_eq!(valet.wait_exit().code(), Some(0));
    // What connects now has TLS with the new process.
    let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
    let mut encrypted = Client::login_over(stream, &valet.tcp(), &Role::Trust.login()).expect("a login");
    assert_eq!(encrypted.value("SELECT 1"), "1");
}

#[test]
fn upgrade_timeout_ends_who_does_not_leave() {
    let valet = house().setting("upgrade_timeout = \"300ms\"").setting("pool_mode = \"session\"").start();
    let mut client = valet.client(Role::Trust);
    client.query("SELECT 1");
    upgrade(&valet);
    assert_eq!(valet.wait_exit().code(), Some(0));
    let end = client.try_until_end().unwrap_or_default();
    assert_eq!(first_error(&end).as_deref(), Some("57P01"), "{end:?}");
}

#[test]
fn what_logins_have_taught_goes_over() {
    let cluster = Cluster::shared();
    let secret = cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_scram'");
    let valet = Pgvalet::builder()
        .setting("admin_users = [\"app_plain\"]")
        .database(DATABASE, cluster, &[])
        .user("app_scram", &secret, &[])
        .user("app_plain", PASSWORD, &[])
        .start();
    let mut client = valet.client(Role::Scram);
    client.query("SELECT 1");
    upgrade_as(&valet, &Role::Plain.login().database("pgvalet"));
    assert_eq!(valet.wait_exit().code(), Some(0));
    // Nobody has shown the new process a password.
    assert_eq!(client.value("SELECT session_user"), "app_scram");
}

#[test]
fn who_came_over_counts_where_clients_are_limited() {
    let valet = house().setting("max_db_client_connections = 1").start();
    let mut client = valet.client(Role::Trust);
    upgrade(&valet);
    assert_eq!(valet.wait_exit().code(), Some(0));
    let refused = Client::login(&valet.tcp(), &Role::Trust.login());
    assert!(matches!(refused, Err(LoginError::Refused(_))), "{refused:?}");
    assert_eq!(client.value("SELECT 1"), "1");
    client.terminate();
    eventually("the place to be free", || Client::login(&valet.tcp(), &Role::Trust.login()).ok());
    upgrade(&valet);
}

#[test]
fn a_process_in_the_background_is_replaced_with_its_pidfile() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let pidfile = home.path().join("pid");
    let valet = house().setting(&format!("pidfile = \"{}\"", pidfile.display())).start();
    let number = || fs::read_to_string(&pidfile).unwrap_or_default().trim().parse::<u32>().ok();
    assert_eq!(number(), Some(valet.pid()));
    let pid = upgrade(&valet);
    assert_eq!(valet.wait_exit().code(), Some(0));
    assert_eq!(number(), Some(pid), "the old one leaves the file alone");
    kill(pid, Signal::TERM);
    eventually("the file to go", || number().is_none().then_some(()));
}

#[test]
fn idle_servers_are_closed_as_clients_go() {
    let cluster = Cluster::start();
    let valet = Pgvalet::in_front_of(&cluster)
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("default_pool_size = 5")
        .start();
    let mut clients: Vec<Client> = (0..5).map(|_| valet.client(Role::Trust)).collect();
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    let sessions = || cluster.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_trust'");
    assert_eq!(sessions(), "5");
    upgrade(&valet);
    for client in &mut clients[1..] {
        client.query("COMMIT");
    }
    eventually("one server to be left", || (sessions() == "1").then_some(()));
    assert_eq!(valet.exit_status(), None);
    clients[0].query("COMMIT");
    eventually("none to be left", || (sessions() == "0").then_some(()));
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn systemd_is_told_of_the_new_main_process() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a datagram socket");
    socket.set_read_timeout(Some(support::DEADLINE)).expect("a deadline");
    let next = || {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let valet = house().environment("NOTIFY_SOCKET", &path.display().to_string()).start();
    assert!(next().contains("READY=1"));
    let pid = upgrade(&valet);
    assert_eq!(next().trim(), format!("MAINPID={pid}"));
    // systemd waits only for the end of its own children: nobody stands in between.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the new process runs");
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
    assert_ne!(parent, Some(&*valet.pid().to_string()));
    assert!(next().contains("READY=1"));
    assert_eq!(valet.wait_exit().code(), Some(0));
    kill(pid, Signal::TERM);
    assert!(next().contains("STOPPING=1"), "and not of the end of the old one");
}

#[test]
fn logins_find_a_process_at_every_moment() {
    let valet = house().start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for endpoint in [valet.tcp(), valet.unix()] {
            let (done, endpoint): (_, Endpoint) = (&done, endpoint);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let mut client = Client::login(&endpoint, &Role::Trust.login()).expect("a login");
                    let answer: Vec<Message> = client.query("SELECT 1");
                    assert_eq!(first_error(&answer), None);
                    client.terminate();
                }
            });
        }
        for _ in 0..3 {
            upgrade(&valet);
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// How many Unix sockets this process listens on.
fn listening(pid: u32) -> usize {
    let all = fs::read_to_string(format!("/proc/{pid}/net/unix")).expect("it runs");
    // Num RefCount Protocol Flags Type St Inode Path; the flag is that of a socket that listens.
    let listening: Vec<String> = all
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"00010000"))
        .map(|fields| format!("socket:[{}]", fields[6]))
        .collect();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let targets = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let ours = targets.filter(|target| listening.iter().any(|name| target.as_os_str() == name.as_str()));
    ours.collect::<std::collections::HashSet<_>>().len()
}

/// What is handed over has secrets in it and the clients themselves. It goes through a pair of sockets that only the process which
/// was started for it has: nothing can be connected to.
#[test]
fn nobody_can_connect_to_what_is_handed_over() {
    let valet = house().start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(listening(valet.pid()), 1, "the one for clients");
    let pid = upgrade(&valet);
    assert_eq!(listening(pid), 1);
    assert_eq!(client.value("SELECT 1"), "1");
}

/// Runs pgvalet as a new process, with one end of a pair of sockets as what it takes over from; what it said there, and why it ended.
fn take_over_as(mut command: Command, config: &Path) -> (usize, String) {
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let child = command
        .arg(config)
        .arg("--takeover")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(command);
    // Somebody who says nothing that makes sense.
    std::io::Write::write_all(&mut ours, &[0; 100]).expect("it is sent");
    ours.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut said = Vec::new();
    let _ = ours.read_to_end(&mut said);
    let output = child.wait_with_output().expect("it ends");
    assert!(!output.status.success());
    (said.len(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_process_takes_over_from_none_of_another_user() {
    let valet = house().start();
    let home = tempfile::tempdir().expect("a directory");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    // Where the other user can run it.
    let program = home.path().join("pgvalet");
    fs::copy(binary(), &program).expect("there is room");
    let (said, why) = take_over_as(Command::new(&program), &valet.config_path());
    assert!(said > 0 && why.contains("is not understood"), "{said} bytes, {why}");

    let (said, why) = take_over_as(as_server_user(&program), &valet.config_path());
    if rustix::process::geteuid().is_root() {
        assert!(
            said == 0 && why.contains("no connection to a process of the same user"),
            "{said} bytes, {why}"
        );
    } else {
        // Nobody else can be played: it is the same user as before.
        assert!(said > 0, "{why}");
    }
    let nothing =
        Command::new(&program).arg(valet.config_path()).arg("--takeover").stdin(Stdio::null()).output();
    let why = String::from_utf8_lossy(&nothing.expect("it runs").stderr).into_owned();
    assert!(why.contains("give UPGRADE on the admin console"), "{why}");
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}
