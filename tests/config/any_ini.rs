//! Inis made at random, of every setting that there is: each converts to TOML that means the same. And each setting of
//! pgbouncer 1.26 is understood.

use pgvalet::config::settings::{self, About};
use pgvalet::config::{self, Config};
use proptest::prelude::*;

use super::{Files, ini};

/// Every setting of `[pgbouncer]` in pgbouncer 1.26, with its default.
const PGBOUNCER: &str = "
logfile =
pidfile =
user =
listen_addr =
listen_port = 6432
unix_socket_dir = /tmp
unix_socket_mode = 0777
unix_socket_group =
so_reuseport = 0
resolv_conf =
application_name_add_host = 0
stats_period = 60
track_extra_parameters =
ignore_startup_parameters =
login_notify_message =
pool_mode = session
max_client_conn = 100
default_pool_size = 20
min_pool_size = 0
reserve_pool_size = 0
reserve_pool_timeout = 5
max_db_connections = 0
max_db_client_connections = 0
max_user_connections = 0
max_user_client_connections = 0
server_round_robin = 0
max_prepared_statements = 200
auth_type = trust
auth_file = userlist.txt
auth_hba_file =
auth_ident_file =
auth_user =
auth_query = SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin
auth_dbname =
scram_iterations = 4096
admin_users =
stats_users =
syslog = 0
syslog_ident = pgbouncer
syslog_facility = daemon
log_connections = 1
log_disconnections = 1
log_pooler_errors = 1
log_stats = 1
verbose = 0
server_reset_query = DISCARD ALL
server_reset_query_always = 0
server_check_query = <empty>
server_check_delay = 30
server_fast_close = 0
server_lifetime = 3600
server_idle_timeout = 600
server_connect_timeout = 15
server_login_retry = 15
client_login_timeout = 60
dns_max_ttl = 15
dns_nxdomain_ttl = 15
dns_zone_check_period = 0
query_timeout = 0
query_wait_timeout = 120
query_wait_notify = 5
cancel_wait_timeout = 10
client_idle_timeout = 0
idle_transaction_timeout = 0
transaction_timeout = 0
suspend_timeout = 10
pkt_buf = 4096
max_packet_size = 2147483647
listen_backlog = 128
peer_id = 0
sbuf_loopcnt = 5
tcp_defer_accept = 1
tcp_keepalive = 1
tcp_keepcnt = 0
tcp_keepidle = 0
tcp_keepintvl = 0
tcp_user_timeout = 0
tcp_socket_buffer = 0
disable_pqexec = 0
job_name = pgbouncer
service_name = pgbouncer
client_tls_sslmode = disable
client_tls_key_file =
client_tls_cert_file =
client_tls_ca_file =
client_tls_protocols = secure
client_tls_ciphers = default
client_tls13_ciphers =
client_tls_ecdhcurve = auto
client_tls_dheparams = auto
server_tls_sslmode = prefer
server_tls_key_file =
server_tls_cert_file =
server_tls_ca_file =
server_tls_protocols = secure
server_tls_ciphers = default
server_tls13_ciphers =
";

#[test]
fn every_setting_of_pgbouncer_at_its_default_means_nothing_else_than_its_absence() {
    let files = Files::new();
    let list = files.write("userlist.txt", "\"a\" \"b\"\n");
    let databases = "[databases]\na = host=127.0.0.1\n[pgbouncer]\nauth_type = trust\nauth_file = @LIST@\n";
    let text = |more: &str| format!("{databases}{more}").replace("@LIST@", list.to_str().unwrap());
    let all = PGBOUNCER.replace("userlist.txt", "@LIST@");
    let (without, with) = (ini(&text("")).unwrap(), ini(&text(&all)).unwrap());
    let is_about_query = |warning: &String| warning.contains("auth_query");
    let warnings: Vec<&String> = with.warnings.iter().filter(|warning| !is_about_query(warning)).collect();
    assert_eq!(warnings, without.warnings.iter().collect::<Vec<_>>());
    // The query is written out; it is the one that holds where none is written.
    let general = config::General { auth_query: None, ..with.general };
    assert_eq!(general, without.general);
}

#[test]
fn the_file_of_a_package_starts_a_pooler_without_databases() {
    let config =
        ini("[databases]\n[users]\n[pgbouncer]\nlisten_addr = localhost\nauth_type = md5\n").unwrap();
    assert!(config.databases.is_empty());
    let told = |what: &str| config.warnings.iter().any(|warning| warning.contains(what));
    assert!(told("there is no database") && told("no client could log in"), "{:?}", config.warnings);
}

/// Settings that name files which must be there, or that need one another.
const ENTANGLED: [&str; 20] = [
    "auth_file",
    "auth_hba_file",
    "auth_ident_file",
    "auth_user",
    "auth_dbname",
    "auth_type",
    "client_tls_sslmode",
    "client_tls_ca_file",
    "client_tls_crl_file",
    "server_tls_sslmode",
    "server_tls_sslnegotiation",
    "server_tls_ca_file",
    "server_tls_crl_file",
    "server_tls_cert_file",
    "server_tls_key_file",
    "password_file",
    "password_env",
    "password_command",
    "password_cache_time",
    "min_pool_size",
];

/// A line for a setting, with a value of its kind.
fn line(about: About) -> impl Strategy<Value = Option<(&'static str, String)>> {
    let name = about.name;
    let words: Vec<String> = about.kind.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let value: BoxedStrategy<String> = match about.kind {
        _ if ENTANGLED.contains(&name) => return Just(None).boxed(),
        "number" => (1u32..5000).prop_map(|number| number.to_string()).boxed(),
        "port" => (1u32..65_536).prop_map(|port| port.to_string()).boxed(),
        "true or false" => prop::sample::select(vec!["0", "1", "true", "no"]).prop_map(str::to_owned).boxed(),
        kind if kind.starts_with("duration") => {
            prop_oneof![Just("0.5".to_owned()), (1u32..5000).prop_map(|time| time.to_string())].boxed()
        }
        "text" | "query" => "[a-z][a-z' =]{0,12}[a-z]".boxed(),
        "secret" => "[a-z]{1,9}".boxed(),
        "list of names" => "[a-z]{1,5}(, ?[a-z]{1,5}){0,3}".boxed(),
        "octal, as text" => Just("0750".to_owned()).boxed(),
        "directory" | "file" => "/[a-z]{1,9}".boxed(),
        "list of addresses" => {
            prop::sample::select(vec!["*", "127.0.0.1", "::1, 127.0.0.1"]).prop_map(str::to_owned).boxed()
        }
        "list of hosts" => {
            prop::sample::select(vec!["a.example", "a,b,c", "/run/pg"]).prop_map(str::to_owned).boxed()
        }
        "address and port" => Just("127.0.0.1:9127".to_owned()).boxed(),
        "log filter" => {
            prop::sample::select(vec!["info", "warn,pgvalet::pool=debug"]).prop_map(str::to_owned).boxed()
        }
        _ if name == "workers" => Just("3".to_owned()).boxed(),
        _ if !words.is_empty() => prop::sample::select(words).boxed(),
        _ => return Just(None).boxed(),
    };
    prop_oneof![Just(None), value.prop_map(move |value| Some((name, value)))].boxed()
}

fn lines(settings: impl Iterator<Item = About>) -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let all: Vec<_> = settings.map(line).collect();
    all.prop_map(|lines| lines.into_iter().flatten().collect())
}

fn pairs(lines: &[(&str, String)]) -> String {
    let pair = |(name, value): &(&str, String)| format!("{name}='{}'", value.replace('\'', "''"));
    lines.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// Where it came from is no part of its meaning.
fn meaning(config: Config) -> Config {
    Config { path: "x".into(), warnings: Vec::new(), ..config }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_ini_converts_to_toml_that_means_the_same(
        general in lines(settings::general()),
        databases in prop::collection::btree_map("[a-z]{1,4}|\\*", lines(settings::database()), 1..4),
        users in prop::collection::btree_map("[a-z]{1,4}", lines(settings::user()), 0..3),
    ) {
        let mut text = String::from("[pgbouncer]\nauth_type = trust\n");
        for (name, value) in &general {
            text.push_str(&format!("{name} = {value}\n"));
        }
        text.push_str("[databases]\n");
        for (name, lines) in &databases {
            text.push_str(&format!("{name} = host=h {}\n", pairs(lines)));
        }
        text.push_str("[users]\n");
        for (name, lines) in &users {
            text.push_str(&format!("{name} = {}\n", pairs(lines)));
        }
        let (here, elsewhere) = (Files::new(), Files::new());
        let path = here.write("any.ini", &text);
        let meant = config::load(&path).map_err(|problems| TestCaseError::fail(format!("{text}\n{problems}")))?;
        let toml = config::convert(&path).map_err(|problems| TestCaseError::fail(format!("{text}\n{problems}")))?;
        let again = config::load(&elsewhere.write("any.toml", &toml)).map_err(|problems| TestCaseError::fail(format!("{toml}\n{problems}")))?;
        prop_assert!(meaning(again) == meaning(meant), "{text}\n---\n{toml}");
    }
}
