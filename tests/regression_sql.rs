//! PostgreSQL's own regression tests in transaction pooling: psql prints what it prints with PostgreSQL itself.
//!
//! Each file of the schedule is one session of psql, in turn, in a database of its own: twice directly, once through a
//! pgvalet whose two servers take turns, while another client works in the same pool. What both direct runs print the same
//! has to be what psql prints through pgvalet. The expected output that comes with the files does not matter, so their
//! version need not be the server's.
//!
//! `tests/run.sh --regression` fetches the files and runs this. Environment:
//!
//! - `PGVALET_REGRESSION`: the directory with `parallel_schedule`, `sql`, `data` and `lib` (tests/lib/regression.sh);
//! - `PGVALET_REGRESSION_FILES`: plays only these, separated by commas; `test_setup` comes first in any case;
//! - `PGVALET_REGRESSION_KEEP`: where the outputs are kept, in `direct`, `again` and `pooled`; what the direct runs have left
//!   there is used again.

mod support;

#[path = "regression_sql/bystander.rs"]
mod bystander;
#[path = "regression_sql/compare.rs"]
mod compare;
#[path = "regression_sql/suite.rs"]
mod suite;

use std::path::PathBuf;

use bystander::Bystander;
use compare::Findings;
use suite::{Outputs, Stage, Suite};
use support::cluster::{Cluster, PASSWORD};
use support::pgvalet::Pgvalet;

/// The files are made for a superuser.
const USER: &str = "postgres";
const DATABASE: &str = "regression";

#[test]
#[ignore = "takes minutes, and files that tests/run.sh --regression fetches"]
fn psql_prints_what_it_prints_with_postgresql_itself() {
    let suite = Suite::find();
    let keep = std::env::var_os("PGVALET_REGRESSION_KEEP").map(PathBuf::from);
    let place = |name: &str| keep.as_ref().map(|directory| directory.join(name));
    let (direct, again, pooled) = std::thread::scope(|scope| {
        let again = scope.spawn(|| directly(&suite, place("again")));
        let direct = scope.spawn(|| directly(&suite, place("direct")));
        let pooled = pooled(&suite, place("pooled"));
        (direct.join().expect("a direct run ends"), again.join().expect("the other ends"), pooled)
    });
    let findings = Findings::of(&suite.files, &direct, &again, &pooled);
    println!("{findings}");
    assert!(findings.none(), "see above: what pgvalet's client is told is different");
}

fn directly(suite: &Suite, keep: Option<PathBuf>) -> Outputs {
    if let Some(outputs) = keep.as_ref().and_then(|directory| Outputs::kept(directory, &suite.files)) {
        return outputs;
    }
    let cluster = suite::cluster();
    let outputs = Stage::new(suite, &cluster).play(&cluster.tcp());
    outputs.keep(keep);
    outputs
}

fn pooled(suite: &Suite, keep: Option<PathBuf>) -> Outputs {
    let cluster = suite::cluster();
    let stage = Stage::new(suite, &cluster);
    let valet = in_front_of(&cluster);
    let bystander = Bystander::start(&valet);
    let outputs = stage.play(&valet.tcp());
    outputs.keep(keep);
    bystander.stop();
    outputs
}

fn in_front_of(cluster: &Cluster) -> Pgvalet {
    Pgvalet::builder()
        .database(DATABASE, cluster, &[])
        .user(USER, PASSWORD, &[])
        .setting("auth_type = \"trust\"")
        .setting("pool_mode = \"transaction\"")
        .setting("default_pool_size = 2")
        .setting("min_pool_size = 2")
        .setting("server_round_robin = true")
        .setting("workers = 1")
        .start()
}
