//! Processes that share an address pass cancel requests on to the one whose client they mean.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, Role};
use support::frontend;
use support::install::{as_server_user, give_to_server_user};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login};
use support::{Endpoint, begin_endless, eventually};

fn process(id: u16) -> Builder {
    Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 2")
        .setting(&format!("peer_id = {id}"))
}

/// Tells a running process where its peers are.
fn introduce(valet: &Pgvalet, peers: &[(u16, &Endpoint)]) {
    let mut text = valet.config();
    for (id, endpoint) in peers {
        let (host, port) = endpoint.libpq();
        text += &format!("\n[peers.{id}]\nhost = \"{host}\"\nport = {port}\n");
    }
    valet.write_config(&text);
    valet.sighup();
    valet.wait_log(&["configuration reloaded"]);
}

/// Two processes that know each other.
fn pair() -> (Pgvalet, Pgvalet) {
    let (first, second) = (process(1).start(), process(2).start());
    // One by TCP, one by its Unix socket; and each finds itself in the list, too.
    let peers = [(1, &first.unix()), (2, &second.tcp())];
    introduce(&first, &peers);
    introduce(&second, &peers);
    (first, second)
}

/// Cancels what the client runs by a request at another process.
#[track_caller]
fn cancel_at(client: &mut Client, other: &Endpoint) {
    let cancel = client.cancel();
    let mut stream = Client::connect(other).expect("the other process listens");
    stream.send(&frontend::cancel_request(cancel.pid, &cancel.key));
    let reply = client.until_ready();
    assert_eq!(first_error(&reply).as_deref(), Some("57014"), "{reply:?}");
}

#[test]
fn a_cancel_request_finds_its_client_at_whatever_process_it_arrives() {
    let (first, second) = pair();
    for (home, other) in [(&first, &second), (&second, &first)] {
        let mut clients: Vec<Client> = (0..6).map(|_| home.client(Role::Trust)).collect();
        clients.iter_mut().for_each(|client| begin_endless(Cluster::shared(), client));
        for client in &mut clients {
            cancel_at(client, &other.tcp());
            assert_eq!(client.value("SELECT 'goes on'"), "goes on");
        }
        begin_endless(Cluster::shared(), &mut clients[0]);
        cancel_at(&mut clients[0], &home.tcp());
    }
    let mut console = second.login(&Login::new("postgres", "pgbouncer"));
    let peers = console.rows("SHOW PEERS");
    let ids: Vec<_> = peers.iter().map(|row| row[0].clone().unwrap_or_default()).collect();
    assert_eq!(ids, ["1", "2"]);
    assert_eq!(peers[0][1].as_deref(), Some(&*first.home().display().to_string()));
    eventually("all requests to be done", || {
        let pools = console.rows("SHOW PEER_POOLS");
        let zero = ["1", "0", "0", "0", "0"].map(|text| Some(text.to_owned()));
        (pools == [zero.to_vec()]).then_some(())
    });
}

#[test]
fn a_request_goes_round_no_circle() {
    let (first, second) = (process(1).start(), process(2).start());
    // Each takes the other for process 3: nobody has the client.
    introduce(&first, &[(3, &second.tcp())]);
    introduce(&second, &[(3, &first.tcp())]);
    let key = [0, 3, 0, 9, 1, 2, 3, 3_u8];
    let pid = i32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    let mut stream = Client::connect(&first.tcp()).expect("it listens");
    stream.send(&frontend::cancel_request(pid, &key[4..]));
    assert!(stream.try_until_end().is_ok_and(|rest| rest.is_empty()), "the request ends without a word");
    let ended = "passed on too often";
    let count = || first.count_log(&[ended]) + second.count_log(&[ended]);
    eventually("the request to end", || (count() == 1).then_some(()));
}

#[test]
fn a_key_of_a_peer_is_no_key_of_a_client_here() {
    let (first, second) = pair();
    let mut client = first.client(Role::Trust);
    begin_endless(Cluster::shared(), &mut client);
    let cancel = client.cancel();
    let mut wrong = cancel.key.clone();
    wrong[0] ^= 1;
    for endpoint in [first.tcp(), second.tcp()] {
        let mut stream = Client::connect(&endpoint).expect("it listens");
        stream.send(&frontend::cancel_request(cancel.pid, &wrong));
        let _ = stream.try_until_end();
    }
    cancel_at(&mut client, &second.tcp());
}

/// A pgbouncer process, ended when dropped.
struct Pgbouncer(Child);

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pgbouncer(program: &str, home: &Path, port: u16, peer: &Endpoint) -> Pgbouncer {
    let (host, peer_port) = peer.libpq();
    let ini = format!(
        "[databases]\n{DATABASE} = host=127.0.0.1 port={}\n[peers]\n1 = host={host} port={peer_port}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
         auth_file = users.txt\npool_mode = transaction\npeer_id = 2\n",
        Cluster::shared().port()
    );
    fs::write(home.join("users.txt"), format!("\"{}\" \"\"\n", Role::Trust.name())).expect("a file");
    fs::write(home.join("pgbouncer.ini"), ini).expect("a file");
    // It does not run as root either.
    give_to_server_user(home);
    let mut command = as_server_user(program.as_ref());
    command.arg("pgbouncer.ini").current_dir(home).stderr(Stdio::null()).stdout(Stdio::null());
    Pgbouncer(command.spawn().expect("pgbouncer starts"))
}

#[test]
#[ignore = "needs pgbouncer 1.22 or later, which tests/run.sh --pgbouncer fetches"]
fn pgbouncer_and_pgvalet_are_peers() {
    let program = std::env::var("PGVALET_PGBOUNCER").expect("PGVALET_PGBOUNCER names the program");
    let home = tempfile::tempdir().expect("a temporary directory");
    let valet = process(1).start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("a free port").port();
    let _bouncer = pgbouncer(&program, home.path(), port, &valet.tcp());
    let there = Endpoint::Tcp(([127, 0, 0, 1], port).into());
    introduce(&valet, &[(2, &there)]);
    eventually("pgbouncer to listen", || Client::connect(&there).ok());
    let mut here = valet.client(Role::Trust);
    begin_endless(Cluster::shared(), &mut here);
    cancel_at(&mut here, &there);
    let mut client = Client::login(&there, &Role::Trust.login()).expect("a login");
    begin_endless(Cluster::shared(), &mut client);
    cancel_at(&mut client, &valet.tcp());
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
}
