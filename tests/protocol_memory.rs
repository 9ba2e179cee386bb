//! Case 34: messages and pipelines far larger than any buffer pass in bounded memory, which is given back.
//!
//! Memory is that of the pgvalet process as the kernel counts it: its peak while something large passes, and what is left
//! afterwards. With `PGVALET_LARGE=1` in the environment a row and a parameter have a gigabyte instead of 256 MB, and a
//! pipeline a million messages instead of a hundred thousand.

mod support;

use std::fs;
use support::backend::{Message, first_error};
use support::cluster::{Cluster, Role};
use support::eventually;
use support::frontend::{
    all, bind, bind_formats, close_statement, copy_data, copy_done, execute, extended, flush, parse, query,
    sync,
};
use support::pgvalet::Pgvalet;
use support::wire::Client;

/// How much the process may grow, whatever passes, in KiB. Its buffers have 64 KiB at most.
const BOUND: u64 = 8 * 1024;
/// How much it may keep in the end, in KiB.
const REST: u64 = 4 * 1024;

fn large() -> bool {
    std::env::var("PGVALET_LARGE").is_ok_and(|value| value != "0")
}

/// Bytes of a large value.
fn size() -> usize {
    if large() { 1_000_000_000 } else { 256 << 20 }
}

/// Messages of a long pipeline.
fn count() -> usize {
    if large() { 1_000_000 } else { 100_000 }
}

/// A pgvalet that has done a little of everything, and how much memory it had then.
struct Watched {
    valet: Pgvalet,
    client: Client,
    before: u64,
}

impl Watched {
    fn start() -> Self {
        let cluster = Cluster::shared();
        let valet = Pgvalet::in_front_of(cluster)
            .setting("auth_type = \"trust\"")
            .setting("default_pool_size = 2")
            .setting("workers = 1")
            .start();
        let mut client = valet.client(Role::Trust);
        client.set_deadline(support::DEADLINE * 10);
        client.query("SELECT repeat('x', 1000000)");
        let word = "x".repeat(1_000_000);
        assert_eq!(first_error(&client.extended("SELECT length($1)", &[Some(&word)])), None);
        let before = valet.rss_kib();
        // From here on the peak is counted anew.
        fs::write(format!("/proc/{}/clear_refs", valet.pid()), "5").expect("the peak can be reset");
        Self { valet, client, before }
    }

    /// The peak was bounded, and what was taken is given back; the client and others can go on.
    #[track_caller]
    fn finish(mut self) {
        assert_eq!(self.client.value("SELECT 'and on'"), "and on");
        let peak = self.peak().saturating_sub(self.before);
        assert!(peak < BOUND, "the peak was {peak} KiB above the {} KiB of before", self.before);
        eventually("memory to be given back", || (self.valet.rss_kib() < self.before + REST).then_some(()));
        assert_eq!(self.valet.client(Role::Trust).value("SELECT 'others, too'"), "others, too");
    }

    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.valet.pid())).expect("pgvalet runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has a peak");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    }

    /// Sends in a thread of its own while this one reads.
    fn while_sending(&mut self, bytes: Vec<u8>, read: impl FnOnce(&mut Client)) {
        let mut writer = self.client.writer();
        let sender = std::thread::spawn(move || writer.send(&bytes));
        read(&mut self.client);
        sender.join().expect("the thread ends").expect("all was sent");
    }

    /// Reads up to ReadyForQuery; how often each tag came.
    fn drain(client: &mut Client) -> [usize; 128] {
        let mut tags = [0; 128];
        loop {
            let (tag, _) = client.recv_length();
            tags[usize::from(tag)] += 1;
            if tag == b'Z' {
                return tags;
            }
        }
    }
}

/// Bind and Execute of the unnamed or a named statement, without Sync.
fn run(statement: &str, parameters: &[Option<&str>]) -> Vec<u8> {
    all(&[bind("", statement, parameters), execute("", 0)])
}

#[test]
fn a_large_row_in_each_protocol() {
    let mut watched = Watched::start();
    let sql = format!("SELECT repeat('r', {})", size());
    for request in [query(&sql), extended(&sql, &[])] {
        watched.client.send(&request);
        let longest = loop {
            let (tag, length) = watched.client.recv_length();
            if tag == b'D' {
                break length;
            }
            assert!(b"12T".contains(&tag), "{}", char::from(tag));
        };
        assert_eq!(longest, size() + 6);
        watched.client.until_ready();
    }
    watched.finish();
}

#[test]
fn a_large_parameter_of_an_unnamed_and_a_named_statement() {
    let mut watched = Watched::start();
    watched.client.send(&all(&[parse("named", "SELECT octet_length($1::bytea)"), sync()]));
    watched.client.until_ready();
    let value = vec![7; size()];
    for name in ["", "named"] {
        let start = if name.is_empty() { parse("", "SELECT octet_length($1::bytea)") } else { Vec::new() };
        let bound = bind_formats("", name, &[1], &[Some(&value)], &[0]);
        watched.client.send(&start);
        watched.client.send(&bound);
        drop(bound);
        watched.client.send(&all(&[execute("", 0), sync()]));
        let reply = watched.client.until_ready();
        let found = reply.iter().find_map(Message::values).and_then(|mut row| row.remove(0));
        assert_eq!(found.as_deref(), Some(size().to_string().as_bytes()), "{reply:?}");
    }
    watched.finish();
}

#[test]
fn a_large_query_and_a_large_unnamed_parse() {
    let mut watched = Watched::start();
    let text = format!("SELECT length('{}')", "q".repeat(size() / 4));
    for request in [query(&text), extended(&text, &[])] {
        watched.client.send(&request);
        let reply = watched.client.until_ready();
        let found = reply.iter().find_map(Message::values).and_then(|mut row| row.remove(0));
        assert_eq!(found.as_deref(), Some((size() / 4).to_string().as_bytes()), "{reply:?}");
    }
    watched.finish();
}

#[test]
fn large_copy_data_both_ways() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE UNLOGGED TABLE large_copy (word text)");
    let mut watched = Watched::start();
    watched.client.send(&query("COPY large_copy FROM STDIN"));
    watched.client.until(b'G');
    let mut line = vec![b'c'; size() / 2];
    line.push(b'\n');
    watched.client.send(&copy_data(&line));
    drop(line);
    watched.client.send(&copy_done());
    assert_eq!(first_error(&watched.client.until_ready()), None);
    watched.client.send(&query("COPY large_copy TO STDOUT"));
    watched.client.until(b'H');
    assert_eq!(watched.client.recv_length(), (b'd', size() / 2 + 1));
    watched.client.until_ready();
    watched.finish();
    cluster.sql("DROP TABLE large_copy");
}

#[test]
fn a_long_pipeline_of_queries() {
    let mut watched = Watched::start();
    watched.while_sending(query("SELECT 1").repeat(count()), |client| {
        for _ in 0..count() {
            let tags = Watched::drain(client);
            assert_eq!((tags[usize::from(b'D')], tags[usize::from(b'E')]), (1, 0));
        }
    });
    watched.finish();
}

#[test]
fn a_long_pipeline_of_binds_with_one_sync() {
    let mut watched = Watched::start();
    let batch =
        [parse("one", "SELECT $1::int"), run("one", &[Some("1")]).repeat(count() / 2), sync()].concat();
    watched.while_sending(batch, |client| {
        let tags = Watched::drain(client);
        assert_eq!(
            [b'1', b'2', b'D', b'C', b'E'].map(|tag| tags[usize::from(tag)]),
            [1, count() / 2, count() / 2, count() / 2, 0]
        );
    });
    watched.finish();
}

#[test]
fn a_long_pipeline_of_parses_and_closes_with_one_sync() {
    let mut watched = Watched::start();
    let round = [
        parse("p", "SELECT 1"),
        parse("", "SELECT 2"),
        run("p", &[]),
        run("", &[]),
        close_statement("p"),
        close_statement("nothing"),
    ]
    .concat();
    let rounds = count() / 8;
    watched.while_sending([round.repeat(rounds), sync()].concat(), |client| {
        let tags = Watched::drain(client);
        assert_eq!(
            [b'1', b'2', b'C', b'3', b'E'].map(|tag| tags[usize::from(tag)]),
            [2 * rounds, 2 * rounds, 2 * rounds, 2 * rounds, 0]
        );
    });
    watched.finish();
}

#[test]
fn a_long_pipeline_with_a_sync_or_flush_behind_each() {
    let mut watched = Watched::start();
    let rounds = count() / 8;
    let round = [extended("SELECT 1", &[]), run("", &[]), flush(), sync()].concat();
    watched.while_sending(round.repeat(rounds), |client| {
        for _ in 0..2 * rounds {
            let tags = Watched::drain(client);
            assert_eq!((tags[usize::from(b'D')], tags[usize::from(b'E')]), (1, 0));
        }
    });
    watched.finish();
}

#[test]
fn a_pipeline_that_is_sent_whole_before_the_server_answers_any_of_it() {
    let cluster = Cluster::shared();
    let mut watched = Watched::start();
    let mut holder = cluster.client(Role::Postgres);
    holder.rows("SELECT pg_advisory_lock(34)");
    let rounds = 20_000;
    let round = [parse("", "SELECT 1"), run("", &[]), close_statement("x")].concat();
    let batch = [query("SELECT pg_advisory_xact_lock_shared(34)"), round.repeat(rounds), sync()].concat();
    watched.while_sending(batch, |client| {
        eventually("the first query to wait", || {
            (holder.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 34") != "0")
                .then_some(())
        });
        holder.rows("SELECT pg_advisory_unlock(34)");
        assert_eq!(Watched::drain(client)[usize::from(b'E')], 0);
        let tags = Watched::drain(client);
        assert_eq!([b'1', b'D', b'3', b'E'].map(|tag| tags[usize::from(tag)]), [rounds, rounds, rounds, 0]);
    });
    watched.finish();
}
