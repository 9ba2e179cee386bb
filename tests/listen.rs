//! LISTEN without a server: one connection a database listens for all clients, and they see what they would see with
//! connections of their own.

#[path = "support/faithful.rs"]
mod faithful;
mod support;
#[path = "support/watch.rs"]
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use faithful::faithful;
use support::backend::{Message, first_error};
use support::cluster::{Cluster, DATABASE, Role, StopMode};
use support::differential::Script;
use support::pgvalet::Pgvalet;
use support::wire::{Client, Login};
use support::{eventually, frontend};
use watch::{Console, trusting};

/// Process, channel and payload of a NotificationResponse.
type Notified = (i32, String, String);

fn notified(message: &Message) -> Option<Notified> {
    let (pid, rest) = message.body.split_first_chunk().filter(|_| message.tag == b'A')?;
    let mut parts = rest.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    Some((i32::from_be_bytes(*pid), parts.next()?, parts.next()?))
}

/// The next message of a client that asks for nothing, which is a notification.
#[track_caller]
fn next(client: &mut Client) -> Notified {
    let message = client.recv();
    notified(&message).unwrap_or_else(|| panic!("a notification and not {message:?}"))
}

/// What a client hears until somebody says `end` on `channel`: channels and payloads.
#[track_caller]
fn until_end(client: &mut Client, channel: &str) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    loop {
        let (_, on, payload) = next(client);
        if on == channel && payload == "end" {
            return heard;
        }
        heard.push((on, payload));
    }
}

#[track_caller]
fn runs(client: &mut Client, sql: &str) -> Vec<Notified> {
    let reply = client.query(sql);
    assert_eq!(first_error(&reply), None, "{sql}: {reply:?}");
    reply.iter().filter_map(notified).collect()
}

/// Waits until no client has a server.
#[track_caller]
fn wait_free(valet: &Pgvalet) {
    let mut console = Console::open(valet);
    console.wait_pool("sv_active", 0);
    assert_eq!(console.stat("pins"), 0, "nobody keeps a server");
}

#[track_caller]
fn listener(valet: &Pgvalet, column: &str) -> String {
    let messages = valet.login(&Login::new("postgres", "pgvalet")).query("SHOW LISTENERS");
    let columns = messages.iter().find_map(Message::columns).expect("a table has columns");
    let at = columns.iter().position(|name| name == column).expect("there is such a column");
    let row = support::backend::rows(&messages).pop().expect("there is a listener");
    row[at].clone().unwrap_or_default()
}

fn payloads(channel: &str, range: std::ops::Range<usize>) -> Vec<(String, String)> {
    range.map(|number| (channel.into(), number.to_string())).collect()
}

/// Statements of which each is a transaction, or part of one, and what is heard of channels `a` and `b` behind each: a
/// client hears itself before it is answered.
fn told(name: &str, statements: &[&str]) -> Script {
    statements.iter().fold(Script::new(name), |script, sql| script.query(sql))
}

const BOTH: &str = "BEGIN; NOTIFY a, 'to a'; NOTIFY b, 'to b'; COMMIT";

#[test]
fn what_is_listened_to_is_what_postgresql_says() {
    let script = told(
        "channels",
        &[
            "LISTEN a",
            BOTH,
            "LISTEN b",
            "SELECT pg_listening_channels()",
            BOTH,
            "UNLISTEN a",
            BOTH,
            "SELECT pg_listening_channels()",
            "BEGIN",
            "UNLISTEN b",
            "ROLLBACK",
            BOTH,
            "BEGIN",
            "SAVEPOINT s",
            "UNLISTEN b",
            "ROLLBACK TO s",
            "LISTEN a",
            "COMMIT",
            BOTH,
            "BEGIN",
            "SAVEPOINT s",
            "UNLISTEN a",
            "RELEASE s",
            "SELECT 1/0",
            "ROLLBACK",
            BOTH,
            "BEGIN; LISTEN a; UNLISTEN a; COMMIT",
            BOTH,
            "UNLISTEN b; ROLLBACK",
            BOTH,
            "LISTEN a; LISTEN b; NOTIFY a, 'in one text'",
            "BEGIN; UNLISTEN a; ROLLBACK; UNLISTEN b",
            BOTH,
            "BEGIN; NOTIFY a, 'never'; ROLLBACK",
            "BEGIN; NOTIFY a, 'once'; NOTIFY a, 'once'; COMMIT",
            "DO $$ BEGIN EXECUTE 'LISTEN b'; EXECUTE 'UNLISTEN a'; END $$",
            BOTH,
            "UNLISTEN *",
            BOTH,
            "LISTEN a",
            BOTH,
            "DISCARD ALL",
            BOTH,
            "SELECT pg_listening_channels()",
            "LISTEN \"A b\"\"c\u{e9}\\\"",
            "SELECT pg_notify('A b\"c\u{e9}\\', 'odd')",
            "SELECT pg_notify('A b\"c\u{e9}\\', '')",
            "UNLISTEN *",
        ],
    );
    faithful(&script.errors(&["22012"]));
}

#[test]
fn channels_by_the_extended_protocol() {
    let script = [
        "LISTEN c",
        "NOTIFY c, 'one'",
        "SELECT pg_notify('c', 'two')",
        "BEGIN",
        "NOTIFY c, 'three'",
        "UNLISTEN c",
        "ROLLBACK",
        "NOTIFY c, 'four'",
        "BEGIN",
        "NOTIFY c, 'five'",
        "LISTEN d",
        "COMMIT",
        "SELECT pg_notify('d', 'six')",
        "UNLISTEN *",
        "NOTIFY c, 'seven'",
    ]
    .iter()
    .fold(Script::new("channels, extended"), |script, sql| script.extended(sql, &[]));
    faithful(&script);
}

#[test]
fn a_client_that_listens_holds_no_server_and_hears_everything_in_order() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 1).start();
    let mut listening = valet.client(Role::Trust);
    runs(&mut listening, "LISTEN news_3");
    wait_free(&valet);
    let mut direct = cluster.client(Role::Trust);
    let mut pooled = valet.client(Role::Trust);
    let pid = direct.pid();
    for number in 0..100 {
        let notifier = if number % 2 == 0 { &mut direct } else { &mut pooled };
        runs(notifier, &format!("NOTIFY news_3, '{number}'"));
    }
    runs(&mut direct, "NOTIFY other, 'not heard'");
    for number in 0..100 {
        let (from, channel, payload) = next(&mut listening);
        assert_eq!((&*channel, payload), ("news_3", number.to_string()));
        assert_eq!(from == pid, number % 2 == 0, "from {from}");
    }
    // It works like any other client meanwhile.
    assert_eq!(listening.value("SELECT pg_listening_channels()"), "news_3");
    runs(&mut direct, "NOTIFY news_3, 'end'");
    assert_eq!(until_end(&mut listening, "news_3"), []);
    assert_eq!(listener(&valet, "clients"), "1");
    listening.terminate();
    eventually("it to be forgotten", || (listener(&valet, "clients") == "0").then_some(()));
    watch::assert_whole(&valet, 1);
}

#[test]
fn nothing_is_lost_or_heard_twice_from_the_answer_to_listen_on() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 2).setting("workers = 2").start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Others make noise on the same channel, so that there is always something on its way.
        scope.spawn(|| {
            let mut noise = cluster.client(Role::Trust);
            while !over.load(Ordering::Relaxed) {
                runs(&mut noise, "NOTIFY news_4, 'noise'");
            }
        });
        let mut direct = cluster.client(Role::Trust);
        let mut clients = Vec::new();
        for round in 0..20 {
            let mut client = valet.client(Role::Trust);
            let early = runs(&mut client, "LISTEN news_4");
            assert!(early.iter().all(|(_, _, payload)| payload == "noise"), "{early:?}");
            for number in 0..20 {
                runs(&mut direct, &format!("NOTIFY news_4, '{round} {number}'"));
            }
            clients.push((round, client));
        }
        over.store(true, Ordering::Relaxed);
        runs(&mut direct, "NOTIFY news_4, 'end'");
        for (round, client) in &mut clients {
            let mut heard = until_end(client, "news_4");
            heard.retain(|(_, payload)| payload != "noise");
            let expected: Vec<_> = (*round..20)
                .flat_map(|round| {
                    (0..20).map(move |number| ("news_4".to_string(), format!("{round} {number}")))
                })
                .collect();
            assert_eq!(heard, expected, "client {round}");
        }
    });
    wait_free(&valet);
}

#[test]
fn a_client_knows_its_own_notifications_by_its_own_process_id() {
    let cluster = Cluster::shared();
    for (mode, listen) in
        [("transaction", "shared"), ("statement", "shared"), ("transaction", "pin"), ("session", "shared")]
    {
        let valet = trusting(cluster, 2)
            .setting(&format!("pool_mode = \"{mode}\""))
            .setting(&format!("listen = \"{listen}\""))
            .start();
        let (mut one, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
        runs(&mut one, "LISTEN news_5");
        // On the server that it was said on, and on one that was lent later.
        for round in ["before", "after"] {
            let own = runs(&mut one, "NOTIFY news_5, 'own'");
            assert_eq!(own, [(one.pid(), "news_5".into(), "own".into())], "{mode} {listen} {round}");
            if (mode, listen) != ("session", "shared") && listen != "pin" {
                wait_free(&valet);
            }
        }
        let backend: i32 = other.value("SELECT pg_backend_pid()").parse().expect("a process id");
        runs(&mut other, "NOTIFY news_5, 'of another'");
        let (pid, _, payload) = next(&mut one);
        assert_eq!(payload, "of another");
        assert!(pid != one.pid(), "{mode} {listen}");
        if mode == "session" {
            assert_eq!(pid, backend);
        }
    }
}

#[test]
fn notifications_wait_for_the_end_of_a_transaction_and_come_in_front_of_the_answer() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 2).start();
    let mut client = valet.client(Role::Trust);
    let mut witness = valet.client(Role::Trust);
    let mut direct = cluster.client(Role::Trust);
    for listening in [&mut client, &mut witness] {
        runs(listening, "LISTEN news_6");
    }
    wait_free(&valet);
    for end in ["COMMIT", "ROLLBACK"] {
        assert_eq!(runs(&mut client, "BEGIN"), []);
        runs(&mut direct, "NOTIFY news_6, 'meanwhile'");
        // The one has it, so pgvalet has it for the other.
        assert_eq!(next(&mut witness).2, "meanwhile");
        assert_eq!(runs(&mut client, "SELECT 1"), [], "in a transaction");
        let at_end: Vec<_> = runs(&mut client, end).into_iter().map(|(_, _, payload)| payload).collect();
        assert_eq!(at_end, ["meanwhile"], "{end}");
    }
    // Own and others' in the order of their commits.
    runs(&mut client, "BEGIN");
    runs(&mut client, "NOTIFY news_6, 'second'");
    runs(&mut direct, "NOTIFY news_6, 'first'");
    let at_end: Vec<_> = runs(&mut client, "COMMIT").into_iter().map(|(_, _, payload)| payload).collect();
    assert_eq!(at_end, ["first", "second"]);
}

/// The listener has it while the client's server is still busy with what was asked for before.
#[test]
fn what_a_client_notifies_itself_does_not_come_before_its_statement() {
    let cluster = Cluster::shared();
    let valet = Pgvalet::builder()
        .database_at(DATABASE, &cluster.unix(), &[])
        .all_roles()
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 1")
        .start();
    let mut client = Client::login(&valet.unix(), &Role::Trust.login()).expect("login");
    let mut witness = valet.client(Role::Trust);
    let mut console = Console::open(&valet);
    for listening in [&mut client, &mut witness] {
        runs(listening, "LISTEN news_7");
    }
    wait_free(&valet);
    // More than sockets hold, so the last statement is executed when much of the first answer has been read.
    client.send(&frontend::query("SELECT repeat('x', 8000) FROM generate_series(1, 400)"));
    client.send(&frontend::query("SELECT 1"));
    client.send(&frontend::query("NOTIFY news_7, 'own'"));
    let is_heard = AtomicBool::new(false);
    let mut tags: Vec<u8> = std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(next(&mut witness).2, "own");
            is_heard.store(true, Ordering::Relaxed);
        });
        let mut tags = Vec::new();
        while tags.iter().filter(|tag| **tag == b'Z').count() < 3 {
            if !is_heard.load(Ordering::Relaxed) {
                console.stat("pins");
            }
            let message = client.recv();
            if let Some((pid, ..)) = notified(&message) {
                assert_eq!(pid, client.pid());
            }
            tags.push(message.tag);
        }
        tags
    });
    tags.dedup();
    assert_eq!(String::from_utf8_lossy(&tags), "TDCZTDCZCAZ");
}

#[test]
fn a_client_that_does_not_read_is_ended_and_others_go_on() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 2).setting("notification_buffer = 100000").start();
    let mut asleep = valet.client(Role::Trust);
    asleep.shrink_buffers(4096);
    let mut busy = valet.client(Role::Trust);
    let mut awake = valet.client(Role::Trust);
    for client in [&mut asleep, &mut busy, &mut awake] {
        runs(client, "LISTEN news_7");
    }
    wait_free(&valet);
    // One does not read, another is in a transaction and could not be told.
    runs(&mut busy, "BEGIN");
    let mut direct = cluster.client(Role::Trust);
    let payload = "x".repeat(7000);
    let rss = valet.rss_kib();
    let mut sent = 0;
    let is_over = || valet.count_log(&["notification_buffer"]) >= 2;
    while !is_over() {
        runs(&mut direct, &format!("NOTIFY news_7, '{sent} {payload}'"));
        let (_, _, heard) = next(&mut awake);
        assert!(heard.starts_with(&format!("{sent} ")));
        sent += 1;
        assert!(sent < 10_000, "somebody keeps all of it");
    }
    assert!(valet.rss_kib() < rss + 60_000, "{} KiB after {rss}", valet.rss_kib());
    let rest = busy.try_until_end().expect("it ends in good order");
    assert_eq!(first_error(&rest).as_deref(), Some("53400"), "{rest:?}");
    valet.wait_log(&["client ended", "too many notifications"]);
    runs(&mut direct, "NOTIFY news_7, 'end'");
    assert_eq!(until_end(&mut awake, "news_7"), []);
}

#[test]
fn a_thousand_clients_that_listen_hold_no_server() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 2).setting("workers = 2").setting("log_connections = false").start();
    let mut clients: Vec<Client> = (0..1000).map(|_| valet.client(Role::Trust)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&frontend::query(&format!("LISTEN everybody; LISTEN only_{}", number % 10)));
    }
    for client in &mut clients {
        assert_eq!(first_error(&client.until_ready()), None);
    }
    wait_free(&valet);
    assert_eq!((listener(&valet, "channels"), listener(&valet, "clients")), ("11".into(), "1000".into()));
    let mut direct = cluster.client(Role::Trust);
    runs(&mut direct, "NOTIFY everybody, 'one'; NOTIFY only_3, 'two'; NOTIFY everybody, 'end'");
    for (number, client) in clients.iter_mut().enumerate() {
        let mut expected = vec![("everybody".to_string(), "one".to_string())];
        if number % 10 == 3 {
            expected.push(("only_3".into(), "two".into()));
        }
        assert_eq!(until_end(client, "everybody"), expected, "client {number}");
    }
    watch::assert_whole(&valet, 2);
}

#[test]
fn notifications_never_come_inside_a_message() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 1).start();
    let mut client = valet.client(Role::Trust);
    runs(&mut client, "LISTEN news_9");
    wait_free(&valet);
    let mut direct = cluster.client(Role::Trust);
    let copies =
        frontend::all(&[frontend::copy_data(b"1\n"), frontend::copy_data(b"2\n"), frontend::copy_done()]);
    let requests = [
        (frontend::query("CREATE TEMP TABLE t (n int); COPY t FROM STDIN"), Some(copies)),
        (frontend::extended("SELECT repeat('x', 200000), g FROM generate_series(1, 20) g", &[]), None),
        (frontend::query("DROP TABLE t"), None),
    ];
    let mut sent = 0;
    let mut heard = Vec::new();
    for (request, rest) in requests {
        for piece in request.iter().chain(rest.iter().flatten()) {
            // Half of the client's message is with pgvalet when the notification comes.
            client.send(&[*piece]);
            if sent < 200 {
                runs(&mut direct, &format!("NOTIFY news_9, '{sent}'"));
                sent += 1;
            }
        }
        let reply = client.until_ready();
        assert_eq!(first_error(&reply), None, "{reply:?}");
        heard.extend(reply.iter().filter_map(notified).map(|(_, channel, payload)| (channel, payload)));
    }
    runs(&mut direct, "NOTIFY news_9, 'end'");
    heard.extend(until_end(&mut client, "news_9"));
    assert_eq!(heard, payloads("news_9", 0..sent));
}

#[test]
fn the_end_of_the_listener_is_told_to_those_it_listened_for() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 2).start();
    let mut idle = valet.client(Role::Trust);
    let mut busy = valet.client(Role::Trust);
    let mut deaf = valet.client(Role::Trust);
    runs(&mut deaf, "SELECT 1");
    for client in [&mut idle, &mut busy] {
        runs(client, "LISTEN news_10");
    }
    wait_free(&valet);
    runs(&mut busy, "BEGIN; CREATE TABLE done (n int)");
    cluster.terminate_backend(listener(&valet, "remote_pid").parse().expect("a process id"));
    let rest = idle.try_until_end().expect("it ends in good order");
    assert_eq!(first_error(&rest).as_deref(), Some("08006"), "{rest:?}");
    // A transaction is not torn down for it.
    runs(&mut busy, "INSERT INTO done VALUES (1)");
    runs(&mut busy, "COMMIT");
    let rest = busy.try_until_end().expect("it ends in good order");
    assert_eq!(first_error(&rest).as_deref(), Some("08006"), "{rest:?}");
    assert_eq!(deaf.value("SELECT n FROM done"), "1");
    // Whoever comes back is served as before.
    let mut again = valet.client(Role::Trust);
    runs(&mut again, "LISTEN news_10");
    wait_free(&valet);
    runs(&mut deaf, "NOTIFY news_10, 'end'");
    assert_eq!(until_end(&mut again, "news_10"), []);
    assert_eq!((listener(&valet, "connects"), listener(&valet, "losses")), ("2".into(), "1".into()));
}

#[test]
fn who_wants_to_stay_misses_what_is_notified_while_nobody_listens() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 2).setting("listener_lost = \"keep\"").start();
    let mut client = valet.client(Role::Trust);
    runs(&mut client, "LISTEN news_11");
    wait_free(&valet);
    for connects in ["2", "3"] {
        cluster.restart(StopMode::Fast);
        eventually("the listener to be back", || (listener(&valet, "connects") == connects).then_some(()));
        runs(&mut cluster.client(Role::Trust), "NOTIFY news_11, 'end'");
        assert_eq!(until_end(&mut client, "news_11"), []);
    }
    valet.wait_log(&["the listener was lost", "clients=1"]);
    assert_eq!(client.value("SELECT pg_listening_channels()"), "news_11");
}

#[test]
fn the_listener_follows_reconnect_and_reload_without_loss() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 2).setting("workers = 2").start();
    let mut clients: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    for client in &mut clients {
        runs(client, "LISTEN news_12");
    }
    wait_free(&valet);
    let over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let notifier = scope.spawn(|| {
            let mut direct = cluster.client(Role::Trust);
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                runs(&mut direct, &format!("NOTIFY news_12, '{sent}'"));
                sent += 1;
            }
            runs(&mut direct, "NOTIFY news_12, 'end'");
            sent
        });
        let mut console = valet.login(&Login::new("postgres", "pgvalet"));
        let mut connects: u32 = 1;
        let mut wait_another = || {
            connects += 1;
            let connects = connects.to_string();
            eventually("another connection", || (listener(&valet, "connects") == connects).then_some(()));
        };
        runs(&mut console, "RECONNECT");
        wait_another();
        runs(&mut console, &format!("RECONNECT {DATABASE}"));
        wait_another();
        // Another target: its pool is replaced.
        valet.write_config(
            &valet
                .config()
                .replace("[databases.\"app\"]", "[databases.\"app\"]\nconnect_query = \"SELECT 1\""),
        );
        runs(&mut console, "RELOAD");
        wait_another();
        over.store(true, Ordering::Relaxed);
        notifier.join().expect("it has notified")
    });
    for client in &mut clients {
        assert_eq!(until_end(client, "news_12"), payloads("news_12", 0..sent));
    }
    assert_eq!(listener(&valet, "losses"), "0");
}

#[test]
fn a_paused_database_has_no_listener_and_a_removed_one_no_clients() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 2).setting("listener_lost = \"keep\"").start();
    let mut client = valet.client(Role::Trust);
    runs(&mut client, "LISTEN news_13");
    wait_free(&valet);
    let mut console = valet.login(&Login::new("postgres", "pgvalet"));
    runs(&mut console, "PAUSE");
    watch::wait_sessions(&cluster, "true", 0);
    runs(&mut console, "RESUME");
    eventually("the listener to be back", || (listener(&valet, "state") == "listening").then_some(()));
    runs(&mut cluster.client(Role::Trust), "NOTIFY news_13, 'end'");
    assert_eq!(until_end(&mut client, "news_13"), []);
    // The database is not there any more.
    valet.write_config(&valet.config().replace("databases.\"app\"", "databases.\"renamed\""));
    runs(&mut console, "RELOAD");
    let rest = client.try_until_end().expect("it ends in good order");
    assert_eq!(first_error(&rest).as_deref(), Some("08006"), "{rest:?}");
}

#[test]
fn where_nobody_can_listen_the_client_keeps_its_server_until_somebody_can() {
    let cluster = Cluster::start();
    cluster.sql("ALTER ROLE app_trust CONNECTION LIMIT 1");
    let valet = trusting(&cluster, 1).start();
    let mut client = valet.client(Role::Trust);
    runs(&mut client, "LISTEN news_14");
    valet.wait_log(&["nobody can listen for clients"]);
    let mut console = Console::open(&valet);
    console.wait_stat("pins", 1);
    let mut direct = cluster.client(Role::Postgres);
    runs(&mut direct, "NOTIFY news_14, 'end'");
    assert_eq!(until_end(&mut client, "news_14"), []);
    cluster.sql("ALTER ROLE app_trust CONNECTION LIMIT -1");
    console.wait_pool("sv_active", 0);
    runs(&mut direct, "NOTIFY news_14, 'end'");
    assert_eq!(until_end(&mut client, "news_14"), []);
}

#[test]
fn who_reads_another_encoding_or_is_told_to_keeps_its_server() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 3).start();
    let latin = Role::Trust.login().parameter("client_encoding", "LATIN1");
    let mut client = valet.login(&latin);
    runs(&mut client, "LISTEN news_15");
    let mut console = Console::open(&valet);
    console.wait_stat("pins", 1);
    runs(&mut cluster.client(Role::Trust), "NOTIFY news_15, '\u{e9}'");
    let message = client.recv();
    assert_eq!(&message.body[4..], b"news_15\0\xe9\0");

    let valet = trusting(cluster, 3).setting("listen = \"pin\"").start();
    let mut client = valet.client(Role::Trust);
    runs(&mut client, "LISTEN news_15");
    Console::open(&valet).wait_stat("pins", 1);
    runs(&mut cluster.client(Role::Trust), "NOTIFY news_15, 'end'");
    assert_eq!(until_end(&mut client, "news_15"), []);
}

#[test]
fn a_client_that_keeps_its_server_for_something_else_hears_each_notification_once() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster, 2).start();
    let mut client = valet.client(Role::Trust);
    let mut direct = cluster.client(Role::Trust);
    let all = "NOTIFY e, 'x'; NOTIFY f, 'x'; NOTIFY f, 'end'";
    let both = || vec![("e".to_string(), "x".to_string()), ("f".to_string(), "x".to_string())];
    // By the listener, then pinned, then listening to more there.
    runs(&mut client, "LISTEN e");
    wait_free(&valet);
    runs(&mut client, "CREATE TEMP TABLE kept (n int)");
    runs(&mut client, "LISTEN f");
    for _ in 0..3 {
        runs(&mut direct, all);
        let mut heard = until_end(&mut client, "f");
        // Across channels the order may be another one while two connections listen.
        if heard.len() == 1 {
            heard.insert(0, {
                let (_, channel, payload) = next(&mut client);
                (channel, payload)
            });
        }
        heard.sort();
        assert_eq!(heard, both());
    }
    runs(&mut client, "DROP TABLE kept");
    let mut console = Console::open(&valet);
    console.wait_pool("sv_active", 0);
    for _ in 0..3 {
        runs(&mut direct, all);
        assert_eq!(until_end(&mut client, "f"), both());
    }
    client.set_deadline(Duration::from_millis(200));
    assert!(client.try_recv().is_err(), "nothing is left");
}

/// On a server that takes no LISTEN the client is told so, and goes on.
#[test]
fn a_standby_refuses_to_listen_in_its_own_words() {
    let cluster = Cluster::start();
    cluster.stop(StopMode::Fast);
    std::fs::write(cluster.data_dir().join("standby.signal"), "").expect("the directory is ours");
    cluster.start_again();
    let valet = trusting(&cluster, 1).start();
    let (mut client, mut direct) = (valet.client(Role::Trust), cluster.client(Role::Trust));
    for sql in ["LISTEN news_20", "NOTIFY news_20", "UNLISTEN *", "SELECT 1"] {
        assert_eq!(client.query(sql), direct.query(sql), "{sql}");
    }
    wait_free(&valet);
}

/// Where the hosts of a database are different servers, who listens on one that the listener does not hear keeps it.
#[test]
fn who_listens_on_another_host_than_the_listener_keeps_its_server() {
    let (first, second) = (Cluster::start(), Cluster::start());
    // The same port on both, as a list of hosts has it.
    let name = format!(".s.PGSQL.{}", first.port());
    let own = format!(".s.PGSQL.{}", second.port());
    std::os::unix::fs::symlink(own, second.socket_dir().join(name)).expect("the directory is ours");
    let hosts = format!("{}, {}", first.socket_dir().display(), second.socket_dir().display());
    let valet = Pgvalet::builder()
        .database_on(DATABASE, &hosts, first.port(), &["load_balance_hosts = \"round-robin\""])
        .all_roles()
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("default_pool_size = 2")
        .start();
    let mut clients = [valet.client(Role::Trust), valet.client(Role::Trust)];
    let ports = clients.each_mut().map(|client| {
        runs(client, "BEGIN");
        runs(client, "LISTEN news_21");
        client.value("SHOW port").parse::<u16>().expect("a number")
    });
    assert_ne!(ports[0], ports[1], "each is on a server of its own");
    clients.iter_mut().for_each(|client| drop(runs(client, "COMMIT")));
    valet.wait_log(&["listening could not be moved to the shared listener"]);
    let mut console = Console::open(&valet);
    console.wait_pool("sv_active", 1);
    for round in ["once", "again"] {
        for (client, port) in clients.iter_mut().zip(ports) {
            let cluster = if port == first.port() { &first } else { &second };
            runs(&mut cluster.client(Role::Trust), &format!("NOTIFY news_21, '{round} on {port}'"));
            assert_eq!(next(client).2, format!("{round} on {port}"));
        }
    }
}
