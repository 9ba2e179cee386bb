//! The files of the regression tests, and psql that plays them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::wire::{Client, Login};
use crate::support::{Endpoint, programs, within};
use crate::{DATABASE, USER};

/// What others build on.
const FIRST: &str = "test_setup";
/// For one file.
const LIMIT: Duration = Duration::from_secs(180);

/// Where the files are, and which are played, in the order of the schedule.
#[derive(Debug)]
pub struct Suite {
    directory: PathBuf,
    pub files: Vec<String>,
}

/// What psql printed, by file.
#[derive(Debug, Default)]
pub struct Outputs(pub BTreeMap<String, String>);

/// A cluster's database, and a directory that its server may write to.
#[derive(Debug)]
pub struct Stage<'a> {
    suite: &'a Suite,
    results: tempfile::TempDir,
    port: u16,
}

impl Suite {
    pub fn find() -> Self {
        let directory = std::env::var_os("PGVALET_REGRESSION").expect(
            "tests/run.sh --regression fetches the files and says in PGVALET_REGRESSION where they are",
        );
        let directory = PathBuf::from(directory);
        let schedule = fs::read_to_string(directory.join("parallel_schedule")).expect("a schedule");
        let only = std::env::var("PGVALET_REGRESSION_FILES").ok();
        let wanted = |file: &str| {
            file == FIRST || only.as_ref().is_none_or(|only| only.split(',').any(|wanted| wanted == file))
        };
        let files = schedule
            .lines()
            .filter_map(|line| line.strip_prefix("test:"))
            .flat_map(str::split_whitespace)
            .filter(|file| wanted(file))
            .map(String::from)
            .collect();
        Self { directory, files }
    }
}

/// A cluster as the regression tests want it, with their database.
pub fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .config("max_prepared_transactions = 2")
        .config("max_connections = 100")
        .config("synchronous_commit = on")
        .start();
    let mut session = Client::login(&cluster.tcp(), &Login::new(USER, "postgres")).expect("a superuser");
    session.rows(&format!("CREATE DATABASE {DATABASE} TEMPLATE template0"));
    for setting in ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"] {
        session.rows(&format!("ALTER DATABASE {DATABASE} SET {setting} TO 'C'"));
    }
    session.rows(&format!("ALTER DATABASE {DATABASE} SET bytea_output TO 'hex'"));
    session.rows(&format!("ALTER DATABASE {DATABASE} SET timezone_abbreviations TO 'Default'"));
    session.terminate();
    cluster
}

impl<'a> Stage<'a> {
    pub fn new(suite: &'a Suite, cluster: &Cluster) -> Self {
        let results = tempfile::Builder::new().prefix("pgvalet-").tempdir().expect("a temporary directory");
        for path in [results.path(), &results.path().join("results")] {
            fs::create_dir_all(path).expect("a directory");
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("the mode can be changed");
        }
        Self { suite, results, port: cluster.port() }
    }

    pub fn play(&self, endpoint: &Endpoint) -> Outputs {
        let play = |file: &String| (file.clone(), self.play_file(endpoint, file));
        Outputs(self.suite.files.iter().map(play).collect())
    }

    fn play_file(&self, endpoint: &Endpoint, file: &str) -> String {
        let path = self.results.path().join(format!("{file}.out"));
        let output = fs::File::create(&path).expect("a file for the output");
        let input = fs::File::open(self.suite.directory.join("sql").join(format!("{file}.sql")));
        let (host, port) = endpoint.libpq();
        let mut child = Command::new(programs::find("psql"))
            .args(["-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([("PGHOST", host), ("PGPORT", port.to_string())])
            .envs([("PGUSER", USER), ("PGDATABASE", DATABASE), ("PGCONNECT_TIMEOUT", "30")])
            .envs([("PGTZ", "PST8PDT"), ("PGDATESTYLE", "Postgres, MDY"), ("LC_MESSAGES", "C")])
            .env("PGOPTIONS", "-c intervalstyle=postgres_verbose")
            .env("PG_ABS_SRCDIR", &self.suite.directory)
            .env("PG_ABS_BUILDDIR", self.results.path())
            .env("PG_LIBDIR", self.suite.directory.join("lib"))
            .env("PG_DLSUFFIX", ".so")
            .current_dir(self.results.path())
            .stdin(input.unwrap_or_else(|error| panic!("{file}.sql: {error}")))
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("psql starts");
        if within(LIMIT, || child.try_wait().expect("psql can be waited for")).is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.neutral(&fs::read(&path).expect("psql has written"), endpoint)
    }

    /// The output without what must differ: where the run took place.
    fn neutral(&self, output: &[u8], endpoint: &Endpoint) -> String {
        let place = self.results.path().display().to_string();
        let (_, port) = endpoint.libpq();
        String::from_utf8_lossy(output)
            .replace(&place, "RESULTS")
            .replace(&format!("port {port}"), "port PORT")
            .replace(&format!("port {}", self.port), "port PORT")
    }
}

impl Outputs {
    /// Writes them to a directory, if they are wanted.
    pub fn keep(&self, directory: Option<PathBuf>) {
        let Some(directory) = directory else { return };
        fs::create_dir_all(&directory).expect("a directory for the outputs");
        for (file, output) in &self.0 {
            fs::write(directory.join(format!("{file}.out")), output).expect("outputs can be kept");
        }
    }

    /// What was kept, if that is all of it.
    pub fn kept(directory: &Path, files: &[String]) -> Option<Self> {
        let read = |file: &String| {
            let output = fs::read_to_string(directory.join(format!("{file}.out"))).ok()?;
            Some((file.clone(), output))
        };
        files.iter().map(read).collect::<Option<_>>().map(Self)
    }
}
