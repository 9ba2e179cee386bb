//! Finds PostgreSQL installations, and runs their programs as a user that PostgreSQL accepts.
//!
//! Places, in order of preference: `PGVALET_PG_BIN`, the newest version of the distribution, the PATH, and what
//! `tests/run.sh` unpacked (`.cache/postgres/<major>` in the repository, or `/var/cache/pgvalet-tests/postgres`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One PostgreSQL server version on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Major version, such as 17.
    pub major: u32,
    /// As `postgres --version` says it.
    pub version: String,
    /// The directory of `initdb` and `postgres`.
    pub bin: PathBuf,
}

impl Install {
    /// The one that tests use unless they ask for another: `PGVALET_PG_BIN`, or the first of [`Install::all`].
    pub fn default_one() -> &'static Self {
        Self::all().first().expect(
            "no PostgreSQL found: install it (apt-get install postgresql), run tests/run.sh, or set PGVALET_PG_BIN",
        )
    }

    /// The installation of a major version, if there is one.
    pub fn of_major(major: u32) -> Option<&'static Self> {
        Self::all().iter().find(|install| install.major == major)
    }

    /// All that were found, the preferred one first, one per major version.
    pub fn all() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Install>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found: Vec<Self> = Vec::new();
            for install in candidates().iter().filter_map(|bin| Self::at(bin)) {
                if !found.iter().any(|known| known.major == install.major) {
                    found.push(install);
                }
            }
            found
        })
    }

    /// A command of this installation, run as [`ServerUser`] if that is needed.
    pub fn command(&self, program: &str) -> Command {
        let mut command = as_server_user(&self.bin.join(program));
        command
            .env_remove("PGDATA")
            .env_remove("PGPORT")
            .env_remove("PGOPTIONS")
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        command.current_dir("/");
        command
    }

    /// What is installed in `bin`, if it runs at all.
    fn at(bin: &Path) -> Option<Self> {
        if !bin.join("initdb").is_file() {
            return None;
        }
        let output = as_server_user(&bin.join("postgres")).arg("--version").current_dir("/").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.trim().to_string();
        let number = version.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major: digits.parse().ok()?, version, bin: bin.to_path_buf() })
    }
}

/// The user that PostgreSQL runs as; `None` if that is the user of the tests, because those do not run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerUser {
    pub uid: u32,
    pub gid: u32,
}

impl ServerUser {
    /// `postgres`, or else `nobody`.
    pub fn get() -> Option<Self> {
        static USER: OnceLock<Option<ServerUser>> = OnceLock::new();
        *USER.get_or_init(|| {
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
            let entry = |name: &str| {
                let fields: Vec<&str> =
                    passwd.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == name)?;
                Some(Self { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
            };
            Some(entry("postgres").or_else(|| entry("nobody")).expect("a user that PostgreSQL can run as"))
        })
    }
}

/// Gives a directory and all in it to the user that PostgreSQL runs as.
pub fn give_to_server_user(directory: &Path) {
    let Some(user) = ServerUser::get() else { return };
    let status = Command::new("chown")
        .args(["-R", &format!("{}:{}", user.uid, user.gid)])
        .arg(directory)
        .status()
        .expect("chown runs");
    assert!(status.success(), "chown of {}", directory.display());
}

/// A program, run as the user that PostgreSQL runs as.
pub fn as_server_user(program: &Path) -> Command {
    let Some(user) = ServerUser::get() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command
        .args([
            format!("--reuid={}", user.uid),
            format!("--regid={}", user.gid),
            "--clear-groups".into(),
            "--".into(),
        ])
        .arg(program);
    command
}

fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::env::var_os("PGVALET_PG_BIN").map(PathBuf::from).into_iter().collect();
    found.extend(numbered("/usr/lib/postgresql".as_ref()));
    if let Some(path) = std::env::var_os("PATH") {
        found.extend(std::env::split_paths(&path).filter(|directory| directory.join("initdb").is_file()));
    }
    found.extend(numbered(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/postgres")));
    found.extend(numbered("/var/cache/pgvalet-tests/postgres".as_ref()));
    found
}

/// `<parent>/<major>/bin` for each major version, the newest first.
fn numbered(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    majors.sort_unstable_by(|a, b| b.cmp(a));
    majors.iter().map(|major| parent.join(major.to_string()).join("bin")).collect()
}
