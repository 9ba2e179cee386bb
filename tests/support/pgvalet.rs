//! A pgvalet process with a configuration of its own.
//!
//! pgvalet is told to listen on port 0 and says in its log which port it got (`listening address=...`), and when it serves
//! (`ready`). All that it logs is kept; a test that fails prints it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::cluster::{Cluster, DATABASE, PASSWORD, Role};
use super::guard::Guard;
use super::wire::{Client, Login};
use super::{Endpoint, eventually};

/// What a test wants to be different; each line is TOML.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    settings: Vec<String>,
    /// Sections such as `databases.app`, with their lines.
    sections: BTreeMap<String, Vec<String>>,
    environment: Vec<(String, String)>,
    start: Start,
}

/// How the process is started.
#[derive(Debug, Clone, Default)]
struct Start {
    /// Another program than the one under test.
    program: Option<PathBuf>,
    /// Listening sockets that it gets as systemd passes them; two at most.
    sockets: Vec<Arc<OwnedFd>>,
}

impl Builder {
    /// A general setting, such as `default_pool_size = 2`; it takes the place of an earlier one of its name.
    pub fn setting(mut self, line: &str) -> Self {
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_string();
        self.settings.retain(|known| key(known) != key(line));
        self.settings.push(line.into());
        self
    }

    /// A database of this name on a cluster, with further lines.
    pub fn database(self, name: &str, cluster: &Cluster, lines: &[&str]) -> Self {
        let place = ["host = \"127.0.0.1\"".to_string(), format!("port = {}", cluster.port())];
        self.section(&format!("databases.{}", quote(name)), &place).section_lines("databases", name, lines)
    }

    /// A database at any endpoint, such as a scripted server's, with further lines.
    pub fn database_at(self, name: &str, endpoint: &Endpoint, lines: &[&str]) -> Self {
        let (host, port) = endpoint.libpq();
        let place = [format!("host = {}", quote(&host)), format!("port = {port}")];
        self.section(&format!("databases.{}", quote(name)), &place).section_lines("databases", name, lines)
    }

    /// A database on a host of this name, with further lines.
    pub fn database_on(self, name: &str, host: &str, port: u16, lines: &[&str]) -> Self {
        let place = [format!("host = {}", quote(host)), format!("port = {port}")];
        self.section(&format!("databases.{}", quote(name)), &place).section_lines("databases", name, lines)
    }

    /// A user with a secret (plain, or as PostgreSQL stores it), with further lines.
    pub fn user(self, name: &str, secret: &str, lines: &[&str]) -> Self {
        let secret = [format!("password = {}", quote(secret))];
        self.section(&format!("users.{}", quote(name)), &secret).section_lines("users", name, lines)
    }

    /// A name by which clients reach pgvalet, with what they get there.
    pub fn name(self, name: &str, lines: &[&str]) -> Self {
        self.section(&format!("client_tls_names.{}", quote(name)), &[]).section_lines(
            "client_tls_names",
            name,
            lines,
        )
    }

    /// All roles of the test clusters, with their password.
    pub fn all_roles(self) -> Self {
        Role::ALL.iter().fold(self, |builder, role| builder.user(role.name(), PASSWORD, &[]))
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Passes a listening socket as systemd does for a socket unit.
    pub fn socket(mut self, socket: impl Into<OwnedFd>) -> Self {
        self.start.sockets.push(Arc::new(socket.into()));
        self
    }

    /// Starts this program and not the one under test.
    pub fn program(mut self, program: &Path) -> Self {
        self.start.program = Some(program.into());
        self
    }

    /// The TOML, with the Unix socket in `directory` unless a setting says otherwise.
    pub fn text(&self, directory: &Path) -> String {
        let socket = format!("unix_socket_dir = {}", quote(&directory.display().to_string()));
        let defaults = ["listen_addr = \"127.0.0.1\"", "listen_port = 0", &socket];
        let with_defaults = defaults.iter().fold(Self::default(), |builder, line| builder.setting(line));
        let all = self.settings.iter().fold(with_defaults, |builder, line| builder.setting(line));
        let mut text = all.settings.join("\n") + "\n";
        for (section, lines) in &self.sections {
            let _ = writeln!(text, "\n[{section}]\n{}", lines.join("\n"));
        }
        text
    }

    /// Starts pgvalet and waits until it serves; panics with its log if it ends instead.
    #[track_caller]
    pub fn start(self) -> Pgvalet {
        self.try_start().unwrap_or_else(|failure| panic!("pgvalet did not start: {failure:?}"))
    }

    /// Starts pgvalet and waits until it serves or ends.
    pub fn try_start(self) -> Result<Pgvalet, Failure> {
        let home = tempfile::Builder::new().prefix("pgvalet-").tempdir().expect("a temporary directory");
        let text = self.text(home.path());
        Pgvalet::launch(home, &text, &self.environment, &self.start)
    }

    fn section(mut self, section: &str, lines: &[String]) -> Self {
        self.sections.entry(section.into()).or_default().extend_from_slice(lines);
        self
    }

    fn section_lines(self, kind: &str, name: &str, lines: &[&str]) -> Self {
        let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
        self.section(&format!("{kind}.{}", quote(name)), &lines)
    }
}

impl Start {
    /// The program, with nothing to read or to write but the log.
    fn command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(binary);
        let copy = |socket: &Arc<OwnedFd>| socket.try_clone().expect("a descriptor to spare");
        let (stdin, stdout) = match &*self.sockets {
            [] => {
                let mut command = Command::new(program);
                command.stdin(Stdio::null()).stdout(Stdio::null());
                return command;
            }
            [one] => (copy(one), copy(one)),
            [one, other, ..] => (copy(one), copy(other)),
        };
        // Only the process itself can say for which process the sockets are.
        let script = format!(
            "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_FDS={} LISTEN_PID=$$ exec \"$0\" \"$@\"",
            self.sockets.len()
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).arg(program).stdin(stdin).stdout(stdout);
        command
    }
}

/// A pgvalet that ended instead of serving.
#[derive(Debug)]
pub struct Failure {
    pub status: ExitStatus,
    pub log: Vec<String>,
}

/// A running pgvalet; killed when dropped.
#[derive(Debug)]
pub struct Pgvalet {
    child: Mutex<Child>,
    pid: u32,
    log: Arc<Mutex<Vec<String>>>,
    home: TempDir,
    /// Processes that have taken its place.
    successors: Mutex<Vec<(u32, Guard)>>,
    _guard: Guard,
}

impl Pgvalet {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The databases `app` and `postgres` of a cluster, for all its roles; the caller adds what it needs.
    pub fn in_front_of(cluster: &Cluster) -> Builder {
        Self::builder().database(DATABASE, cluster, &[]).database("postgres", cluster, &[]).all_roles()
    }

    /// Starts pgvalet with a configuration given as text.
    pub fn with_config(text: &str) -> Result<Self, Failure> {
        let home = tempfile::Builder::new().prefix("pgvalet-").tempdir().expect("a temporary directory");
        Self::launch(home, text, &[], &Start::default())
    }

    /// The same with variables in its environment.
    pub fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let home = tempfile::Builder::new().prefix("pgvalet-").tempdir().expect("a temporary directory");
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self::launch(home, text, &variables, &Start::default())
    }

    /// The TCP endpoint.
    pub fn tcp(&self) -> Endpoint {
        self.listening().into_iter().find(|e| matches!(e, Endpoint::Tcp(_))).expect("pgvalet listens on TCP")
    }

    /// The Unix socket.
    pub fn unix(&self) -> Endpoint {
        self.listening()
            .into_iter()
            .find(|e| matches!(e, Endpoint::Unix(_)))
            .expect("pgvalet has a Unix socket")
    }

    /// All that pgvalet said it listens on.
    pub fn listening(&self) -> Vec<Endpoint> {
        self.log().iter().filter_map(|line| listening_address(line)).collect()
    }

    /// A session of `role` in the database `app`, over TCP.
    #[track_caller]
    pub fn client(&self, role: Role) -> Client {
        self.login(&role.login())
    }

    #[track_caller]
    pub fn login(&self, login: &Login) -> Client {
        Client::login(&self.tcp(), login).unwrap_or_else(|error| panic!("login of {}: {error}", login.user))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.home.path().join("pgvalet.toml")
    }

    /// The configuration as it is in the file now.
    pub fn config(&self) -> String {
        fs::read_to_string(self.config_path()).expect("the configuration is readable")
    }

    /// Writes another configuration; [`Pgvalet::sighup`] makes it count.
    pub fn write_config(&self, text: &str) {
        write_private(&self.config_path(), text);
    }

    pub fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    pub fn sigint(&self) {
        self.signal(Signal::INT);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.cast_signed()).expect("a process id is not zero");
        kill_process(pid, signal).expect("pgvalet takes a signal");
    }

    /// Whether the process has ended, and how.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().expect("a child can be waited for")
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        eventually("pgvalet to end", || self.exit_status())
    }

    /// Notes a process that has taken this one's place, so that it ends with the test. It logs to the same log.
    pub fn succeeded_by(&self, pid: u32) {
        lock(&self.successors).push((pid, Guard::kill(pid)));
    }

    /// Everything that pgvalet has logged.
    pub fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// How many lines contain all of these words.
    pub fn count_log(&self, words: &[&str]) -> usize {
        lock(&self.log).iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Waits for a line that contains all of these words.
    #[track_caller]
    pub fn wait_log(&self, words: &[&str]) -> String {
        eventually(&format!("a line of the log with {words:?}"), || {
            lock(&self.log).iter().find(|line| words.iter().all(|word| line.contains(word))).cloned()
        })
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("pgvalet runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("pgvalet runs").count()
    }

    fn launch(
        home: TempDir,
        text: &str,
        environment: &[(String, String)],
        start: &Start,
    ) -> Result<Self, Failure> {
        let path = home.path().join("pgvalet.toml");
        write_private(&path, text);
        let mut child = start
            .command()
            .arg(&path)
            .current_dir(home.path())
            .env("NO_COLOR", "1")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the pgvalet binary starts");
        let pid = child.id();
        let guard = Guard::kill_and_remove(pid, home.path());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sink, stderr) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        let drain = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                lock(&sink).push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        let successors = Mutex::default();
        let valet = Self { child: Mutex::new(child), pid, log, home, successors, _guard: guard };
        let ended = eventually("pgvalet to be ready", || {
            let ready = valet.count_log(&[" ready"]) > 0;
            if ready { Some(None) } else { valet.exit_status().map(Some) }
        });
        match ended {
            None => Ok(valet),
            Some(status) => {
                // All that it wrote is in the pipe by now.
                let _ = drain.join();
                Err(Failure { status, log: valet.log() })
            }
        }
    }
}

impl Drop for Pgvalet {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
        for (pid, _guard) in lock(&self.successors).drain(..) {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a process id is not zero");
            let _ = kill_process(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("--- log of pgvalet {}\n{}\n---", self.pid, lock(&self.log).join("\n"));
        }
    }
}

/// The program under test: the one that cargo has built, or `PGVALET_BIN`.
pub fn binary() -> PathBuf {
    std::env::var_os("PGVALET_BIN").map_or_else(|| env!("CARGO_BIN_EXE_pgvalet").into(), PathBuf::from)
}

/// A file that only its owner can read, since passwords are in it.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("the configuration is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the mode can be changed");
}

/// The address in a line such as `... INFO pgvalet::runtime::listener: listening address=127.0.0.1:45123`.
fn listening_address(line: &str) -> Option<Endpoint> {
    let (_, rest) = line.split_once(" listening ")?;
    let value = rest.split(' ').find_map(|word| word.strip_prefix("address="))?.trim_matches('"');
    match value.parse() {
        Ok(address) => Some(Endpoint::Tcp(address)),
        Err(_) => value.starts_with('/').then(|| Endpoint::Unix(PathBuf::from(value))),
    }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
