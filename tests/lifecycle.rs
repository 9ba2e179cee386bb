//! The life of the process: reload, shutdown, exit codes, what it tells systemd and its log, its socket files.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::backend::{Message, first_error};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet, binary};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, eventually, frontend};

fn trusting(cluster: &Cluster) -> Builder {
    Pgvalet::in_front_of(cluster).setting("auth_type = \"trust\"").setting("admin_users = [\"postgres\"]")
}

/// Puts another configuration in force, and waits until it is.
#[track_caller]
fn reload(valet: &Pgvalet, text: &str) {
    let done = || valet.count_log(&["configuration reloaded"]);
    let before = done();
    valet.write_config(text);
    valet.sighup();
    eventually("the reload", || (done() > before).then_some(()));
}

/// What the process logs when it has begun to shut down.
fn wait_draining(valet: &Pgvalet) {
    valet.wait_log(&["shutting down"]);
}

fn waiting(console: &mut Client) -> u64 {
    let rows = console.rows("SHOW POOLS");
    rows.iter().map(|row| row[3].as_deref().unwrap_or("0").parse::<u64>().expect("a number")).sum()
}

fn console(valet: &Pgvalet) -> Client {
    valet.login(&Login::new("postgres", "pgvalet"))
}

fn sessions(cluster: &Cluster) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_trust'";
    cluster.value(sql).parse().expect("a number")
}

#[test]
fn a_larger_pool_serves_those_who_wait_and_a_smaller_one_closes_what_is_too_much() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("default_pool_size = 1").start();
    let mut holder = valet.client(Role::Trust);
    holder.query("BEGIN");
    let mut second = valet.client(Role::Trust);
    second.send(&frontend::query("SELECT 'served'"));
    let mut console = console(&valet);
    eventually("the second to wait", || (waiting(&mut console) == 1).then_some(()));
    let text = valet.config();
    reload(&valet, &text.replace("default_pool_size = 1", "default_pool_size = 4"));
    assert!(format!("{:?}", second.until_ready()).contains("served"));

    let mut more: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    more.iter_mut().for_each(|client| assert_eq!(first_error(&client.query("BEGIN")), None));
    assert_eq!(sessions(&cluster), 4);
    reload(&valet, &text);
    for client in more.iter_mut().chain([&mut holder]) {
        assert_eq!(
            client.query("COMMIT")[0].command().as_deref(),
            Some("COMMIT"),
            "transactions are not hurt"
        );
    }
    eventually("the surplus to be closed", || (sessions(&cluster) <= 1).then_some(()));
    assert_eq!(second.value("SELECT 1"), "1");
}

#[test]
fn databases_and_users_come_and_go() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let old = valet.config();
    let added = Login::new("newcomer", "added");
    let refusal = |login: &Login| Client::login(&valet.tcp(), login).err().and_then(|error| error.sqlstate());
    assert_eq!(refusal(&added).as_deref(), Some("28P01"));
    let line = format!(
        "\n[databases.added]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"app\"\nuser = \"app_trust\"\n",
        cluster.port()
    );
    reload(&valet, &format!("{old}{line}\n[users.newcomer]\npassword = \"x\"\n"));
    let mut idle = valet.login(&added);
    let mut busy = valet.login(&added);
    assert_eq!(idle.value("SELECT current_user"), "app_trust");
    busy.query("BEGIN");

    reload(&valet, &old);
    assert_eq!(refusal(&added).as_deref(), Some("28P01"));
    assert_eq!(refusal(&Role::Trust.login().database("added")).as_deref(), Some("3D000"));
    assert_eq!(busy.value("SELECT 'goes on'"), "goes on", "its transaction is not hurt");
    assert_eq!(busy.query("COMMIT")[0].command().as_deref(), Some("COMMIT"));
    for client in [&mut idle, &mut busy] {
        client.send(&frontend::query("SELECT 1"));
        let last = client.until_end();
        assert_eq!(first_error(&last).as_deref(), Some("3D000"), "{last:?}");
    }
    eventually("its servers to be closed", || (sessions(&cluster) == 0).then_some(()));
}

#[test]
fn a_changed_host_makes_a_new_pool_and_drains_the_old_one() {
    let (from, to) = (Cluster::start(), Cluster::start());
    let valet = trusting(&from).setting("default_pool_size = 1").start();
    let port = "SELECT current_setting('port')";
    let mut idle = valet.client(Role::Trust);
    assert_eq!(idle.value(port), from.port().to_string());
    let mut busy = valet.client(Role::Trust);
    busy.query("BEGIN");
    let mut queued = valet.client(Role::Trust);
    queued.send(&frontend::query(port));
    let mut console = console(&valet);
    eventually("a client to wait", || (waiting(&mut console) == 1).then_some(()));

    reload(
        &valet,
        &valet.config().replace(&format!("port = {}", from.port()), &format!("port = {}", to.port())),
    );
    let moved = support::backend::rows(&queued.until_ready());
    assert_eq!(moved, [[Some(to.port().to_string())]], "who waited moves on");
    assert_eq!(idle.value(port), to.port().to_string());
    assert_eq!(busy.value(port), from.port().to_string(), "a transaction ends where it began");
    assert_eq!(busy.query("COMMIT")[0].command().as_deref(), Some("COMMIT"));
    assert_eq!(busy.value(port), to.port().to_string());
    eventually("the old servers to be closed", || (sessions(&from) == 0).then_some(()));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let valet = trusting(Cluster::shared()).setting("default_pool_size = 1").start();
    let mut client = valet.client(Role::Trust);
    let good = valet.config();
    let lines = good.lines().take_while(|line| !line.starts_with('[')).count();
    for (bad, reason) in [
        ("pol_mode = \"session\"", "did you mean pool_mode"),
        ("query_timeout = \"soon\"", "query_timeout"),
        ("this is no TOML", "pgvalet.toml"),
    ] {
        let mut text: Vec<&str> = good.lines().collect();
        text.insert(lines.saturating_sub(1), bad);
        let number = lines.max(1);
        valet.write_config(&text.join("\n"));
        valet.sighup();
        valet.wait_log(&["reload failed, the old configuration stays in force"]);
        valet.wait_log(&[&format!("pgvalet.toml:{number}:"), reason]);
        assert_eq!(client.value("SELECT 'served'"), "served");
        valet.client(Role::Trust).terminate();
    }
    fs::remove_file(valet.config_path()).expect("the file can be removed");
    let error = console(&valet).query("RELOAD");
    assert!(first_error(&error).is_some(), "{error:?}");
    assert_eq!(client.value("SELECT 'served'"), "served");
    reload(&valet, &good);
}

#[test]
fn what_only_a_restart_can_change_is_said() {
    let valet = trusting(Cluster::shared()).setting("workers = 1").start();
    reload(&valet, &valet.config().replace("workers = 1", "workers = 2"));
    valet.wait_log(&["cannot change while pgvalet runs", "workers"]);
}

fn assert_told_to_leave(messages: &[Message]) {
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0].sqlstate().as_deref(), Some("57P01"));
    assert_eq!(messages[0].field(b'S').as_deref(), Some("FATAL"));
}

#[test]
fn a_shutdown_lets_transactions_finish_and_sends_the_idle_away() {
    for how in ["TERM", "INT", "SHUTDOWN WAIT_FOR_SERVERS"] {
        let cluster = Cluster::start();
        let valet = trusting(&cluster).start();
        cluster.sql("CREATE TABLE kept (x int)");
        let (tcp, unix) = (valet.tcp(), valet.unix());
        let mut idle = valet.client(Role::Trust);
        let mut busy = valet.client(Role::Trust);
        busy.query("BEGIN");
        busy.query("INSERT INTO kept VALUES (1)");
        match how {
            "TERM" => valet.sigterm(),
            "INT" => valet.sigint(),
            _ => assert_eq!(console(&valet).query(how)[0].command().as_deref(), Some("SHUTDOWN")),
        }
        wait_draining(&valet);
        assert_told_to_leave(&idle.until_end());
        assert!(Client::connect(&tcp).is_err(), "{how}: nobody is let in any more");
        assert!(Client::connect(&unix).is_err(), "{how}");
        let Endpoint::Unix(path) = unix else { unreachable!("it is a Unix socket") };
        assert!(!path.exists(), "the socket file is gone");
        assert_eq!(busy.value("SELECT 'still here'"), "still here");
        assert_eq!(valet.exit_status(), None);
        let mut last = busy.query("COMMIT");
        last.extend(busy.until_end());
        assert_eq!(last[0].command().as_deref(), Some("COMMIT"), "{last:?}");
        assert_told_to_leave(&last[2..]);
        assert_eq!(valet.wait_exit().code(), Some(0), "{how}");
        assert_eq!(cluster.value("SELECT count(*) FROM kept"), "1");
        eventually("the servers to be closed", || (sessions(&cluster) == 0).then_some(()));
    }
}

#[test]
fn a_shutdown_waits_for_nobody_who_has_no_server() {
    let cluster = Cluster::start();
    for how in [Signal::TERM, Signal::INT] {
        let valet = trusting(&cluster).setting("default_pool_size = 1").setting("workers = 2").start();
        let mut busy = valet.client(Role::Trust);
        busy.query("BEGIN");
        let mut in_line: Vec<Client> = (0..6).map(|_| valet.client(Role::Trust)).collect();
        in_line.iter_mut().for_each(|client| client.send(&frontend::query("SELECT 'served'")));
        // A login waits for a server, too, if it brings settings that none was asked for yet.
        let login = Role::Trust.login().parameter("TimeZone", "Asia/Tokyo");
        let (mut console, address) = (console(&valet), valet.tcp());
        std::thread::scope(|scope| {
            let newcomer = scope.spawn(|| Client::login(&address, &login));
            eventually("seven to wait", || (waiting(&mut console) == 7).then_some(()));
            valet.signal(how);
            in_line.iter_mut().for_each(|client| assert_told_to_leave(&client.until_end()));
            let refused = newcomer.join().expect("it does not panic").expect_err("nobody is let in");
            assert_eq!(refused.sqlstate().as_deref(), Some("57P01"), "{refused}");
        });
        assert_eq!(busy.value("SELECT 'still here'"), "still here");
        busy.query("COMMIT");
        assert_told_to_leave(&busy.until_end());
        assert_eq!(valet.wait_exit().code(), Some(0), "{how:?}");
        eventually("the servers to be closed", || (sessions(&cluster) == 0).then_some(()));
    }
}

#[test]
fn shutdown_timeout_ends_what_does_not_end_by_itself() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("shutdown_timeout = \"100ms\"").start();
    let mut busy = valet.client(Role::Trust);
    busy.query("BEGIN");
    valet.sigterm();
    valet.wait_log(&["shutdown_timeout: the transactions that still run are ended"]);
    assert_eq!(valet.wait_exit().code(), Some(0));
    busy.until_end();
    eventually("the transaction to be rolled back", || (sessions(&cluster) == 0).then_some(()));
}

#[test]
fn a_second_signal_and_quit_end_at_once() {
    let cluster = Cluster::start();
    let signals: [&[Signal]; 4] = [
        &[Signal::TERM, Signal::TERM],
        &[Signal::INT, Signal::TERM],
        &[Signal::TERM, Signal::QUIT],
        &[Signal::QUIT],
    ];
    for signals in signals {
        let valet = trusting(&cluster).setting("shutdown_timeout = 0").start();
        let mut busy = valet.client(Role::Trust);
        busy.query("BEGIN");
        valet.signal(signals[0]);
        if let Some(second) = signals.get(1) {
            wait_draining(&valet);
            assert_eq!(valet.exit_status(), None);
            valet.signal(*second);
        }
        assert_eq!(valet.wait_exit().code(), Some(0), "{signals:?}");
        busy.until_end();
        eventually("the server to be closed", || (sessions(&cluster) == 0).then_some(()));
    }
}

#[test]
fn a_start_that_fails_says_what_to_do_and_exits_with_1() {
    let failure =
        Pgvalet::with_config("listen_addr = \"nowhere\"\npool_mod = 1\n").expect_err("it cannot start");
    assert_eq!(failure.status.code(), Some(1));
    let log = failure.log.join("\n");
    assert!(log.contains("pgvalet.toml:1: listen_addr") && log.contains("pgvalet.toml:2: pool_mod"), "{log}");
    assert!(log.contains("did you mean pool_mode?"), "{log}");

    let taken = trusting(Cluster::shared()).start();
    let Endpoint::Tcp(address) = taken.tcp() else { unreachable!("it is a TCP endpoint") };
    let failure = Pgvalet::builder()
        .setting(&format!("listen_port = {}", address.port()))
        .database(DATABASE, Cluster::shared(), &[])
        .user("somebody", PASSWORD, &[])
        .try_start()
        .expect_err("the port is taken");
    assert_eq!(failure.status.code(), Some(1));
    let log = failure.log.join("\n");
    assert!(log.contains("the port is taken; stop what uses it, or change listen_port"), "{log}");
    assert!(log.contains(&address.to_string()), "{log}");

    let output = Command::new(binary()).arg("/no/such/file.toml").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/file.toml"));
}

#[test]
fn systemd_is_told_of_ready_reloading_and_stopping() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a datagram socket");
    socket.set_read_timeout(Some(support::DEADLINE)).expect("a deadline");
    let next = || {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let valet = trusting(Cluster::shared()).environment("NOTIFY_SOCKET", &path.display().to_string()).start();
    assert!(next().contains("READY=1"));
    valet.sighup();
    let reloading = next();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(next().contains("READY=1"));
    // A failed reload is over, too: systemd would wait for it for ever.
    valet.write_config("nonsense");
    valet.sighup();
    assert!(next().contains("RELOADING=1"));
    assert!(next().contains("READY=1"));
    valet.sigterm();
    assert!(next().contains("STOPPING=1"));
    assert_eq!(valet.wait_exit().code(), Some(0));
}

/// The text of one field of a flat JSON object; enough for what pgvalet logs.
fn json_field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => text.push(characters.next()?),
            character => text.push(character),
        }
    }
}

/// Whether psql's server takes it for JSON: nothing of our own judges it.
fn is_json(cluster: &Cluster, line: &str) -> bool {
    let mut client = cluster.client(Role::Postgres);
    first_error(&client.extended("SELECT $1::json ->> 'message'", &[Some(line)])).is_none()
}

#[test]
fn json_logs_are_one_object_a_line_with_the_connections_fields() {
    use std::io::{BufRead, BufReader};
    let cluster = Cluster::shared();
    let home = tempfile::tempdir().expect("a temporary directory");
    let text = trusting(cluster)
        .setting("log_format = \"json\"")
        .setting("default_pool_size = 1")
        .setting("idle_transaction_timeout = \"100ms\"")
        .user("odd \"name\"\\", PASSWORD, &[])
        .text(home.path());
    let file = home.path().join("pgvalet.toml");
    fs::write(&file, text).expect("the file is written");
    let mut child = Command::new(binary()).arg(&file).stderr(Stdio::piped()).spawn().expect("it starts");
    let _guard = support::guard::Guard::kill(child.id());
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    let mut until = |message: &str| loop {
        let line = lines.next().expect("the log goes on");
        seen.push(line.clone());
        if json_field(&line, "message").as_deref() == Some(message) {
            return line;
        }
    };
    let address = json_field(&until("listening"), "address").expect("an address");
    until("ready");
    let endpoint = Endpoint::Tcp(address.parse().expect("TCP comes first"));
    let mut client = Client::login(&endpoint, &Role::Trust.login()).expect("login");
    client.query("BEGIN");
    assert_eq!(first_error(&client.until_end()).as_deref(), Some("25P03"));
    let _ = Client::login(&endpoint, &Login::new("odd \"name\"\\", "no \"database\"\n{}"));
    for (message, fields) in [
        ("client logged in", &["database", "user", "peer"][..]),
        ("client ended", &["database", "user", "peer", "reason"]),
        ("login refused", &["reason", "peer", "database", "user"]),
    ] {
        let line = until(message);
        for field in fields {
            assert!(json_field(&line, field).is_some_and(|value| !value.is_empty()), "{field} in {line}");
        }
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).expect("it takes a signal");
    until("ended");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    for line in &seen {
        assert!(is_json(cluster, line), "{line}");
    }
}

/// Only a Unix socket, with this number in its name.
fn on_socket(directory: &Path, mode: &str) -> Builder {
    trusting(Cluster::shared())
        .setting("listen_addr = []")
        .setting("listen_port = 5433")
        .setting(&format!("unix_socket_dir = \"{}\"", directory.display()))
        .setting(&format!("unix_socket_mode = \"{mode}\""))
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join(".s.PGSQL.5433");
    // The file of a listener outlives it, as that of a process that was killed does.
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let valet = on_socket(home.path(), "0700").start();
    let endpoint = Endpoint::Unix(path.clone());
    let mut client = Client::login(&endpoint, &Role::Trust.login()).expect("login");
    let mode = fs::metadata(&path).expect("the file is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);

    let failure = on_socket(home.path(), "0777").try_start().expect_err("the socket is in use");
    assert_eq!(failure.status.code(), Some(1));
    let log = failure.log.join("\n");
    assert!(log.contains("another process listens there") && log.contains(".s.PGSQL.5433"), "{log}");
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(Client::login(&endpoint, &Role::Trust.login()).is_ok(), "the first one still has the socket");
    valet.signal(Signal::KILL);
    valet.wait_exit();
    let valet = on_socket(home.path(), "0777").start();
    assert!(Client::login(&endpoint, &Role::Trust.login()).is_ok());
    assert_eq!(fs::metadata(&path).expect("the file is there").permissions().mode() & 0o777, 0o777);
    valet.sigterm();
    valet.wait_exit();
    assert!(!path.exists());
}

#[test]
fn sockets_that_systemd_opened_are_listened_on_in_place_of_those_of_the_configuration() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = tcp.local_addr().expect("an address").port();
    let path = home.path().join(format!(".s.PGSQL.{port}"));
    let unix = UnixListener::bind(&path).expect("a socket");
    let kept = unix.try_clone().expect("a descriptor");
    // Who connects before pgvalet is there waits.
    let early = std::net::TcpStream::connect(("127.0.0.1", port)).expect("systemd listens");
    let valet = trusting(Cluster::shared()).socket(tcp).socket(unix).start();
    let listening = [Endpoint::Tcp(([127, 0, 0, 1], port).into()), Endpoint::Unix(path.clone())];
    assert_eq!(valet.listening().len(), 2, "{:?}", valet.listening());
    for endpoint in &listening {
        assert!(valet.listening().contains(endpoint));
        let mut client = Client::login(endpoint, &Role::Trust.login()).expect("a login");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    early.set_read_timeout(Some(support::DEADLINE)).expect("a deadline");
    let stream = support::stream::Stream::Tcp(early);
    let mut early = Client::login_over(stream, &listening[0], &Role::Trust.login()).expect("a login");
    assert_eq!(early.value("SELECT 1"), "1");
    early.terminate();
    valet.sigterm();
    assert_eq!(valet.wait_exit().code(), Some(0));
    // The sockets are systemd's: they are there for the next process.
    assert!(path.exists());
    let waiting = Client::connect(&listening[1]);
    assert!(waiting.is_ok() && kept.accept().is_ok());
}

/// What systemd opens for `ListenStream=5432` takes both families, and shows addresses of IPv4 as ones of IPv6. A rule that
/// rejects such an address has to see it.
#[test]
fn rules_see_the_addresses_of_ipv4_on_a_socket_that_takes_both_families() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let hba = home.path().join("hba.conf");
    fs::write(
        &hba,
        "host all all 127.0.0.2/32 reject\nhost all all 127.0.0.0/8 trust\nhost all all ::/0 trust\n",
    )
    .expect("a file of rules");
    let both = TcpListener::bind("[::]:0").expect("a socket of both families");
    let port = both.local_addr().expect("an address").port();
    let _valet = Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"hba\"")
        .setting(&format!("auth_hba_file = \"{}\"", hba.display()))
        .socket(both)
        .start();
    let login = |from: &str| {
        let from: std::net::IpAddr = from.parse().expect("an address");
        let socket =
            socket2::Socket::new(socket2::Domain::for_address((from, 0).into()), socket2::Type::STREAM, None)
                .expect("a socket");
        socket.bind(&std::net::SocketAddr::new(from, 0).into()).expect("an address of this machine");
        let to = std::net::SocketAddr::new(if from.is_ipv4() { [127, 0, 0, 1].into() } else { from }, port);
        socket.connect(&to.into()).expect("pgvalet listens");
        let stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(support::DEADLINE)).expect("a deadline");
        Client::login_over(support::stream::Stream::Tcp(stream), &Endpoint::Tcp(to), &Role::Trust.login())
    };
    for from in ["127.0.0.1", "::1"] {
        let mut client = login(from).unwrap_or_else(|error| panic!("{from}: {error}"));
        assert_eq!(client.value("SELECT 1"), "1");
    }
    match login("127.0.0.2") {
        Err(LoginError::Refused(message)) => {
            let text = format!("{message:?}");
            assert!(text.contains("pg_hba.conf rejects") && text.contains("127.0.0.2"), "{text}");
        }
        other => panic!("it is rejected: {other:?}"),
    }
}

#[test]
fn what_systemd_passes_must_be_sockets() {
    let file = fs::File::open("/dev/null").expect("a file");
    let failure = trusting(Cluster::shared()).socket(file).try_start().expect_err("it does not start");
    assert_eq!(failure.status.code(), Some(1));
    assert!(format!("{:?}", failure.log).contains("systemd passed what is no stream socket"), "{failure:?}");
}

#[test]
fn processes_share_a_port_by_so_reuseport() {
    let shared = || trusting(Cluster::shared()).setting("so_reuseport = true");
    let first = shared().start();
    let Endpoint::Tcp(address) = first.tcp() else { panic!("it listens on TCP") };
    let port = format!("listen_port = {}", address.port());
    let second = shared().setting(&port).start();
    let logins = |valet: &Pgvalet| valet.count_log(&["client logged in"]);
    eventually("both to have clients", || {
        assert_eq!(first.client(Role::Trust).value("SELECT 1"), "1");
        (logins(&first) > 0 && logins(&second) > 0).then_some(())
    });
    // Without it the port is taken.
    let failure = trusting(Cluster::shared()).setting(&port).try_start().expect_err("the port is taken");
    assert!(format!("{:?}", failure.log).contains("the port is taken"), "{failure:?}");
}
