//! pgvalet in the place of a pgbouncer that was started by a script: flags, background, pidfile, log files, another user.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::cluster::Cluster;
use support::install::{ServerUser, give_to_server_user};
use support::pgvalet::binary;
use support::poolers::{Pooler, Program};
use support::wire::{Client, Login};
use support::{Endpoint, eventually, frontend};
use tempfile::TempDir;

/// A directory with an ini whose daemon would write everything there.
struct Place {
    home: TempDir,
}

impl Place {
    fn new(lines: &str) -> Self {
        let home = tempfile::Builder::new().prefix("pgvalet-").tempdir().expect("a temporary directory");
        let own = home.path().display();
        let port = Cluster::shared().port();
        let ini = format!(
            "[databases]\napp = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_port = 6432\nunix_socket_dir = {own}\n\
             auth_type = trust\nauth_file = {own}/users\nadmin_users = postgres\n{lines}\n"
        );
        fs::write(home.path().join("pgbouncer.ini"), ini.replace("@HOME@", &own.to_string()))
            .expect("a file");
        fs::write(home.path().join("users"), "\"postgres\" \"\"\n").expect("a file");
        give_to_server_user(home.path());
        Self { home }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn run(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(flags).arg(self.file("pgbouncer.ini")).current_dir(self.home.path());
        command.output().expect("pgvalet runs")
    }

    fn socket(&self) -> Endpoint {
        Endpoint::Unix(self.file(".s.PGSQL.6432"))
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(fs::read_to_string(self.file("pid")).ok()?.trim().parse().ok()?)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

const DAEMON: &str = "pidfile = @HOME@/pid\nlogfile = @HOME@/log";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").uid()
}

#[test]
fn a_daemon_serves_when_its_caller_returns_and_takes_its_files_with_it() {
    let place = Place::new(DAEMON);
    let output = place.run(&["-d"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let pid = place.pid().expect("a pidfile");
    let mut client =
        Client::login(&place.socket(), &Login::new("postgres", "app")).expect("it serves already");
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(place.log().contains("ready"), "{}", place.log());

    // A second one says so to its caller and leaves the first alone.
    let again = place.run(&["--daemon"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(place.log().contains("another process listens there"), "{}", place.log());
    assert_eq!(place.pid(), Some(pid));

    // The log is rotated as logrotate does it.
    fs::rename(place.file("log"), place.file("log.1")).expect("the file can be moved");
    kill_process(pid, Signal::HUP).expect("it runs");
    eventually("a new log", || place.log().contains("configuration reloaded").then_some(()));

    client.terminate();
    kill_process(pid, Signal::TERM).expect("it runs");
    eventually("its end", || test_kill_process(pid).is_err().then_some(()));
    assert!(!place.file("pid").exists() && !place.file(".s.PGSQL.6432").exists());
    assert!(place.log().contains("ended"));
}

#[test]
fn reboot_replaces_the_process_that_runs_and_starts_one_if_none_does() {
    let place = Place::new(DAEMON);
    let output = place.run(&["-R", "-d"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let first = place.pid().expect("a pidfile");
    let mut client = Client::login(&place.socket(), &Login::new("postgres", "app")).expect("a login");
    assert_eq!(client.value("SELECT 1"), "1");
    let output = place.run(&["--reboot", "-d"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let second = eventually("the new one's number", || place.pid().filter(|pid| *pid != first));
    assert_eq!(client.value("SELECT 'still there'"), "still there");
    client.terminate();
    eventually("the first to end", || test_kill_process(first).is_err().then_some(()));
    // What cannot be replaced goes on, and whoever restarts it is told.
    let ini = fs::read_to_string(place.file("pgbouncer.ini")).expect("the ini");
    fs::write(place.file("broken.ini"), format!("{ini}nonsense = 1\n")).expect("a file");
    fs::rename(place.file("broken.ini"), place.file("pgbouncer.ini")).expect("it can be replaced");
    let output = place.run(&["-R", "-d"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nonsense"), "{}", said(&output));
    assert_eq!(place.pid(), Some(second));
    assert!(Client::login(&place.socket(), &Login::new("postgres", "app")).is_ok());
}

#[test]
fn what_a_daemon_lacks_is_told_at_once() {
    for (lines, lacks) in [("logfile = @HOME@/log", "pidfile"), ("pidfile = @HOME@/pid", "logfile")] {
        let place = Place::new(lines);
        let output = place.run(&["-d"]);
        assert_eq!(output.status.code(), Some(1));
        let said = said(&output);
        assert!(said.contains(lacks) && said.contains("--daemon needs it"), "{said}");
    }
    let place = Place::new("pidfile = @HOME@/pid\nlogfile = @HOME@/nowhere/log");
    let output = place.run(&["-d"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cannot write the log to"), "{}", said(&output));
}

#[test]
fn a_pidfile_of_a_process_that_lives_is_respected_and_an_old_one_is_not() {
    let place = Place::new(DAEMON);
    fs::write(place.file("pid"), format!("{}\n", std::process::id())).expect("a file");
    let output = place.run(&["-q"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said(&output), "", "it was told to be quiet");
    assert!(place.log().contains("which runs"), "{}", place.log());
    fs::write(place.file("pid"), "0\n").expect("a file");
    assert_eq!(place.run(&["-d", "-q"]).status.code(), Some(0), "{}", place.log());
}

#[test]
fn the_user_can_be_changed_by_root_only() {
    let place = Place::new(DAEMON);
    let unknown = place.run(&["-u", "nobody-of-this-name"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("there is no such user"), "{}", said(&unknown));
    let nobody = ServerUser::get().map_or("root", |_| "nobody");
    if ServerUser::get().is_some() {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(place.home.path(), everybody).expect("the mode can be changed");
    }
    let output = place.run(&["-d", "-u", nobody]);
    if ServerUser::get().is_none() {
        assert!(said(&output).contains("start pgvalet as root"), "{}", said(&output));
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for name in ["pid", "log", ".s.PGSQL.6432"] {
        assert_eq!(owner(&place.file(name)), 65_534, "{name}");
    }
}

#[test]
fn verbose_shows_more_and_version_says_what_the_console_says() {
    let place = Place::new(DAEMON);
    assert_eq!(place.run(&["-d", "-v", "-v"]).status.code(), Some(0));
    let mut console =
        Client::login(&place.socket(), &Login::new("postgres", "pgbouncer")).expect("a console");
    assert!(place.log().contains("TRACE") || place.log().contains("DEBUG"), "{}", place.log());
    let shown = console.value("SHOW VERSION");
    for flag in ["-V", "--version"] {
        let output = Command::new(binary()).arg(flag).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().next(), Some(&*shown));
    }
}

#[test]
fn every_flag_of_pgbouncer_is_known_by_both_names() {
    let both = [
        ["-d", "--daemon"],
        ["-q", "--quiet"],
        ["-v", "--verbose"],
        ["-R", "--reboot"],
        ["-u", "--user"],
        ["-V", "--version"],
        ["-h", "--help"],
    ];
    for flag in both.as_flattened() {
        let value = ["-u", "--user"].contains(flag).then_some("nobody");
        // A file that is not there is looked for only behind a flag that is known; help and version end before that.
        let output =
            Command::new(binary()).arg(flag).args(value).arg("/nowhere.ini").output().expect("it runs");
        let ends = ["-V", "--version", "-h", "--help"].contains(flag);
        assert_eq!(output.status.code(), Some(if ends { 0 } else { 1 }), "{flag}: {}", said(&output));
        assert!(ends || said(&output).contains("/nowhere.ini: cannot read"), "{flag}: {}", said(&output));
    }
    // With a value attached, several in one word, and more than once.
    let output = Command::new(binary()).args(["-qvv", "-unobody", "--user=nobody", "/nowhere.ini"]).output();
    assert_ne!(output.expect("it runs").status.code(), Some(1), "a user is given once");
    let output =
        Command::new(binary()).args(["-dqvv", "-unobody", "/nowhere.ini"]).output().expect("it runs");
    assert!(said(&output).contains("/nowhere.ini: cannot read"), "{}", said(&output));
}

#[test]
fn signals_do_what_pgbouncer_documents() {
    let cluster = Cluster::shared();
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nunix_socket_dir = @HOME@\nauth_type = trust\n\
         auth_file = users\nadmin_users = postgres\npool_mode = transaction\n",
        cluster.port()
    );
    let start = || Pooler::start(Program::Pgvalet, &ini, &[("users", "\"postgres\" \"\"\n")]);
    let login = Login::new("postgres", "app");

    // TERM waits for all clients, and lets them work.
    let mut pooler = start();
    let mut client = pooler.login(&login);
    pooler.signal(Signal::TERM);
    eventually("the listener to be closed", || Client::connect(&pooler.socket()).is_err().then_some(()));
    assert_eq!(client.value("SELECT 'served'"), "served");
    assert_eq!(pooler.exit_code(), None);
    client.terminate();
    assert_eq!(eventually("its end", || pooler.exit_code()), 0);

    // A second TERM ends at once, also in a transaction.
    let mut pooler = start();
    let mut client = pooler.login(&login);
    client.query("BEGIN");
    pooler.signal(Signal::TERM);
    eventually("the listener to be closed", || Client::connect(&pooler.socket()).is_err().then_some(()));
    pooler.signal(Signal::TERM);
    assert_eq!(eventually("its end", || pooler.exit_code()), 0);

    // INT waits for transactions, not for clients.
    let mut pooler = start();
    let (mut idle, mut busy) = (pooler.login(&login), pooler.login(&login));
    busy.query("BEGIN");
    pooler.signal(Signal::INT);
    idle.until_end();
    assert_eq!(busy.value("SELECT 'not interrupted'"), "not interrupted");
    assert_eq!(pooler.exit_code(), None);
    busy.send(&frontend::query("COMMIT"));
    assert_eq!(busy.until_end()[0].command().as_deref(), Some("COMMIT"));
    assert_eq!(eventually("its end", || pooler.exit_code()), 0);

    // QUIT waits for nobody.
    let mut pooler = start();
    let mut busy = pooler.login(&login);
    busy.query("BEGIN");
    pooler.signal(Signal::QUIT);
    assert_eq!(eventually("its end", || pooler.exit_code()), 0);
}
