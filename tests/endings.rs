//! How clients, servers and whole clusters end, in each state that they can be in; and that nothing leaks by it.

#[path = "endings/servers.rs"]
mod servers;
mod support;
#[path = "support/watch.rs"]
mod watch;

use support::backend::{first_error, tags};
use support::cluster::{Cluster, Role};
use support::eventually;
use support::frontend::{bind, copy_data, execute, extended, flush, parse, query, terminate};
use support::pgvalet::Pgvalet;
use support::wire::Client;
use watch::{Barrier, Console, assert_whole, trusting, wait_sessions};

/// A way for a client to end, all without waiting for anything.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Its process was killed, or its machine is gone: a reset.
    Reset,
    /// It closes its socket.
    Close,
    /// It says goodbye and closes its socket.
    Terminate,
}

impl Way {
    const ALL: [Self; 3] = [Self::Reset, Self::Close, Self::Terminate];

    fn take(self, mut client: Client) {
        match self {
            Self::Reset => client.reset(),
            Self::Close => drop(client),
            Self::Terminate => client.send(&terminate()),
        }
    }
}

/// A cluster and a pgvalet, whose clients end in every way while in some state.
struct Scene {
    cluster: Cluster,
    valet: Pgvalet,
}

/// One server for each way, so that all of them can be in use when the clients end.
const POOL_SIZE: usize = Way::ALL.len();

impl Scene {
    fn start() -> Self {
        let cluster = Cluster::start();
        cluster.sql("CREATE TABLE written (x text)");
        let valet = trusting(&cluster, POOL_SIZE).start();
        Self { cluster, valet }
    }

    /// Brings a client into a state for each way, ends each in its way, and shows that nothing is left of them. `enter`
    /// is told how many clients are in that state then.
    #[track_caller]
    fn each_way(&self, mut enter: impl FnMut(&Self, &mut Client, usize)) {
        let mut clients = Vec::new();
        for number in 1..=POOL_SIZE {
            let mut client = self.valet.client(Role::Trust);
            enter(self, &mut client, number);
            clients.push(client);
        }
        Way::ALL.into_iter().zip(clients).for_each(|(way, client)| way.take(client));
        self.nothing_left();
    }

    /// No server is taken, nothing runs, no transaction is open, nothing was committed; the pool is whole.
    #[track_caller]
    fn nothing_left(&self) {
        let mut console = Console::open(&self.valet);
        for column in ["sv_active", "sv_tested", "sv_being_canceled"] {
            console.wait_pool(column, 0);
        }
        wait_sessions(&self.cluster, "state <> 'idle'", 0);
        wait_sessions(&self.cluster, "xact_start IS NOT NULL", 0);
        assert_eq!(console.pool("cl_waiting"), 0);
        assert_eq!(self.cluster.value("SELECT count(*) FROM written"), "0", "nothing was committed");
        self.cluster.sql("BEGIN; LOCK TABLE written IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT");
        assert_whole(&self.valet, POOL_SIZE);
    }
}

#[test]
fn a_client_that_ends_while_idle() {
    Scene::start().each_way(|_, client, _| {
        assert_eq!(client.value("SELECT 1"), "1");
    });
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_query() {
    Scene::start().each_way(|scene, client, number| {
        client.send(&query("SELECT pg_sleep(600)"));
        wait_sessions(&scene.cluster, "state = 'active' AND query LIKE '%pg_sleep%'", number);
    });
}

#[test]
fn a_client_that_ends_in_the_middle_of_an_extended_query() {
    Scene::start().each_way(|scene, client, number| {
        client.send(&extended(
            "WITH row AS (INSERT INTO written VALUES ('x') RETURNING x) SELECT pg_sleep(600) FROM row",
            &[],
        ));
        wait_sessions(&scene.cluster, "state = 'active' AND query LIKE '%pg_sleep%'", number);
    });
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_query_with_part_of_the_next_sent() {
    Scene::start().each_way(|scene, client, number| {
        let next = query("INSERT INTO written VALUES ('x')");
        client.send(&[&query("SELECT pg_sleep(600)")[..], &next[..next.len() - 3]].concat());
        wait_sessions(&scene.cluster, "state = 'active' AND query LIKE '%pg_sleep%'", number);
    });
}

#[test]
fn a_client_that_ends_in_a_transaction() {
    Scene::start().each_way(|_, client, _| {
        client.query("BEGIN");
        assert_eq!(first_error(&client.query("INSERT INTO written VALUES ('x')")), None);
    });
}

#[test]
fn a_client_that_ends_in_a_failed_transaction() {
    Scene::start().each_way(|_, client, _| {
        client.query("BEGIN; INSERT INTO written VALUES ('x')");
        assert_eq!(first_error(&client.query("SELECT 1 / 0")).as_deref(), Some("22012"));
    });
}

#[test]
fn a_pipeline_whose_sync_never_came_is_rolled_back() {
    Scene::start().each_way(|_, client, _| {
        let insert =
            [parse("", "INSERT INTO written VALUES ('x')"), bind("", "", &[]), execute("", 0), flush()];
        client.send(&insert.concat());
        assert_eq!(tags(&client.until(b'C')), "12C");
    });
}

#[test]
fn a_pipeline_of_which_nothing_was_answered_is_rolled_back() {
    Scene::start().each_way(|scene, client, number| {
        client.send(
            &[parse("", "INSERT INTO written VALUES ('x')"), bind("", "", &[]), execute("", 0)].concat(),
        );
        Console::open(&scene.valet).wait_pool("sv_active", number as u64);
    });
}

#[test]
fn a_part_of_a_message_never_reaches_a_server_that_is_used_again() {
    let scene = Scene::start();
    scene.each_way(|scene, client, number| {
        // So long that its beginning is passed on before its end has come.
        let long = query(&format!("INSERT INTO written VALUES ('{}')", "x".repeat(400_000)));
        client.send(&long[..300_000]);
        Console::open(&scene.valet).wait_pool("sv_active", number as u64);
    });
    let connects = Console::open(&scene.valet).stat("connects");
    assert_eq!(connects, 2 * POOL_SIZE as u64, "each server was replaced");
    scene.each_way(|_, client, _| client.send(&query("INSERT INTO written VALUES ('x')")[..20]));
    let later = Console::open(&scene.valet).stat("connects");
    assert_eq!(later, connects, "a part that was never passed on costs no server");
}

#[test]
fn a_client_that_ends_in_copy_in() {
    Scene::start().each_way(|_, client, _| {
        client.send(&query("COPY written FROM STDIN"));
        client.until(b'G');
        client.send(&copy_data(b"one\ntwo\n"));
        client.send(&copy_data(b"three, of which the end never comes")[..12]);
    });
    Scene::start().each_way(|_, client, _| {
        client.send(
            &[parse("", "COPY written FROM STDIN"), bind("", "", &[]), execute("", 0), flush()].concat(),
        );
        client.until(b'G');
        client.send(&copy_data(b"one\n"));
    });
}

#[test]
fn a_client_that_ends_in_copy_out_or_rows() {
    let endless = "SELECT generate_series(1, 100000000), repeat('x', 1000)";
    for sql in [format!("COPY ({endless}) TO STDOUT"), endless.to_string()] {
        Scene::start().each_way(|scene, client, number| {
            client.send(&query(&sql));
            client.recv();
            // Nobody reads on: everything up to the server is full.
            wait_sessions(&scene.cluster, "state = 'active' AND wait_event = 'ClientWrite'", number);
        });
    }
}

#[test]
fn a_client_that_ends_in_line() {
    let scene = Scene::start();
    let mut holders: Vec<Client> = (0..POOL_SIZE).map(|_| scene.valet.client(Role::Trust)).collect();
    let mut console = Console::open(&scene.valet);
    for way in [Way::Reset, Way::Close] {
        let mut client = scene.valet.client(Role::Trust);
        let mut behind = scene.valet.client(Role::Trust);
        for holder in &mut holders {
            holder.query("BEGIN");
        }
        client.send(&query("INSERT INTO written VALUES ('x')"));
        console.wait_pool("cl_waiting", 1);
        behind.send(&query("SELECT 'behind'"));
        console.wait_pool("cl_waiting", 2);
        way.take(client);
        console.wait_pool("cl_waiting", 1);
        for holder in &mut holders {
            holder.query("COMMIT");
        }
        assert_eq!(first_error(&behind.until_ready()), None);
        scene.nothing_left();
    }
}

#[test]
fn a_hundred_clients_that_end_at_once_leave_nothing() {
    let scene = Scene::start();
    let mut clients: Vec<Client> = (0..100).map(|_| scene.valet.client(Role::Trust)).collect();
    for client in &mut clients {
        client.send(&query("BEGIN; INSERT INTO written VALUES ('x'); SELECT pg_sleep(600)"));
    }
    Console::open(&scene.valet).wait_pool("cl_waiting", 100 - POOL_SIZE as u64);
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 { Way::Reset } else { Way::Close }.take(client);
    }
    scene.nothing_left();
    eventually("the sockets to be closed", || (scene.valet.open_files() < 60).then_some(()));
}

#[test]
fn terminate_behind_pipelined_work_comes_after_what_is_owed() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 1).start();
    let mut client = valet.client(Role::Trust);
    let mut barrier = Barrier::close(cluster, 8_001);
    client.send(&[query("SELECT 1"), query(&barrier.sql()), extended("SELECT 2", &[]), terminate()].concat());
    barrier.wait_reached();
    barrier.open();
    assert_eq!(tags(&client.until_end()), "TDCZTDCZ12DCZ");
    assert_whole(&valet, 1);
}

#[test]
fn terminate_in_line_comes_after_what_is_owed() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 1).start();
    let (mut holder, mut client) = (valet.client(Role::Trust), valet.client(Role::Trust));
    holder.query("BEGIN");
    client.send(&[query("SELECT 1"), query("BEGIN"), terminate()].concat());
    Console::open(&valet).wait_pool("cl_waiting", 1);
    holder.query("COMMIT");
    assert_eq!(tags(&client.until_end()), "TDCZCZ");
    assert_whole(&valet, 1);
}

#[test]
fn a_client_that_has_closed_its_half_is_given_what_it_is_owed() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 1).start();
    for _ in 0..5 {
        let mut client = valet.client(Role::Trust);
        client.send(&[query("SELECT g FROM generate_series(1, 5) AS g"), extended("SELECT 2", &[])].concat());
        client.half_close();
        assert_eq!(tags(&client.until_end()), "TDDDDDCZ12DCZ");
    }
    // In a transaction that nobody can end any more.
    let mut client = valet.client(Role::Trust);
    client.send(&[query("BEGIN"), query("SELECT 1")].concat());
    client.half_close();
    assert_eq!(tags(&client.until_end()), "CZTDCZ");
    assert_whole(&valet, 1);
}
