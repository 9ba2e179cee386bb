//! Ten thousand clients that do nothing, and some among them that work.
//!
//! The client sockets are this process's, so that its limit of open files bounds the crowd, as pgvalet's own does.

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, Role};
use support::wire::Client;
use support::{DEADLINE, Endpoint, eventually, frontend};
use watch::{Console, trusting};

/// As many as there are to be.
const CROWD: usize = 10_000;
/// Descriptors that are not clients: clusters, pipes, files.
const RESERVED: usize = 500;
/// Clients of one source address; each address has its own ports.
const PER_ADDRESS: usize = 2_500;

/// Raises the limit of open files, and says how large a crowd it allows.
fn allowed_crowd() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let Rlimit { current, .. } = getrlimit(Resource::Nofile);
    let files = current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let crowd = files.saturating_sub(RESERVED).min(CROWD);
    println!("crowd: {crowd} clients of {CROWD} (limit of open files {current:?}, {raised:?})");
    crowd
}

/// A socket from 127.0.0.x, so that no address runs out of ports.
fn connect(number: usize, to: SocketAddr) -> TcpStream {
    let host = u8::try_from(2 + number / PER_ADDRESS).expect("a few addresses");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into()).expect("a loopback address");
    socket.connect(&to.into()).expect("pgvalet listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
}

/// Reads up to the end of a ReadyForQuery that says idle.
fn until_idle(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 1024];
    while !all.ends_with(b"Z\0\0\0\x05I") {
        let count = stream.read(&mut chunk).expect("an answer");
        assert_ne!(count, 0, "the connection ended: {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&chunk[..count]);
    }
    all
}

#[test]
fn a_crowd_of_idle_clients_is_kept_while_others_work() {
    let crowd = allowed_crowd();
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 5)
        .setting("workers = 2")
        .setting("max_client_conn = 20000")
        .setting("log_connections = false")
        .setting("log_disconnections = false")
        .start();
    let Endpoint::Tcp(address) = valet.tcp() else { unreachable!("it is a TCP endpoint") };
    let mut workers: Vec<Client> = (0..20).map(|_| valet.client(Role::Trust)).collect();
    let startup = frontend::startup(&[("user", Role::Trust.name()), ("database", DATABASE)]);
    let before = valet.rss_kib();

    let mut idle = Vec::with_capacity(crowd);
    while idle.len() < crowd {
        // A wave at a time: all connect, then all are greeted.
        let from = idle.len();
        let wave: Vec<_> = (from..crowd.min(from + 500)).map(|number| connect(number, address)).collect();
        idle.extend(wave);
        for stream in &mut idle[from..] {
            stream.write_all(&startup).expect("the startup packet is taken");
        }
        for stream in &mut idle[from..] {
            until_idle(stream);
        }
        // Work goes on among them.
        for worker in &mut workers {
            worker.send(&frontend::query("BEGIN; SELECT 'work'; COMMIT"));
        }
        for worker in &mut workers {
            assert_eq!(first_error(&worker.until_ready()), None);
        }
    }
    let grown = valet.rss_kib().saturating_sub(before);
    println!("crowd: {:.1} KiB of memory for each idle client", grown as f64 / crowd as f64);
    // With as much as one page of a buffer each it would be more.
    assert!(crowd < CROWD || grown < 6 * CROWD as u64, "{grown} KiB for {crowd} idle clients");

    let mut console = Console::open(&valet);
    assert_eq!(console.stat("logins"), u64::try_from(crowd + workers.len()).expect("a number"));
    // Each worker tells of its clients in many turns, and of each of them once.
    let ids = console.column("SHOW CLIENTS", "id");
    assert_eq!(ids.len(), crowd + workers.len() + 1);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    assert!(valet.open_files() >= crowd + workers.len());
    assert!(
        cluster
            .value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_trust'")
            .parse::<u32>()
            .expect("a number")
            <= 5
    );

    // Every one of them is alive: all ask at once.
    let query = frontend::query("SELECT 'alive'");
    for stream in &mut idle {
        stream.write_all(&query).expect("the query is taken");
    }
    for stream in &mut idle {
        let answer = until_idle(stream);
        assert!(answer.windows(5).any(|window| window == b"alive"), "{:?}", String::from_utf8_lossy(&answer));
    }
    // And gone when they go.
    drop(idle);
    eventually("their descriptors to be closed", || (valet.open_files() < 200).then_some(()));
    assert_eq!(workers[0].value("SELECT 1"), "1");
    watch::assert_whole(&valet, 5);
}
