//! Runs pgbouncer and pgvalet with the same pgbouncer.ini, so that a test can compare them.
//!
//! Each has a directory of its own, which is also where its Unix socket is: nothing listens on TCP, so no port is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::guard::Guard;
use super::install::{as_server_user, give_to_server_user};
use super::pgvalet::binary;
use super::wire::{Client, Login};
use super::{DEADLINE, Endpoint, within};

/// The port in the names of the sockets.
const PORT: u16 = 6432;

/// Which pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Pgbouncer,
    Pgvalet,
}

/// A running pooler; killed when dropped.
#[derive(Debug)]
pub struct Pooler {
    pub program: Program,
    child: Child,
    home: TempDir,
    _guard: Guard,
}

impl Program {
    pub const BOTH: [Program; 2] = [Program::Pgbouncer, Program::Pgvalet];

    fn path(self) -> PathBuf {
        match self {
            Program::Pgbouncer => pgbouncer(),
            Program::Pgvalet => binary(),
        }
    }

    /// pgbouncer refuses root; both read and write the same directory.
    fn command(self) -> Command {
        match self {
            Program::Pgbouncer => as_server_user(&self.path()),
            Program::Pgvalet => Command::new(self.path()),
        }
    }

    /// What `--version` says.
    pub fn version(self) -> String {
        let output = Command::new(self.path()).arg("--version").output().expect("it runs");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }
}

/// The pgbouncer to compare with: `PGVALET_PGBOUNCER`, or the distribution's.
pub fn pgbouncer() -> PathBuf {
    let given = std::env::var_os("PGVALET_PGBOUNCER").map(PathBuf::from);
    let found = given.or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
        places.push("/usr/sbin".into());
        places.into_iter().map(|place| place.join("pgbouncer")).find(|file| file.is_file())
    });
    found.expect("no pgbouncer found: apt-get install pgbouncer, run tests/run.sh, or set PGVALET_PGBOUNCER")
}

impl Pooler {
    /// Starts a pooler with an ini, in which `@HOME@` is its directory, and further files there.
    ///
    /// The ini needs the admin `postgres`, who has to get in without a password.
    #[track_caller]
    pub fn start(program: Program, ini: &str, files: &[(&str, &str)]) -> Self {
        let home = tempfile::Builder::new().prefix("pooler-").tempdir().expect("a temporary directory");
        let own = home.path().display().to_string();
        let write = |name: &str, text: &str| {
            fs::write(home.path().join(name), text.replace("@HOME@", &own))
                .expect("the directory is writable");
        };
        write("pgbouncer.ini", ini);
        files.iter().for_each(|(name, text)| write(name, text));
        give_to_server_user(home.path());
        let mut child = program
            .command()
            .arg(home.path().join("pgbouncer.ini"))
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("the pooler starts");
        let guard = Guard::kill_and_remove(child.id(), home.path());
        let socket = socket(home.path());
        let ready = within(DEADLINE, || {
            if child.try_wait().expect("a child can be waited for").is_some() {
                return Some(false);
            }
            Client::login(&socket, &Login::new("postgres", "pgbouncer")).ok().map(|_| true)
        });
        let log = fs::read_to_string(home.path().join("stderr")).unwrap_or_default();
        assert_eq!(ready, Some(true), "{program:?} does not serve:\n{log}");
        Self { program, child, home, _guard: guard }
    }

    pub fn socket(&self) -> Endpoint {
        socket(self.home.path())
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What it has said on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default()
    }

    #[track_caller]
    pub fn login(&self, login: &Login) -> Client {
        Client::login(&self.socket(), login)
            .unwrap_or_else(|error| panic!("{:?}: {error}\n{}", self.program, self.log()))
    }

    pub fn console(&self) -> Client {
        self.login(&Login::new("postgres", "pgbouncer"))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it takes signals");
    }

    /// The exit code, once it has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().expect("a child can be waited for").map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {:?}\n{}\n---", self.program, self.log());
        }
    }
}

fn socket(home: &Path) -> Endpoint {
    Endpoint::Unix(home.join(format!(".s.PGSQL.{PORT}")))
}
