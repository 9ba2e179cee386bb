//! What a transaction costs in pgvalet's own instructions, counted by valgrind: exactly the same on every machine, however
//! busy. Times are for benches/.
//!
//! What is counted is the program that the tests run, which is not optimized. The bounds are an eighth above what it took when
//! they were set: a change that makes the path of a transaction longer is to be seen, another compiler is not.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::cluster::{Cluster, Role};
use support::eventually;
use support::frontend;
use support::pgvalet::{Pgvalet, binary};
use support::wire::Client;
use tempfile::TempDir;

/// How many transactions are counted.
const TRANSACTIONS: u64 = 400;

/// One transaction of a client that is logged in.
type Transaction = fn(&mut Client);

fn simple(client: &mut Client) {
    client.value("SELECT abalance FROM accounts WHERE aid = 1");
}

fn prepared(client: &mut Client) {
    let run = [frontend::bind("", "s", &[Some("1")]), frontend::execute("", 0), frontend::sync()];
    client.send(&frontend::all(&run));
    client.until_ready();
}

fn pipeline(client: &mut Client) {
    let one = [frontend::bind("", "s", &[Some("1")]), frontend::execute("", 0)].concat();
    client.send(&frontend::all(&[one.repeat(10), frontend::sync()]));
    client.until_ready();
}

/// pgvalet as valgrind runs it.
struct Counted {
    directory: TempDir,
    valet: Pgvalet,
    parts: u32,
}

impl Counted {
    fn start(cluster: &Cluster) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (script, parts) = (directory.path().join("counted"), directory.path().join("parts"));
        let text = format!(
            "#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file={} --log-file={} {} \"$@\"\n",
            parts.display(),
            directory.path().join("log").display(),
            binary().display()
        );
        fs::write(&script, text).expect("a file");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let valet = Pgvalet::in_front_of(cluster)
            .setting("workers = 1")
            .setting("auth_type = \"trust\"")
            .program(&script)
            .start();
        Self { directory, valet, parts: 0 }
    }

    /// Instructions since this was last asked.
    fn instructions(&mut self) -> u64 {
        let told = Command::new("callgrind_control")
            .args(["--dump", &self.valet.pid().to_string()])
            .output()
            .expect("callgrind_control comes with valgrind");
        assert!(told.status.success(), "{told:?}");
        self.parts += 1;
        let part = self.directory.path().join(format!("parts.{}", self.parts));
        let total = eventually("what was counted", || {
            let text = fs::read_to_string(&part).ok()?;
            text.lines().find_map(|line| line.strip_prefix("totals: ").map(str::to_owned))
        });
        total.trim().parse().expect("a number")
    }
}

#[test]
fn a_transaction_takes_no_more_instructions_than_it_should() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions are not counted: there is no valgrind");
        return;
    }
    let cluster = Cluster::shared();
    cluster.sql("CREATE TABLE IF NOT EXISTS accounts (aid int PRIMARY KEY, abalance int)");
    cluster.sql("INSERT INTO accounts VALUES (1, 0) ON CONFLICT DO NOTHING");
    cluster.sql("GRANT SELECT ON accounts TO PUBLIC");
    let mut counted = Counted::start(cluster);
    let mut client = counted.valet.client(Role::Trust);
    let parse = frontend::parse("s", "SELECT abalance FROM accounts WHERE aid = $1::int");
    client.send(&frontend::all(&[parse, frontend::sync()]));
    client.until_ready();
    let kinds: [(&str, Transaction, u64); 3] =
        [("simple", simple, 65_000), ("prepared", prepared, 70_000), ("pipeline of 10", pipeline, 200_000)];
    let each = kinds.map(|(name, transaction, limit)| {
        (0..10).for_each(|_| transaction(&mut client));
        counted.instructions();
        (0..TRANSACTIONS).for_each(|_| transaction(&mut client));
        (name, counted.instructions() / TRANSACTIONS, limit)
    });
    println!("{each:?}");
    for (name, each, limit) in each {
        assert!(each <= limit, "{name}: {each} instructions for each transaction, at most {limit} are meant");
    }
}
