//! What watches pgbouncer watches pgvalet: Debian's check_postgres, and the queries of pgbouncer_exporter. And what pgvalet
//! says to Prometheus is as Prometheus wants it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::backend::rows;
use support::cluster::{Cluster, Role};
use support::pgvalet::Pgvalet;
use support::poolers::{Pooler, Program};
use support::programs::program;
use support::wire::{Client, Login};

fn start(which: Program) -> Pooler {
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=app\n[pgbouncer]\nunix_socket_dir = @HOME@\nauth_type = trust\n\
         auth_file = users\nadmin_users = postgres\npool_mode = transaction\nmax_client_conn = 20\n",
        Cluster::shared().port()
    );
    Pooler::start(which, &ini, &[("users", "\"postgres\" \"\"\n")])
}

/// What check_postgres says of the poolers, without what differs from one run to the next: the order of databases, the
/// place, and how long it took.
fn verdict(pooler: &Pooler, action: &str) -> (Option<i32>, Vec<String>) {
    let arguments = [
        format!("--action={action}"),
        "--warning=5".into(),
        "--critical=10".into(),
        "--dbname=pgbouncer".into(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output =
        program("check_postgres", &pooler.socket(), &Login::new("postgres", "pgbouncer"), &arguments);
    let said =
        format!("{}{}", output.stdout, output.stderr).replace(&*pooler.home().to_string_lossy(), "HOME");
    let mut words: Vec<String> =
        said.split_whitespace().filter(|word| !word.starts_with("time=")).map(str::to_owned).collect();
    words.sort();
    (output.code, words)
}

#[test]
fn check_postgres_finds_what_it_finds_in_pgbouncer() {
    let poolers = Program::BOTH.map(start);
    let mut clients: Vec<Client> =
        poolers.iter().map(|pooler| pooler.login(&Login::new("postgres", "app"))).collect();
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    for action in [
        "pgb_pool_cl_active",
        "pgb_pool_cl_waiting",
        "pgb_pool_sv_active",
        "pgb_pool_sv_idle",
        "pgb_pool_sv_used",
        "pgb_pool_sv_tested",
        "pgb_pool_sv_login",
        "pgb_pool_maxwait",
        "pgbouncer_backends",
    ] {
        let [theirs, ours] = [0, 1].map(|at| verdict(&poolers[at], action));
        assert_eq!(theirs.0, Some(0), "{action}: {theirs:?}");
        assert_eq!(theirs, ours, "{action}");
    }
    // It does see trouble.
    let _more: Vec<Client> = (0..6).map(|_| poolers[1].login(&Login::new("postgres", "app"))).collect();
    assert_eq!(verdict(&poolers[1], "pgb_pool_cl_active").0, Some(1));
}

/// The tables that prometheus-community/pgbouncer_exporter asks for, and the columns that have to be numbers.
const EXPORTER: [(&str, &[&str]); 3] = [
    ("databases", &["pool_size", "max_connections", "current_connections", "paused", "disabled"]),
    (
        "stats_totals",
        &[
            "query_count",
            "query_time",
            "bytes_received",
            "bytes_sent",
            "wait_time",
            "xact_count",
            "xact_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
        ],
    ),
    (
        "pools",
        &[
            "cl_active",
            "cl_active_cancel_req",
            "cl_waiting",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    ),
];

#[test]
fn the_exporter_finds_numbers_where_it_expects_them() {
    let pooler = start(Program::Pgvalet);
    let mut console = pooler.console();
    pooler.login(&Login::new("postgres", "app")).query("SELECT 1");
    for (table, columns) in EXPORTER {
        let replies = console.query(&format!("SHOW {table};"));
        let names = replies.iter().find_map(|message| message.columns()).expect("columns");
        for row in rows(&replies) {
            for column in columns {
                let at = names
                    .iter()
                    .position(|name| name == column)
                    .unwrap_or_else(|| panic!("{table}.{column}"));
                let value = row[at].as_deref().unwrap_or_else(|| panic!("{table}.{column} is NULL"));
                assert!(value.parse::<f64>().is_ok(), "{table}.{column}: {value}");
            }
        }
    }
    let pairs = |console: &mut Client, table: &str| {
        let all = console.rows(&format!("SHOW {table};"));
        let pair = |row: Vec<Option<String>>| {
            let mut values = row.into_iter();
            (values.next().flatten().expect("a name"), values.next().flatten().unwrap_or_default())
        };
        all.into_iter().map(pair).collect::<Vec<_>>()
    };
    let lists = pairs(&mut console, "LISTS");
    for name in [
        "databases",
        "users",
        "pools",
        "free_clients",
        "used_clients",
        "login_clients",
        "free_servers",
        "used_servers",
        "dns_names",
        "dns_zones",
        "dns_queries",
    ] {
        let items = &lists.iter().find(|(list, _)| list == name).unwrap_or_else(|| panic!("{name}")).1;
        assert!(items.parse::<f64>().is_ok(), "{name}: {items}");
    }
    // It reads four columns of CONFIG, of which the name and `changeable` are never NULL.
    let config = console.rows("SHOW CONFIG;");
    assert!(config.iter().all(|row| row.len() == 4 && row[0].is_some() && row[3].is_some()));
    let config = pairs(&mut console, "CONFIG");
    for (name, value) in [("max_client_conn", "20"), ("max_user_connections", "0")] {
        assert!(config.contains(&(name.into(), value.into())), "{name}");
    }
    assert_eq!(console.rows("SHOW VERSION;").len(), 1);
}

fn promtool() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"));
    let found = places.into_iter().map(|place| place.join("promtool")).find(|file| file.is_file());
    found.expect("no promtool found: apt-get install prometheus, or run tests/run.sh")
}

/// Runs promtool with something on its standard input; what it says must be nothing bad.
fn check(arguments: &[&str], input: &str) {
    let mut child = Command::new(promtool())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{said:?}");
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics_and_the_alerts() {
    let valet = Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("metrics_listen = \"127.0.0.1:0\"")
        .start();
    let mut client = valet.client(Role::Trust);
    client.query("SELECT 1");
    client.query("SELECT 1/0");
    let line = valet.wait_log(&["metrics are served"]);
    let address = line.split("address=").nth(1).expect("an address").trim_matches('"');
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let metrics = answer.split_once("\r\n\r\n").expect("a body").1;
    assert!(metrics.contains("pgvalet_errors_total"), "{metrics}");
    check(&["check", "metrics"], metrics);
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring/alerts.yml");
    check(&["check", "rules", alerts.to_str().expect("text")], "");
    // What the dashboard asks is PromQL: each question as a rule.
    let rules = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(&rules, questions().to_string()).expect("it is writable");
    check(&["check", "rules", rules.path().to_str().expect("text")], "");
}

/// The expressions of the dashboard as recording rules; JSON is YAML.
fn questions() -> serde_json::Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring/grafana.json");
    let text = fs::read_to_string(file).expect("the dashboard is there");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    // What Grafana puts in.
    let asked = |target: &serde_json::Value| {
        let expression = target["expr"].as_str().expect("an expression");
        ["$instance", "$database", "$user"]
            .iter()
            .fold(expression.replace("$__rate_interval", "5m"), |text, name| text.replace(name, ".*"))
    };
    let rule =
        |(number, target)| serde_json::json!({ "record": format!("panel:{number}"), "expr": asked(target) });
    let rules: Vec<serde_json::Value> = targets.enumerate().map(rule).collect();
    assert!(rules.len() > 20 && rules.iter().all(|rule| !rule["expr"].as_str().unwrap_or("$").contains('$')));
    serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] })
}
