//! Runs psql and pgbench against an endpoint, with the clock of the harness over them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use super::install::Install;
use super::wire::Login;
use super::{Endpoint, guard::Guard, within};

/// How long a program may take; a pgbench run is bounded by its own arguments.
const LIMIT: Duration = Duration::from_secs(240);

/// What a program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// `None` if a signal (or the limit) ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output, without the last line end; panics if the program failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout.trim_end().to_string()
    }
}

/// Where a client program is: on the PATH, or next to a server.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(Install::all().iter().map(|install| install.bin.clone()));
    let found = places.iter().map(|place| place.join(program)).find(|file| file.is_file());
    found
        .unwrap_or_else(|| panic!("no {program} found: apt-get install postgresql-client postgresql-contrib"))
}

/// Runs SQL in psql as [`psql`] does, with further variables such as `PGSSLMODE`.
pub fn psql_with(endpoint: &Endpoint, login: &Login, environment: &[(&str, &str)], sql: &str) -> Output {
    let mut command = libpq("psql", endpoint, login);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    command.envs(environment.iter().copied());
    run(command)
}

/// Runs SQL in psql: no psqlrc, rows only, unaligned, stopping at the first error.
pub fn psql(endpoint: &Endpoint, login: &Login, sql: &str) -> Output {
    let mut command = libpq("psql", endpoint, login);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    run(command)
}

/// Runs any of PostgreSQL's client programs.
pub fn program(name: &str, endpoint: &Endpoint, login: &Login, arguments: &[&str]) -> Output {
    let mut command = libpq(name, endpoint, login);
    command.args(arguments);
    run(command)
}

/// pgbench's own `tpcb-like`.
pub const TPC_B: &str = "\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
";

/// pgbench's own `simple-update`, which `-N` plays: the same without the rows that all update.
pub fn simple_update() -> String {
    let is_left_out = |line: &&str| {
        line.starts_with("UPDATE pgbench_tellers") || line.starts_with("UPDATE pgbench_branches")
    };
    TPC_B.lines().filter(|line| !is_left_out(line)).map(|line| format!("{line}\n")).collect()
}

/// A pgbench run; without a script it is the built-in `select-only`, without tables a custom script is needed.
#[derive(Debug, Clone)]
pub struct Pgbench {
    pub clients: u32,
    pub threads: u32,
    /// Transactions of each client.
    pub transactions: u32,
    /// `simple`, `extended` or `prepared`.
    pub protocol: &'static str,
    /// SQL with pgbench's own commands; `None`: `select-only`.
    pub script: Option<String>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Default for Pgbench {
    fn default() -> Self {
        Self {
            clients: 8,
            threads: 2,
            transactions: 50,
            protocol: "simple",
            script: None,
            arguments: Vec::new(),
        }
    }
}

/// What pgbench counted.
#[derive(Debug, Clone)]
pub struct Report {
    pub output: Output,
    pub processed: u64,
    pub failed: u64,
}

impl Pgbench {
    /// Makes pgbench's tables.
    pub fn initialise(endpoint: &Endpoint, login: &Login, scale: u32) {
        let mut command = libpq("pgbench", endpoint, login);
        command.args(["-i", "-q", "-s", &scale.to_string()]);
        run(command).ok();
    }

    pub fn run(&self, endpoint: &Endpoint, login: &Login) -> Report {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let output = run(self.command(endpoint, login, directory.path()));
        let number = |label: &str| {
            let line = output.stdout.lines().find_map(|line| line.strip_prefix(label)).unwrap_or("0");
            let digits: String = line.trim_start().chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        };
        let processed = number("number of transactions actually processed:");
        let failed = number("number of failed transactions:");
        Report { processed, failed, output }
    }

    /// Runs it beside the test; joining gives the report.
    pub fn spawn(&self, endpoint: &Endpoint, login: &Login) -> JoinHandle<Report> {
        let (bench, endpoint, login) = (self.clone(), endpoint.clone(), login.clone());
        std::thread::spawn(move || bench.run(&endpoint, &login))
    }

    fn command(&self, endpoint: &Endpoint, login: &Login, directory: &Path) -> Command {
        let mut command = libpq("pgbench", endpoint, login);
        command
            .args(["-n", "-c", &self.clients.to_string(), "-j", &self.threads.min(self.clients).to_string()])
            .args(["-t", &self.transactions.to_string(), "-M", self.protocol])
            .args(&self.arguments);
        match &self.script {
            None => command.arg("-S"),
            Some(sql) => {
                let file = directory.join("script.sql");
                fs::write(&file, sql).expect("the script is written");
                command.arg("-f").arg(file)
            }
        };
        command
    }
}

fn libpq(program: &str, endpoint: &Endpoint, login: &Login) -> Command {
    let (host, port) = endpoint.libpq();
    let mut command = Command::new(find(program));
    command.env("PGHOST", host).env("PGPORT", port.to_string());
    command.env("PGUSER", &login.user).env("PGDATABASE", &login.database);
    command.env("PGPASSWORD", login.password.as_deref().unwrap_or_default());
    command.env("PGCONNECT_TIMEOUT", "30").env("PGCLIENTENCODING", "UTF8").env_remove("PGOPTIONS");
    command
}

fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let _guard = Guard::kill(child.id());
    let collect = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = collect(Box::new(child.stdout.take().expect("piped")));
    let stderr = collect(Box::new(child.stderr.take().expect("piped")));
    let status = within(LIMIT, || child.try_wait().expect("a child can be waited for"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |thread: JoinHandle<String>| thread.join().expect("a reading thread does not panic");
    Output { code: status.and_then(|status| status.code()), stdout: text(stdout), stderr: text(stderr) }
}
