//! Settings of the process itself: what its sockets are like, and what is logged.

mod support;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::unistd::{Gid, Group, geteuid, getgid};
use rustix::net::SocketAddrUnix;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use socket2::{SockRef, Socket, Type};
use support::backend::first_error;
use support::cluster::{Cluster, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login};
use support::{Endpoint, eventually};

fn trusting() -> Builder {
    Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 1")
}

/// Copies of the TCP sockets that a process has; of those, the connected ones.
fn connections(valet: &Pgvalet) -> Vec<Socket> {
    let pid = Pid::from_raw(valet.pid().cast_signed()).expect("a process id is not zero");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the process is there");
    let numbers = fs::read_dir(format!("/proc/{}/fd", valet.pid())).expect("it is there");
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let copy = |number: i32| -> Option<OwnedFd> {
        pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty()).ok()
    };
    let is_connection = |socket: &Socket| {
        let is_inet = socket.local_addr().is_ok_and(|address| address.is_ipv4());
        is_inet && socket.r#type().is_ok_and(|kind| kind == Type::STREAM) && socket.peer_addr().is_ok()
    };
    let sockets = numbers.flatten().filter_map(number).filter_map(copy).map(Socket::from);
    sockets.filter(is_connection).collect()
}

#[test]
fn connections_have_the_options_of_tcp_that_are_configured() {
    let valet = trusting()
        .setting("tcp_keepcnt = 3\ntcp_keepidle = 31\ntcp_keepintvl = 7\ntcp_user_timeout = 4500")
        .setting("tcp_socket_buffer = 50000")
        .start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(client.value("SELECT 1"), "1");
    // The client's and the server's.
    let sockets = connections(&valet);
    assert_eq!(sockets.len(), 2);
    for socket in &sockets {
        let socket = SockRef::from(socket);
        assert_eq!(socket.keepalive().ok(), Some(true));
        assert_eq!(socket.tcp_keepalive_retries().ok(), Some(3));
        assert_eq!(socket.tcp_keepalive_time().ok(), Some(Duration::from_secs(31)));
        assert_eq!(socket.tcp_keepalive_interval().ok(), Some(Duration::from_secs(7)));
        assert_eq!(socket.tcp_user_timeout().ok(), Some(Some(Duration::from_millis(4500))));
        // The kernel doubles what is asked for, for its own book-keeping.
        assert_eq!(
            (socket.recv_buffer_size().ok(), socket.send_buffer_size().ok()),
            (Some(100_000), Some(100_000))
        );
        assert_eq!(socket.tcp_nodelay().ok(), Some(true));
    }
}

#[test]
fn as_many_connections_as_listen_backlog_says_wait_to_be_accepted() {
    let valet = trusting().setting("listen_backlog = 7").start();
    let Endpoint::Unix(path) = valet.unix() else { panic!("a Unix socket has a path") };
    valet.signal(Signal::STOP);
    let stat = || fs::read_to_string(format!("/proc/{}/stat", valet.pid())).unwrap_or_default();
    eventually("the process to stand still", || stat().contains(") T ").then_some(()));
    let address = SocketAddrUnix::new(&path).expect("a path");
    let connect = || {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
        let socket = socket.expect("a descriptor to spare");
        connect(&socket, &address).map(|()| socket)
    };
    let waiting: Vec<OwnedFd> = std::iter::from_fn(|| connect().ok()).take(100).collect();
    // The kernel takes one more than it was told.
    assert_eq!(waiting.len(), 8);
    valet.signal(Signal::CONT);
    drop(waiting);
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}

#[test]
fn the_unix_socket_has_its_mode_and_its_group() {
    // Only root may give a file away to a group that it is not in.
    let group = if geteuid().is_root() { Gid::from_raw(1) } else { getgid() };
    let name = Group::from_gid(group).expect("the list of groups").expect("the group has a name").name;
    let valet = trusting()
        .setting("unix_socket_mode = \"0730\"")
        .setting(&format!("unix_socket_group = \"{name}\""))
        .start();
    let Endpoint::Unix(path) = valet.unix() else { panic!("a Unix socket has a path") };
    let metadata = fs::metadata(path).expect("it is there");
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.gid()), (0o730, group.as_raw()));
    let failure =
        trusting().setting("unix_socket_group = \"no-such-group\"").try_start().expect_err("no group");
    assert!(format!("{:?}", failure.log).contains("no-such-group"), "{failure:?}");
}

#[test]
fn what_is_logged_of_clients_is_what_is_wanted() {
    let kinds = ["log_connections", "log_disconnections", "log_pooler_errors"];
    for wanted in [true, false] {
        let lines = kinds.map(|kind| format!("{kind} = {wanted}"));
        let valet = trusting().setting(&lines.join("\n")).start();
        valet.client(Role::Trust).terminate();
        assert!(Client::login(&valet.tcp(), &Role::Trust.login().database("nosuch")).is_err());
        let mut console = valet.login(&Login::new("postgres", "pgbouncer"));
        eventually("the client to be gone", || {
            let clients = console.rows("SHOW CLIENTS");
            clients.iter().all(|row| row[2].as_deref() == Some("pgbouncer")).then_some(())
        });
        assert_eq!(first_error(&console.query("SHOW VERSION")), None);
        for words in ["client logged in", "client left", "login refused"] {
            // Those that are wanted may be on their way still.
            if wanted {
                valet.wait_log(&[words]);
            } else {
                assert_eq!(valet.count_log(&[words]), 0, "{words}");
            }
        }
    }
}
