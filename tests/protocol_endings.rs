//! Connections as the kernel sees them: probes on both sides, and no descriptors left for new ones.

mod support;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::collections::HashSet;
use std::fs;
use std::time::Duration;
use support::cluster::{Cluster, Role};
use support::eventually;
use support::frontend;
use support::pgvalet::{Builder, Pgvalet};
use support::wire::Client;
use support::{DEADLINE, Endpoint};

fn builder() -> Builder {
    Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("workers = 1")
        .setting("default_pool_size = 2")
}

/// Whether a keepalive timer runs on the sockets of pgvalet that are connected from or to this port.
fn keepalive_timers(valet: &Pgvalet, port: u16) -> Vec<bool> {
    const KEEPALIVE: &str = "02";
    let directory = format!("/proc/{}/fd", valet.pid());
    let entries = fs::read_dir(directory).expect("pgvalet runs").filter_map(Result::ok);
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let own: HashSet<String> = targets
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string()))
        .collect();
    let of_port = |address: &str| {
        address.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok()) == Some(port)
    };
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel lists its sockets");
    let established = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here = (of_port(fields[1]) || of_port(fields[2])) && fields[3] == "01" && own.contains(fields[9]);
        here.then(|| fields[5].starts_with(KEEPALIVE))
    });
    established.collect()
}

/// Case 48: a peer that has gone without a word is noticed, on both sides.
#[test]
fn keepalive_probes_are_sent_on_both_sides_if_they_are_wanted() {
    let cluster = Cluster::shared();
    for wanted in [true, false] {
        let valet = builder().setting(&format!("tcp_keepalive = {wanted}")).start();
        let Endpoint::Tcp(address) = valet.tcp() else { unreachable!("a TCP endpoint") };
        let mut client = valet.client(Role::Trust);
        assert_eq!(client.value("SELECT 1"), "1");
        for port in [address.port(), cluster.port()] {
            // A retransmission timer may stand in its place for a moment.
            eventually("timers of idle connections", || {
                let timers = keepalive_timers(&valet, port);
                (!timers.is_empty() && timers.iter().all(|timer| *timer == wanted)).then_some(())
            });
        }
    }
}

/// Ticks of processor time that the process has used.
fn ticks(valet: &Pgvalet) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", valet.pid())).expect("pgvalet runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    [fields[11], fields[12]].map(|field| field.parse::<u64>().expect("ticks")).iter().sum()
}

/// Case 48: without a descriptor left nothing spins and nobody is lost: who is there goes on, who comes waits.
#[test]
fn no_descriptors_left_for_new_clients() {
    let valet = builder().start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(client.value("SELECT 1"), "1");
    let pid = Pid::from_raw(valet.pid().cast_signed()).expect("a process id");
    let open = valet.open_files() as u64;
    let full = Rlimit { current: Some(open), maximum: getrlimit(Resource::Nofile).maximum };
    let before =
        prlimit(Some(pid), Resource::Nofile, full).expect("the limit of one's own child can be changed");
    let mut waiting = Client::connect(&valet.tcp()).expect("the kernel takes the connection");
    waiting.send(&frontend::startup(&[("user", Role::Trust.name()), ("database", "app")]));
    valet.wait_log(&["cannot accept connections"]);
    // The pause between attempts is what makes the difference between waiting and spinning.
    let (used, lines) = (ticks(&valet), valet.log().len());
    std::thread::sleep(Duration::from_secs(1));
    let (used, lines) = (ticks(&valet) - used, valet.log().len() - lines);
    assert!(used < 30, "{used} ticks of processor time in a second of nothing to do");
    assert!(lines < 50, "{lines} lines of log in a second of nothing to do");
    for number in 0..10 {
        assert_eq!(client.value(&format!("SELECT {number}")), number.to_string());
    }
    prlimit(Some(pid), Resource::Nofile, before).expect("the limit can be changed back");
    waiting.set_deadline(DEADLINE);
    waiting.until_ready();
    assert_eq!(waiting.value("SELECT 'came in'"), "came in");
}
