//! Real PostgreSQL clusters for tests.
//!
//! A cluster lives in one temporary directory (`data`, the Unix socket, `server.log`) and is gone with its value, or with
//! the test process if that is killed. `initdb` runs once per version and machine: its result is kept below `target/` and
//! copied. The port lies below the kernel's range for outgoing connections, so that nothing takes it during a restart.
//!
//! Every cluster has the database `app` and the roles of [`Role`]; `postgres` is a superuser that needs no password, and
//! what it creates in `app` is open to all roles.

use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::guard::Guard;
use super::install::{Install, ServerUser, give_to_server_user};
use super::tls::Identity;
use super::wire::{Client, Login};
use super::{Endpoint, eventually};

/// The password of every role that has one.
pub const PASSWORD: &str = "pa55 w\u{f6}rd";

/// A database that all roles may write to, besides `postgres`.
pub const DATABASE: &str = "app";

/// The roles of every cluster, one per way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Superuser, no password.
    Postgres,
    /// SCRAM-SHA-256.
    Scram,
    /// MD5.
    Md5,
    /// Password in the clear.
    Plain,
    /// No password.
    Trust,
}

impl Role {
    pub const ALL: [Self; 5] = [Self::Postgres, Self::Scram, Self::Md5, Self::Plain, Self::Trust];

    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Scram => "app_scram",
            Self::Md5 => "app_md5",
            Self::Plain => "app_plain",
            Self::Trust => "app_trust",
        }
    }

    /// How this role logs in to the database [`DATABASE`].
    pub fn login(self) -> Login {
        Login::new(self.name(), DATABASE).password(PASSWORD)
    }
}

/// How a cluster is stopped; PostgreSQL's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for all sessions to end.
    Smart,
    /// Ends the sessions with 57P01.
    Fast,
    /// Ends the sessions with 57P02 at best, and does not shut down cleanly.
    Immediate,
}

/// A running (or stopped) PostgreSQL.
#[derive(Debug)]
pub struct Cluster {
    install: &'static Install,
    port: u16,
    /// The server process; `None` while stopped.
    process: Mutex<Option<Child>>,
    home: TempDir,
    // Last: it is told that all is done only after the directory has gone.
    _guard: Guard,
}

/// What is special about a cluster.
#[derive(Debug, Default)]
pub struct Builder {
    major: Option<u32>,
    config: String,
    hba: String,
    /// Further files of the data directory: name and content.
    files: Vec<(String, String)>,
}

impl Builder {
    /// TLS with this certificate.
    pub fn tls(self, identity: &Identity) -> Self {
        self.config("ssl = on").file("server.crt", &identity.certificate).file("server.key", &identity.key)
    }

    /// A file in the data directory, for its owner only.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }

    /// A line of `postgresql.conf`; the last one of a name counts.
    pub fn config(mut self, line: &str) -> Self {
        let _ = writeln!(self.config, "{line}");
        self
    }

    /// A line of `pg_hba.conf`, in front of those that every cluster has.
    pub fn hba(mut self, line: &str) -> Self {
        let _ = writeln!(self.hba, "{line}");
        self
    }

    /// A major version that [`Install::of_major`] finds.
    pub fn major(mut self, major: u32) -> Self {
        self.major = Some(major);
        self
    }

    pub fn start(self) -> Cluster {
        let install = match self.major {
            Some(major) => {
                Install::of_major(major).unwrap_or_else(|| panic!("no PostgreSQL {major} on this machine"))
            }
            None => Install::default_one(),
        };
        Cluster::create(install, &self)
    }
}

impl Cluster {
    /// The cluster that all tests of this binary may share: nobody stops it, changes roles or ALTER SYSTEMs in it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A cluster of one's own.
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn major(&self) -> u32 {
        self.install.major
    }

    pub fn install(&self) -> &'static Install {
        self.install
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_dir(&self) -> &Path {
        self.home.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn tcp(&self) -> Endpoint {
        Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    pub fn unix(&self) -> Endpoint {
        Endpoint::Unix(self.home.path().join(format!(".s.PGSQL.{}", self.port)))
    }

    /// A session of `role` in [`DATABASE`], over TCP.
    pub fn client(&self, role: Role) -> Client {
        Client::login(&self.tcp(), &role.login()).unwrap_or_else(|error| panic!("login of {role:?}: {error}"))
    }

    /// Runs one simple query as superuser in [`DATABASE`]; its rows as text. Panics if PostgreSQL refuses it.
    pub fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.client(Role::Postgres).rows(sql)
    }

    /// The first column of the only row, such as a count.
    pub fn value(&self, sql: &str) -> String {
        self.client(Role::Postgres).value(sql)
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("server.log")).unwrap_or_default()
    }

    /// Stops the server and waits for its end.
    pub fn stop(&self, mode: StopMode) {
        let mut process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(mut child) = process.take() else { return };
        let signal = match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        let _ = kill_process(pid_of(child.id()), signal);
        child.wait().expect("the server can be waited for");
    }

    /// Starts the server again after [`Cluster::stop`], on the same port.
    pub fn start_again(&self) {
        let mut process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(process.is_none(), "the cluster runs");
        *process = Some(launch(self.install, self.home.path(), self.port).unwrap_or_else(|log| {
            panic!("PostgreSQL did not start again:\n{log}");
        }));
    }

    pub fn restart(&self, mode: StopMode) {
        self.stop(mode);
        self.start_again();
    }

    /// Makes the server read its configuration files again, and waits until new sessions use it.
    pub fn reload(&self) {
        let loaded = "SELECT pg_conf_load_time()";
        let before = self.value(loaded);
        self.sql("SELECT pg_reload_conf()");
        eventually("the configuration to be read again", || (self.value(loaded) != before).then_some(()));
    }

    /// Appends a line to `postgresql.conf`; takes effect with [`Cluster::reload`] or [`Cluster::restart`].
    pub fn configure(&self, line: &str) {
        let path = self.data_dir().join("postgresql.conf");
        let text = fs::read_to_string(&path).expect("postgresql.conf is readable");
        fs::write(&path, format!("{text}{line}\n")).expect("postgresql.conf is writable");
    }

    /// Ends one session as `pg_terminate_backend` does: it sees FATAL 57P01.
    pub fn terminate_backend(&self, pid: i32) {
        let _ = kill_process(pid_of(pid.cast_unsigned()), Signal::TERM);
    }

    /// Kills one backend without warning: PostgreSQL then ends all sessions and recovers.
    pub fn crash_backend(&self, pid: i32) {
        let _ = kill_process(pid_of(pid.cast_unsigned()), Signal::KILL);
    }

    /// Stops a backend in its tracks, or lets it go on: a server that hangs.
    pub fn freeze_backend(&self, pid: i32, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let _ = kill_process(pid_of(pid.cast_unsigned()), signal);
    }

    fn create(install: &'static Install, builder: &Builder) -> Self {
        let home = tempfile::Builder::new().prefix("pgvalet-").tempdir().expect("a temporary directory");
        let guard = Guard::remove_cluster(home.path());
        copy_tree(&template(install), &home.path().join("data"));
        for _ in 0..20 {
            let port = free_port();
            write_files(home.path(), port, builder);
            match launch(install, home.path(), port) {
                Ok(child) => {
                    return Self { install, port, process: Mutex::new(Some(child)), home, _guard: guard };
                }
                // Somebody else was faster. The server says so and ends, so it is never somebody else's that answers.
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("PostgreSQL did not start:\n{log}"),
            }
        }
        panic!("no free port in 20 attempts");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(StopMode::Immediate);
    }
}

/// Starts the server and waits until it accepts connections; gives the log back if it ends instead.
fn launch(install: &Install, home: &Path, port: u16) -> Result<Child, String> {
    let log_path = home.join("server.log");
    let log =
        fs::OpenOptions::new().create(true).append(true).open(&log_path).expect("server.log is writable");
    let start = log.metadata().map_or(0, |metadata| metadata.len());
    let mut child = install
        .command("postgres")
        .arg("-D")
        .arg(home.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle of server.log"))
        .stderr(log)
        .spawn()
        .expect("postgres (or setpriv) starts");
    let socket = Endpoint::Unix(home.join(format!(".s.PGSQL.{port}")));
    let ready = super::within(super::DEADLINE, || {
        if child.try_wait().expect("the server can be waited for").is_some() {
            return Some(false);
        }
        Client::login(&socket, &Login::new("postgres", "postgres")).ok().map(|_| true)
    });
    if ready == Some(true) {
        return Ok(child);
    }
    let _ = kill_process(pid_of(child.id()), Signal::QUIT);
    let _ = child.wait();
    let text = fs::read_to_string(log_path).unwrap_or_default();
    Err(text.get(usize::try_from(start).unwrap_or(0)..).unwrap_or_default().to_string())
}

fn write_files(home: &Path, port: u16, builder: &Builder) {
    let data = home.join("data");
    let config = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{home}'\n\
         max_connections = 200\nmax_prepared_transactions = 20\nshared_buffers = 32MB\n\
         fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum = off\n\
         dynamic_shared_memory_type = mmap\nlog_line_prefix = '%p %u@%d '\n\
         timezone = 'UTC'\nlog_timezone = 'UTC'\ndatestyle = 'iso, mdy'\nlc_messages = 'C'\n{more}",
        home = home.display(),
        more = builder.config,
    );
    let mut hba = builder.hba.clone();
    for (kind, address) in [("local", ""), ("host", "127.0.0.1/32")] {
        for (role, method) in [(Role::Scram, "scram-sha-256"), (Role::Md5, "md5"), (Role::Plain, "password")]
        {
            let _ = writeln!(hba, "{kind} all {} {address} {method}", role.name());
        }
        let _ = writeln!(hba, "{kind} all all {address} trust\n{kind} replication all {address} trust");
    }
    fs::write(data.join("postgresql.conf"), config).expect("postgresql.conf is writable");
    fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf is writable");
    for (name, content) in &builder.files {
        let file = data.join(name);
        fs::write(&file, content).expect("the data directory is writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the mode can be changed");
    }
    fs::write(home.join("server.log"), "").expect("server.log is writable");
    give_to_server_user(home);
}

/// A data directory with the roles and the database, made once per version.
fn template(install: &Install) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // What the template depends on is in its name, so that no change of it can be missed.
    let identity = format!("{install:?} {:?} {:?}", ServerUser::get(), setup_sql());
    let digest = <sha2::Sha256 as sha2::Digest>::digest(identity.as_bytes());
    let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pg{}-{name}", install.major));
    if place.join("PG_VERSION").is_file() {
        return place;
    }
    let work = tempfile::Builder::new().prefix("pgvalet-initdb-").tempdir().expect("a temporary directory");
    give_to_server_user(work.path());
    let data = work.path().join("data");
    let mut initdb = install.command("initdb");
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&data);
    run(initdb, "initdb", "");
    for (database, sql) in setup_sql() {
        let mut single = install.command("postgres");
        single.args(["--single", "-j", "-c", "fsync=off", "-D"]).arg(&data).arg(database);
        run(single, "postgres --single", &sql);
    }
    // Renamed into place as a whole: other test binaries may be making the same one.
    let copy =
        tempfile::Builder::new().prefix("new-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("in target");
    let fresh = copy.path().join("data");
    copy_tree(&data, &fresh);
    let renamed = fs::rename(&fresh, &place);
    assert!(renamed.is_ok() || place.join("PG_VERSION").is_file(), "rename to {}", place.display());
    place
}

/// What is run in which database of the template. (With `-j`, an empty line ends a statement.)
fn setup_sql() -> [(&'static str, String); 2] {
    let secret = format!("LOGIN PASSWORD '{PASSWORD}'");
    let make = [
        "SET password_encryption = 'scram-sha-256'".to_string(),
        format!("CREATE ROLE {} {secret}", Role::Scram.name()),
        format!("CREATE ROLE {} {secret}", Role::Plain.name()),
        format!("CREATE ROLE {} LOGIN", Role::Trust.name()),
        "SET password_encryption = 'md5'".to_string(),
        format!("CREATE ROLE {} {secret}", Role::Md5.name()),
        format!("CREATE DATABASE {DATABASE}"),
        format!("GRANT ALL ON DATABASE {DATABASE} TO PUBLIC"),
    ];
    let grant = [
        "GRANT ALL ON SCHEMA public TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON SEQUENCES TO PUBLIC",
    ];
    let text = |statements: &[String]| statements.join(";\n\n") + ";\n\n";
    [("postgres", text(&make)), (DATABASE, text(&grant.map(String::from)))]
}

fn run(mut command: std::process::Command, what: &str, input: &str) {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    // A failed statement in single-user mode does not show in the exit status.
    assert!(
        output.status.success() && !errors.contains("ERROR:"),
        "{what}: {}\n{errors}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "copy of {}", from.display());
}

/// A port that is free now. Where the kernel takes ports for outgoing connections it could be gone a moment later.
pub fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 15_000 + u16::try_from(random % 17_000).expect("below 17,000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("a process id is not zero")
}
