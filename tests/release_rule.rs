//! When a server goes back to its pool: not before everything that was sent on it has been answered, no batch is open,
//! no part of a message was sent, and PostgreSQL says that it is idle; and then at once.
//!
//! A holder does something with the only server of a pool while a rival is in line. Both draw numbers from one
//! sequence, so that what PostgreSQL ran first shows in the numbers, whatever the threads of the test do.

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};

use support::backend::{first_error, rows, tags};
use support::cluster::{Cluster, Role};
use support::frontend::{
    bind, close_portal, copy_data, copy_done, describe_portal, describe_statement, execute, extended, flush,
    frame, function_call, parse, query, sync,
};
use support::pgvalet::Pgvalet;
use support::wire::Client;
use watch::{Barrier, Console, trusting};

/// The function `nextval(regclass)`, the same in every PostgreSQL.
const NEXTVAL: u32 = 1574;

/// A client that has the only server, and one that wants it.
struct Contest {
    holder: Client,
    rival: Client,
    console: Console,
    sequence: String,
    cluster: &'static Cluster,
    _valet: Pgvalet,
}

impl Contest {
    fn start(name: &str) -> Self {
        let cluster = Cluster::shared();
        let sequence = format!("numbers_{name}");
        cluster.sql(&format!("CREATE SEQUENCE {sequence}"));
        let valet = trusting(cluster, 1).setting("reset = \"never\"").start();
        let (holder, rival) = (valet.client(Role::Trust), valet.client(Role::Trust));
        Self { holder, rival, console: Console::open(&valet), sequence, cluster, _valet: valet }
    }

    /// SQL that draws the next number.
    fn draw(&self) -> String {
        format!("SELECT nextval('{}')", self.sequence)
    }

    /// Waits until the holder has the server, for what it sent may earn no reply.
    #[track_caller]
    fn held(&mut self) {
        self.console.wait_pool("sv_active", 1);
    }

    /// The rival asks for a number, and finds the server taken.
    #[track_caller]
    fn rival_asks(&mut self) {
        self.rival.send(&query(&self.draw()));
        self.console.wait_pool("cl_waiting", 1);
    }

    /// The rival is still in line, now that the holder has had another reply.
    #[track_caller]
    fn rival_waits(&mut self) {
        assert_eq!(self.console.pool("cl_waiting"), 1, "the rival got in between");
    }

    /// The rival's number was this one; the holder is given it all the time, and must not matter any more.
    #[track_caller]
    fn rival_drew(&mut self, number: &str) {
        let reply = self.rival.until_ready();
        assert_eq!(rows(&reply), [[Some(number.to_string())]], "{reply:?}");
    }

    /// The numbers that the holder is answered with, up to ReadyForQuery.
    #[track_caller]
    fn holder_drew(&mut self, numbers: &[&str]) {
        let reply = self.holder.until_ready();
        let expected: Vec<_> = numbers.iter().map(|number| vec![Some(number.to_string())]).collect();
        assert_eq!(rows(&reply), expected, "{reply:?}");
    }

    /// Sends what stops at a barrier, with more behind it in the same write; the rival asks meanwhile.
    #[track_caller]
    fn stop_with_more_behind(&mut self, number: u32, more: &[Vec<u8>]) {
        let mut barrier = Barrier::close(self.cluster, number);
        let mut all = query(&barrier.sql());
        all.extend(more.concat());
        self.holder.send(&all);
        barrier.wait_reached();
        self.rival_asks();
        barrier.open();
        assert_eq!(tags(&self.holder.until_ready()), "TDCZ");
    }
}

#[test]
fn a_server_goes_back_as_soon_as_it_is_free() {
    let mut contest = Contest::start("free");
    let draw = contest.draw();
    for round in 0..3 {
        // All that each client does ends with status I, so the other is never kept waiting.
        for (turn, client) in [&mut contest.holder, &mut contest.rival].into_iter().enumerate() {
            let first = round * 6 + turn * 3 + 1;
            assert_eq!(client.value(&draw), first.to_string());
            assert_eq!(rows(&client.extended(&draw, &[])), [[Some((first + 1).to_string())]]);
            client.send(&function_call(
                NEXTVAL,
                &[Some(&contest.cluster.value(&format!("SELECT '{}'::regclass::oid", contest.sequence)))],
            ));
            assert_eq!(tags(&client.until_ready()), "VZ");
            client.send(&sync());
            assert_eq!(tags(&client.until_ready()), "Z");
            assert_eq!(first_error(&client.query("SELECT 1 / 0")).as_deref(), Some("22012"));
        }
    }
}

#[test]
fn every_query_is_answered_first() {
    let mut contest = Contest::start("queries");
    let draw = query(&contest.draw());
    contest.stop_with_more_behind(7_001, &[draw.clone(), draw]);
    contest.holder_drew(&["1"]);
    contest.holder_drew(&["2"]);
    contest.rival_drew("3");
}

#[test]
fn every_sync_is_answered_first() {
    let mut contest = Contest::start("syncs");
    let draw = extended(&contest.draw(), &[]);
    contest.stop_with_more_behind(7_002, &[draw.clone(), draw, sync()]);
    contest.holder_drew(&["1"]);
    contest.holder_drew(&["2"]);
    contest.holder_drew(&[]);
    contest.rival_drew("3");
}

#[test]
fn every_function_call_is_answered_first() {
    let mut contest = Contest::start("calls");
    let oid = contest.cluster.value(&format!("SELECT '{}'::regclass::oid", contest.sequence));
    let call = function_call(NEXTVAL, &[Some(&oid)]);
    contest.stop_with_more_behind(7_003, &[call.clone(), call]);
    for _ in 0..2 {
        assert_eq!(tags(&contest.holder.until_ready()), "VZ");
    }
    contest.rival_drew("3");
}

#[test]
fn after_an_error_a_query_before_sync_earns_nothing_and_sync_frees_the_server() {
    let mut contest = Contest::start("skipped");
    let draw = contest.draw();
    contest.holder.send(&parse("", "SELECT nothing FROM nowhere"));
    contest.holder.send(&flush());
    assert_eq!(contest.holder.recv().sqlstate().as_deref(), Some("42P01"));
    contest.rival_asks();
    // Skipped, all of it: the number of the rival is the first.
    contest.holder.send(&[query(&draw), parse("", &draw), bind("", "", &[]), execute("", 0)].concat());
    contest.rival_waits();
    contest.holder.send(&sync());
    assert_eq!(tags(&contest.holder.until_ready()), "Z");
    contest.rival_drew("1");
}

#[test]
fn an_error_and_its_sync_in_one_write_free_the_server() {
    let mut contest = Contest::start("one_write");
    let draw = contest.draw();
    for _ in 0..3 {
        contest.holder.send(&[parse("", "SELECT nothing FROM nowhere"), query(&draw), sync()].concat());
        assert_eq!(tags(&contest.holder.until_ready()), "EZ");
    }
    assert_eq!(contest.rival.value(&draw), "1");
}

#[test]
fn a_sync_during_copy_in_earns_nothing_and_the_end_of_the_copy_frees_the_server() {
    let mut contest = Contest::start("copy");
    contest.cluster.sql("CREATE TABLE copied (x text)");
    let draw = contest.draw();
    // As libpq does it: Execute and Sync in one write, the data, then the Sync that counts.
    contest
        .holder
        .send(&[parse("", "COPY copied FROM STDIN"), bind("", "", &[]), execute("", 0), sync()].concat());
    contest.holder.until(b'G');
    contest.rival_asks();
    contest.holder.send(&[copy_data(b"one\n"), sync(), copy_data(b"two\n"), copy_done(), flush()].concat());
    assert_eq!(tags(&contest.holder.until(b'C')), "C");
    contest.rival_waits();
    contest.holder.send(&sync());
    assert_eq!(tags(&contest.holder.until_ready()), "Z");
    contest.rival_drew("1");

    // The same in the simple protocol, where a Sync behind the COPY is ignored too.
    contest.holder.send(&[query("COPY copied FROM STDIN"), sync()].concat());
    contest.holder.until(b'G');
    contest.rival_asks();
    contest.holder.send(&[copy_data(b"three\n"), copy_done()].concat());
    assert_eq!(tags(&contest.holder.until_ready()), "CZ");
    contest.rival_drew("2");
    assert_eq!(contest.cluster.value("SELECT count(*) FROM copied"), "3");
    assert_eq!(contest.holder.value(&draw), "3");
}

#[test]
fn a_parse_or_bind_that_waits_for_its_sync_keeps_the_server() {
    let mut contest = Contest::start("unsynced");
    let draw = contest.draw();
    // PostgreSQL says nothing before the Sync; the server is held all the same.
    contest.holder.send(&parse("", &draw));
    contest.held();
    contest.rival_asks();
    contest.holder.send(&bind("", "", &[]));
    contest.rival_waits();
    contest.holder.send(&[execute("", 0), sync()].concat());
    contest.holder_drew(&["1"]);
    contest.rival_drew("2");
}

#[test]
fn a_flush_ends_nothing() {
    let mut contest = Contest::start("flush");
    let draw = contest.draw();
    contest.holder.send(&[parse("named", &draw), describe_statement("named"), flush()].concat());
    assert_eq!(tags(&contest.holder.until(b'T')), "1tT");
    contest.rival_asks();
    contest.holder.send(&[bind("portal", "named", &[]), flush()].concat());
    assert_eq!(tags(&contest.holder.until(b'2')), "2");
    contest.rival_waits();
    contest.holder.send(&[describe_portal("portal"), flush()].concat());
    assert_eq!(tags(&contest.holder.until(b'T')), "T");
    contest.rival_waits();
    contest.holder.send(&[execute("portal", 0), flush()].concat());
    assert_eq!(rows(&contest.holder.until(b'C')), [[Some("1".to_string())]]);
    contest.rival_waits();
    contest.holder.send(&[close_portal("portal"), flush()].concat());
    assert_eq!(tags(&contest.holder.until(b'3')), "3");
    contest.rival_waits();
    contest.holder.send(&sync());
    assert_eq!(tags(&contest.holder.until_ready()), "Z");
    contest.rival_drew("2");
}

#[test]
fn a_batch_that_has_begun_behind_a_sync_keeps_the_server() {
    let mut contest = Contest::start("behind");
    let draw = contest.draw();
    contest.holder.send(&[extended(&draw, &[]), parse("", &draw), bind("", "", &[])].concat());
    contest.holder_drew(&["1"]);
    contest.rival_asks();
    contest.holder.send(&[execute("", 0), sync()].concat());
    contest.holder_drew(&["2"]);
    contest.rival_drew("3");
}

#[test]
fn a_query_inside_an_unsynced_pipeline_shares_its_fate() {
    let mut contest = Contest::start("shared_fate");
    let draw = contest.draw();
    // The Query's ReadyForQuery ends the implicit transaction, and with it the batch: Execute is too late.
    contest.holder.send(&[parse("", &draw), bind("", "", &[]), query(&draw)].concat());
    contest.holder_drew(&["1"]);
    contest.rival.send(&query(&draw));
    contest.rival_drew("2");
    contest.holder.send(&sync());
    assert_eq!(tags(&contest.holder.until_ready()), "Z");
}

#[test]
fn a_part_of_a_message_keeps_the_server() {
    let mut contest = Contest::start("part");
    let draw = contest.draw();
    // Far more than fits into a buffer, so that its beginning is sent before its end is there.
    let long = query(&format!("{draw} /* {} */", "x".repeat(300_000)));
    let (beginning, end) = long.split_at(150_000);
    contest.holder.send(&[query(&draw), beginning.to_vec()].concat());
    contest.holder_drew(&["1"]);
    contest.held();
    contest.rival_asks();
    contest.holder.send(&end[..100_000]);
    contest.rival_waits();
    contest.holder.send(&end[100_000..]);
    contest.holder_drew(&["2"]);
    contest.rival_drew("3");
}

#[test]
fn a_header_alone_takes_no_server_from_others() {
    let mut contest = Contest::start("header");
    let draw = contest.draw();
    let message = query(&draw);
    // Nothing was sent for it yet, so it stands in nobody's way.
    contest.holder.send(&message[..7]);
    assert_eq!(contest.rival.value(&draw), "1");
    contest.holder.send(&message[7..]);
    contest.holder_drew(&["2"]);
}

#[test]
fn an_open_or_failed_transaction_keeps_the_server() {
    let mut contest = Contest::start("status");
    let draw = contest.draw();
    contest.holder.query("BEGIN");
    contest.rival_asks();
    assert_eq!(contest.holder.value(&draw), "1");
    contest.rival_waits();
    let chained = contest.holder.query("COMMIT AND CHAIN");
    assert_eq!(chained.last().and_then(|message| message.ready()), Some('T'));
    contest.rival_waits();
    let failed = contest.holder.query("SELECT 1 / 0");
    assert_eq!(failed.last().and_then(|message| message.ready()), Some('E'));
    contest.rival_waits();
    assert_eq!(first_error(&contest.holder.extended(&draw, &[])).as_deref(), Some("25P02"));
    contest.rival_waits();
    contest.holder.query("ROLLBACK");
    contest.rival_drew("2");
}

#[test]
fn a_transaction_that_one_query_opens_and_the_next_ends_is_one_lease() {
    let mut contest = Contest::start("several");
    let draw = contest.draw();
    contest.holder.query(&format!("{draw}; BEGIN; {draw}"));
    contest.rival_asks();
    contest.holder.query(&format!("{draw}; COMMIT; {draw}; START TRANSACTION"));
    contest.rival_waits();
    contest.holder.query("END");
    contest.rival_drew("5");
}

#[test]
fn the_holder_keeps_its_server_while_others_come_and_go() {
    let valet = trusting(Cluster::shared(), 2).setting("reset = \"never\"").start();
    let mut holder = valet.client(Role::Trust);
    let rivals: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut rival in rivals {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // In a stranger's transaction there would be no warning.
                    assert_eq!(tags(&rival.query("SET TRANSACTION READ WRITE")), "NCZ");
                }
            });
        }
        let pid = "SELECT pg_backend_pid()";
        let run = [bind("", "", &[]), execute("", 0)].concat();
        for round in 0..30 {
            let mut pids = Vec::new();
            let mut step = |messages: &[Vec<u8>], last: u8| {
                holder.send(&messages.concat());
                pids.extend(rows(&holder.until(last)));
            };
            step(&[query("BEGIN")], b'Z');
            step(&[query(pid)], b'Z');
            step(&[query(pid)], b'Z');
            step(&[query("COMMIT")], b'Z');
            assert!(pids.len() == 2 && pids[0] == pids[1], "transaction, round {round}: {pids:?}");
            let mut pids = Vec::new();
            let mut step = |messages: &[Vec<u8>], last: u8| {
                holder.send(&messages.concat());
                pids.extend(rows(&holder.until(last)));
            };
            step(&[parse("", pid), run.clone(), flush()], b'C');
            step(&[run.clone(), flush()], b'C');
            step(&[run.clone(), sync()], b'Z');
            assert!(
                pids.len() == 3 && pids[0] == pids[1] && pids[1] == pids[2],
                "batch, round {round}: {pids:?}"
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn copy_data_of_which_a_part_was_sent_keeps_the_server() {
    let mut contest = Contest::start("copy_part");
    contest.cluster.sql("CREATE TABLE copied_in_parts (x text)");
    contest.holder.send(&query("COPY copied_in_parts FROM STDIN"));
    contest.holder.until(b'G');
    contest.rival_asks();
    let data = frame(b'd', &b"0123456789\n".repeat(10_000));
    contest.holder.send(&data[..70_000]);
    contest.rival_waits();
    contest.holder.send(&[&data[70_000..], &copy_done()[..]].concat());
    assert_eq!(tags(&contest.holder.until_ready()), "CZ");
    contest.rival_drew("1");
    assert_eq!(contest.cluster.value("SELECT count(*) FROM copied_in_parts"), "10000");
}
