//! The HTTP endpoint: metrics for Prometheus, health, readiness.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use support::cluster::{Cluster, Role, StopMode};
use support::pgvalet::{Builder, Pgvalet};
use support::tls::{Authority, Files, Wanted};
use support::wire::{Client, Login};
use support::{DEADLINE, eventually, frontend};

fn serving(cluster: &Cluster) -> Builder {
    Pgvalet::in_front_of(cluster)
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 2")
        .setting("metrics_listen = \"127.0.0.1:0\"")
}

fn endpoint(valet: &Pgvalet) -> SocketAddr {
    let line = valet.wait_log(&["metrics are served", "address="]);
    let (_, address) = line.split_once("address=").expect("an address");
    address.trim_matches('"').parse().expect("an address")
}

/// Status and body of a response; the connection is closed by the server, as asked for.
fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the endpoint listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket has a time limit");
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the request is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("the response is text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a header");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    request(address, "GET", path)
}

/// Samples by name and labels as they are written.
fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200);
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    body.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

const APP: &str = r#"{database="app",user="app_trust"}"#;

fn of_app(name: &str) -> String {
    format!("{name}{APP}")
}

fn with(name: &str, label: &str, value: &str) -> String {
    format!("{name}{{database=\"app\",user=\"app_trust\",{label}=\"{value}\"}}")
}

#[test]
fn what_clients_do_is_counted() {
    let cluster = Cluster::start();
    let valet = serving(&cluster).setting("default_pool_size = 1").start();
    let address = endpoint(&valet);
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    client.query("SELECT pg_sleep(0.03)");
    client.query("SELECT no_such_column");
    client.query("ROLLBACK");
    client.query("SELECT 1 FROM no_such_table");
    let mut holder = valet.client(Role::Trust);
    holder.query("BEGIN");
    client.send(&frontend::query("SELECT 1"));

    let seen = eventually("a client to wait", || {
        let seen = samples(address);
        (seen.get(&with("pgvalet_clients", "state", "waiting")) == Some(&1.0)).then_some(seen)
    });
    let value = |name: &str| *seen.get(name).unwrap_or_else(|| panic!("{name} in {seen:#?}"));
    assert_eq!(value(&with("pgvalet_clients", "state", "active")), 1.0);
    assert_eq!(value(&with("pgvalet_clients", "state", "idle")), 0.0);
    assert_eq!(value(&with("pgvalet_servers", "state", "active")), 1.0);
    assert_eq!(value(&of_app("pgvalet_pool_size")), 1.0);
    assert!(value(&of_app("pgvalet_pool_oldest_wait_seconds")) > 0.0);
    assert_eq!(value(&of_app("pgvalet_transactions_total")), 2.0);
    assert_eq!(value(&of_app("pgvalet_server_connects_total")), 1.0);
    assert_eq!(value(&with("pgvalet_errors_total", "class", "42")), 2.0);
    assert_eq!(value(&of_app("pgvalet_logins_total")), 2.0);
    assert_eq!(value("pgvalet_ready"), 1.0);
    assert_eq!(
        value("pgvalet_worker_clients{worker=\"0\"}") + value("pgvalet_worker_clients{worker=\"1\"}"),
        2.0
    );
    assert!(value(&of_app("pgvalet_client_sent_bytes_total")) > 0.0);

    assert_eq!(value(&of_app("pgvalet_query_duration_seconds_count")), 6.0);
    assert_eq!(value(&of_app("pgvalet_transaction_duration_seconds_count")), 2.0);
    assert!(value(&of_app("pgvalet_query_duration_seconds_sum")) >= 0.03);
    assert_eq!(value(&with("pgvalet_query_duration_seconds_bucket", "le", "+Inf")), 6.0);
    // The one that slept is in no bucket up to 25 ms, all are in the one of 30 s.
    assert!(value(&with("pgvalet_query_duration_seconds_bucket", "le", "0.025")) <= 5.0);
    assert_eq!(value(&with("pgvalet_query_duration_seconds_bucket", "le", "30")), 6.0);

    holder.query("COMMIT");
    client.until_ready();
    let after = samples(address);
    for name in ["pgvalet_wait_duration_seconds_count", "pgvalet_waits_total"] {
        assert_eq!(after[&of_app(name)], value(&of_app(name)) + 1.0, "{name}");
    }
    assert!(after[&of_app("pgvalet_wait_duration_seconds_sum")] > 0.0);
}

#[test]
fn names_and_types_follow_the_conventions() {
    let valet = serving(Cluster::shared()).start();
    valet.client(Role::Trust).value("SELECT 1");
    let (_, body) = get(endpoint(&valet), "/metrics");
    let mut types = BTreeMap::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(help.ends_with('.'), "{name}: {help:?}");
        }
    }
    assert!(types.len() > 30, "{types:?}");
    for (name, kind) in &types {
        assert!(name.starts_with("pgvalet_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert_eq!(kind == "histogram", name.ends_with("_duration_seconds"), "{name} is a {kind}");
    }
}

#[test]
fn the_size_of_a_scrape_does_not_depend_on_the_number_of_clients() {
    let valet = serving(Cluster::shared()).start();
    let address = endpoint(&valet);
    let one = valet.client(Role::Trust);
    let before = samples(address).len();
    let many: Vec<Client> = (0..100).map(|_| valet.client(Role::Trust)).collect();
    let seen = samples(address);
    assert_eq!(seen[&with("pgvalet_clients", "state", "idle")], 101.0);
    assert_eq!(seen.len(), before);
    drop((one, many));
}

#[test]
fn it_is_ready_while_a_server_can_be_reached_and_healthy_in_any_case() {
    let cluster = Cluster::start();
    let valet = serving(&cluster).setting("server_login_retry = \"10ms\"").start();
    let address = endpoint(&valet);
    assert_eq!(get(address, "/readyz").0, 200, "nobody has asked for a server yet");
    let mut client = valet.client(Role::Trust);
    client.value("SELECT 1");
    cluster.stop(StopMode::Immediate);
    client.send(&frontend::query("SELECT 1"));
    let body = eventually("it not to be ready", || {
        let (status, body) = get(address, "/readyz");
        (status == 503).then_some(body)
    });
    assert!(body.starts_with("not ready: no server can be reached; the log"), "{body}");
    assert_eq!(samples(address)["pgvalet_ready"], 0.0);
    assert_eq!(samples(address)[&of_app("pgvalet_pool_connect_failing")], 1.0);
    assert_eq!(get(address, "/healthz"), (200, "ok\n".into()));
    cluster.start_again();
    eventually("it to be ready again", || (get(address, "/readyz") == (200, "ready\n".into())).then_some(()));
}

#[test]
fn it_is_not_ready_while_it_shuts_down() {
    let valet = serving(Cluster::shared()).start();
    let address = endpoint(&valet);
    let mut busy = valet.client(Role::Trust);
    busy.query("BEGIN");
    valet.sigterm();
    valet.wait_log(&["shutting down"]);
    assert_eq!(get(address, "/readyz"), (503, "not ready: shutting down\n".into()));
    assert_eq!(get(address, "/healthz").0, 200);
    busy.query("COMMIT");
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn other_requests_are_refused_and_none_disturbs_the_pooler() {
    let valet = serving(Cluster::shared()).start();
    let address = endpoint(&valet);
    assert_eq!(get(address, "/").0, 404);
    assert_eq!(request(address, "POST", "/metrics").0, 405);
    assert_eq!(request(address, "HEAD", "/metrics"), (200, String::new()));
    let mut garbage = TcpStream::connect(address).expect("the endpoint listens");
    garbage.write_all(b"\x16\x03\x01 no http\r\n\r\n").expect("it is sent");
    // As many as are served at once, and one that stands behind them.
    let idle: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(address).expect("the kernel takes it")).collect();
    assert_eq!(valet.client(Role::Trust).value("SELECT 'served'"), "served");
    drop((idle, garbage));
    assert_eq!(get(address, "/healthz").0, 200);
    let mut console = valet.login(&Login::new("postgres", "pgbouncer"));
    assert_eq!(console.rows("SHOW STATE").len(), 2);
}

#[test]
fn an_address_that_is_taken_is_an_error_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let failure = serving(Cluster::shared())
        .setting(&format!("metrics_listen = \"{address}\""))
        .try_start()
        .expect_err("it cannot listen there");
    assert!(failure.log.iter().any(|line| line.contains("set metrics_listen")), "{failure:?}");
    let failure = serving(Cluster::shared()).setting("metrics_listen = \"localhost\"").try_start();
    assert!(failure.is_err());
}

#[test]
fn dashboard_and_alert_rules_name_metrics_that_there_are() {
    let files = Files::default();
    let (certificate, key) = files.identity("server", &Authority::self_signed(&Wanted::local()));
    let valet = serving(Cluster::shared())
        .setting("client_tls_sslmode = \"prefer\"")
        .setting(&format!("client_tls_cert_file = \"{certificate}\""))
        .setting(&format!("client_tls_key_file = \"{key}\""))
        .start();
    let mut client = valet.client(Role::Trust);
    client.query("SELECT no_such_column");
    // There once it has happened: this one is when a server needs a reset.
    let mut names = vec!["pgvalet_reset_reasons_total".to_owned()];
    let shown = samples(endpoint(&valet)).into_keys();
    names.extend(shown.map(|name| name.split('{').next().unwrap_or_default().into()));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring");
    for file in ["alerts.yml", "grafana.json"] {
        let text = std::fs::read_to_string(root.join(file)).expect("the file is there");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: Vec<&str> = words.filter(|word| word.starts_with("pgvalet_")).collect();
        assert!(used.len() > 10, "{file}");
        for name in used {
            assert!(names.iter().any(|known| known == name), "{file}: {name}");
        }
    }
}

#[test]
fn connections_that_say_nothing_keep_no_probe_waiting() {
    let valet = serving(Cluster::shared()).start();
    let address = endpoint(&valet);
    let connect = || TcpStream::connect(address).expect("the endpoint listens");
    let silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    for _ in 0..5 {
        assert_eq!(get(address, "/healthz"), (200, "ok\n".into()));
    }
    // Nor do those that ask and do not read.
    let asking: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("the request is sent");
            stream
        })
        .collect();
    assert_eq!(get(address, "/healthz"), (200, "ok\n".into()));
    drop((silent, asking));
}
