//! What watches pgbouncer watches pgvalet: Debian's check_postgres, and the queries of pgbouncer_exporter.

mod support;

use support::backend::rows;
use support::cluster::Cluster;
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
