//! A pgbouncer.ini means what it means to pgbouncer, and converts to TOML that means the same.

use std::fs;
use std::path::{Path, PathBuf};

use pgvalet::config::tls::Versions;
use pgvalet::config::{self, Config, General, Host, PoolMode, Reset};

use super::{Files, INI_REST, REST, assert_problem, ini, problem, problems, without};

/// An ini that uses everything, and the TOML that means the same.
const INI: &str = r#"
;; a comment
# another
[databases]
app = host=10.0.0.1,10.0.0.2 port=5433 dbname=prod user=svc password='it''s' pool_size=5 connect_query='SET a.b = ''c''' timezone=UTC
local =
"odd name" = host=/run/pg pool_mode=statement reserve_pool=2 max_db_connections=0 server_lifetime=60
* = host=fallback.example.com query_wait_timeout=3
[users]
alice = pool_mode=session max_user_connections=4 query_timeout=1.5
[pgbouncer]
listen_addr = 127.0.0.1, ::1
listen_port = 6000
auth_file = @LIST@
auth_type = scram-sha-256
pool_mode = transaction
max_client_conn = 500
max_client_conn = 700
max_db_connections = 9
admin_users = alice, bob
server_check_query = select 1
server_lifetime = 90
tcp_user_timeout = 1500
log_connections = 0
log_disconnections = no
unix_socket_dir = /run
unix_socket_mode = 0770
"#;

const SAME: &str = r#"
listen_addr = ["127.0.0.1", "::1"]
listen_port = 6000
listen_backlog = 128
auth_file = "@LIST@"
max_client_conn = 700
max_db_connections = 9
admin_users = "alice,bob"
server_check_query = "select 1"
server_lifetime = "90s"
server_login_retry = "15s"
shutdown_timeout = 0
syslog_ident = "pgbouncer"
tcp_user_timeout = "1500ms"
log_connections = false
log_disconnections = false
unix_socket_dir = "/run"
unix_socket_mode = "0770"
[databases.app]
host = ["10.0.0.1", "10.0.0.2"]
load_balance_hosts = "round-robin"
port = 5433
dbname = "prod"
user = "svc"
password = "it's"
pool_size = 5
connect_query = "SET a.b = 'c'"
timezone = "UTC"
[databases.local]
host = "/run"
[databases."odd name"]
host = "/run/pg"
pool_mode = "statement"
reserve_pool_size = 2
server_lifetime = "1min"
[databases."*"]
host = "fallback.example.com"
query_wait_timeout = "3s"
[users.alice]
pool_mode = "session"
max_user_connections = 4
query_timeout = "1500ms"
"#;

fn without_origin(config: Config) -> Config {
    Config { path: PathBuf::new(), warnings: Vec::new(), ..config }
}

#[test]
fn an_ini_and_the_toml_that_says_the_same_are_equal() {
    let files = Files::new();
    let list = files.write("userlist.txt", "\"alice\" \"x\"\n\"svc\" \"y\"\n");
    let fill = |text: &str| text.replace("@LIST@", list.to_str().unwrap());
    let ini = config::load(&files.write("p.ini", &fill(INI))).unwrap();
    let toml = config::load(&files.write("p.toml", &fill(SAME))).unwrap();
    assert!(ini.warnings.is_empty(), "{:?}", ini.warnings);
    assert_eq!(without_origin(ini), without_origin(toml));
}

#[test]
fn a_converted_ini_means_the_same() {
    let files = Files::new();
    let list = files.write("userlist.txt", "\"alice\" \"x\"\n\"svc\" \"y\"\n");
    let path = files.write("p.ini", &INI.replace("@LIST@", list.to_str().unwrap()));
    let text = config::convert(&path).unwrap();
    let converted = config::load(&files.write("converted.toml", &text)).unwrap();
    assert_eq!(without_origin(config::load(&path).unwrap()), without_origin(converted));
    assert!(text.contains("# Clients at the same time"), "commented: {text}");
    assert!(text.contains("[databases.\"odd name\"]"), "{text}");
    assert!(!text.contains("\"x\""), "the userlist stays a file: {text}");
}

/// What names files and other sections, which inis made at random leave out.
#[test]
fn a_converted_ini_keeps_what_depends_on_files() {
    let (files, elsewhere) = (Files::new(), Files::new());
    files.write("list", "\"looker\" \"x\"\n");
    files.write(
        "hba",
        "hostssl app all all cert map=m\nlocal all all peer\nhost all all 127.0.0.1/32 scram-sha-256\n",
    );
    files.write("ident", "m a b\n");
    for name in ["key", "cert", "ca"] {
        files.write(name, "never read here");
    }
    let text = "[databases]\napp = host=@db,/run/pg auth_user=other auth_query='SELECT 1, ''x''' min_pool_size=2\nauth = host=h\n\
        [users]\nother = pool_size=0 query_wait_timeout=0\n[peers]\n1 = host=/run/1\n2 = host=@2 port=7 pool_size=3\n\
        [pgbouncer]\nauth_type = hba\nauth_file = @HOME@/list\nauth_hba_file = @HOME@/hba\nauth_ident_file = @HOME@/ident\n\
        auth_user = looker\nauth_dbname = auth\nauth_query = SELECT a, b FROM c($1)\nclient_tls_sslmode = verify-ca\n\
        client_tls_key_file = @HOME@/key\nclient_tls_cert_file = @HOME@/cert\nclient_tls_ca_file = @HOME@/ca\n\
        server_tls_sslmode = verify-full\nserver_tls_ca_file = @HOME@/ca\nserver_tls_cert_file = @HOME@/cert\n\
        server_tls_key_file = @HOME@/key\nmin_pool_size = 3\npeer_id = 1\nunix_socket_dir = @abstract\ndisable_pqexec = 1\n\
        pidfile = relative.pid\nserver_reset_query_always = 1\n";
    let path = files.write("p.ini", &text.replace("@HOME@", &files.0.path().display().to_string()));
    let meant = config::load(&path).unwrap();
    let converted = config::convert(&path).unwrap();
    let again = config::load(&elsewhere.write("p.toml", &converted)).unwrap();
    assert_eq!(without_origin(meant), without_origin(again));
}

#[test]
fn a_bare_ini_has_pgbouncers_behaviour() {
    let config = ini("[databases]\na =\n[pgbouncer]\nauth_type=trust\n").unwrap();
    let general = &config.general;
    assert_eq!((general.pool_mode, general.max_client_conn), (PoolMode::Session, 100));
    assert_eq!((general.listen_addr.len(), general.unix_socket_dir.as_deref()), (0, Some(Path::new("/tmp"))));
    assert_eq!(config.database("a").unwrap().hosts, [Host::Unix("/tmp".into())]);
    assert_eq!(general.reset, Reset::Auto);
}

#[test]
fn the_reset_of_an_ini_follows_its_settings() {
    let reset = |line: &str| ini(&format!("[pgbouncer]\n{line}{INI_REST}")).unwrap().general.reset;
    assert_eq!(reset(""), Reset::Auto);
    assert_eq!(reset("server_reset_query = DEALLOCATE ALL"), Reset::Auto);
    assert_eq!(reset("server_reset_query_always = 1"), Reset::Always);
    assert_eq!(reset("server_reset_query ="), Reset::Never);
    assert_eq!(reset("server_reset_query =\nserver_reset_query_always = 1"), Reset::Never);
    assert_eq!(reset("reset = always\nserver_reset_query_always = 0"), Reset::Always);
}

#[test]
fn what_pgvalet_lacks_is_one_warning_each_with_a_reason() {
    let text = format!(
        "[pgbouncer]\nmax_packet_size = 1\nserver_lifetime = 0\npkt_buf = 8192\npkt_buf = 16384\nsuspend_timeout = 9\n\
         job_name = pgbouncer\nclient_tls_ecdhcurve = P-256\nstats_period = 0\nserver_login_retry = 0{INI_REST}"
    );
    let config = ini(&text).unwrap();
    let keys = [
        "max_packet_size",
        "server_lifetime",
        "pkt_buf",
        "suspend_timeout",
        "client_tls_ecdhcurve",
        "stats_period",
        "server_login_retry",
    ];
    assert_eq!(config.warnings.len(), keys.len(), "{:#?}", config.warnings);
    for (warning, key) in config.warnings.iter().zip(keys) {
        assert!(warning.contains(&format!(": {key}: ")), "{key}: {warning}");
        assert!(warning.contains("no meaning here") || warning.contains("taken as one second"), "{warning}");
    }
}

#[test]
fn peers_are_read_and_checked() {
    let text = format!(
        "[peers]\n1 = host=a\n2 = host=/run/x port=7 pool_size=3\n[pgbouncer]\npeer_id = 2{INI_REST}"
    );
    let config = ini(&text).unwrap();
    assert_eq!(config.general.peer_id, 2);
    let peer = |id| config.peers.get(&id).map(|peer| (peer.host.clone(), peer.port, peer.pool_size));
    assert_eq!(peer(1), Some((Host::Tcp("a".into()), 6432, Some(20))));
    assert_eq!(peer(2), Some((Host::Unix("/run/x".into()), 7, Some(3))));
    let about_peers = |warnings: &[String]| {
        warnings.iter().filter(|warning| warning.contains("peer")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(about_peers(&config.warnings), Vec::<String>::new());
    let unused = ini(&format!("[peers]\n1 = host=a\n[pgbouncer]{INI_REST}")).unwrap();
    let told = about_peers(&unused.warnings);
    assert!(told.len() == 1 && told[0].contains("give each process a number of its own"), "{told:?}");
    for (line, key, says) in [
        ("1 = port=5", "peers.1.host", "where this peer can be reached"),
        ("1 = host=a,b", "peers.1.host", "several hosts"),
        ("0 = host=a", "peers.0", "from 1 to 16383"),
        ("16384 = host=a", "peers.16384", "from 1 to 16383"),
    ] {
        let text = format!("[pgbouncer]\npeer_id = 2{INI_REST}[peers]\n{line}\n");
        assert_problem(ini(&text), text.lines().count(), key, says);
    }
}

#[test]
fn what_an_ini_asks_for_and_cannot_have_is_refused() {
    let auth_type = |name: &str| {
        let text = format!("[databases]\na=\n[pgbouncer]\nauth_type = {name}\n");
        ini(&text).map_err(without("log in"))
    };
    assert_problem(auth_type("ldap"), 4, "auth_ldap_options", "needs a directory");
    if cfg!(not(feature = "pam")) {
        assert_problem(auth_type("pam"), 4, "auth_type", "built without pam");
    }
    for line in [
        "client_tls_sslmode = disable\nclient_tls_ciphers = default\nclient_tls13_ciphers =",
        "server_tls_sslmode = prefer\nserver_tls_protocols = all\nserver_tls_ciphers = fast",
        "server_tls_sslmode = require\nserver_tls_protocols = tlsv1.2,tlsv1.3",
    ] {
        assert!(ini(&format!("[pgbouncer]\n{line}{INI_REST}")).unwrap().warnings.is_empty(), "{line}");
    }
    // Of versions of TLS those that are safe are taken; one has to be left.
    let protocols = |text: &str| ini(&format!("[pgbouncer]\nserver_tls_protocols = {text}{INI_REST}"));
    let config = protocols("tlsv1.0, tlsv1.1:tlsv1.2").unwrap();
    assert_eq!(config.general.server_tls.protocols, Versions { v1_2: true, v1_3: false });
    assert!(matches!(&config.warnings[..], [told] if told.contains(":2: server_tls_protocols: TLS 1.0")));
    assert_problem(protocols("tlsv1.1"), 2, "server_tls_protocols", "not safe");
}

#[test]
fn lists_of_names_may_have_spaces_for_commas() {
    let config = ini(&format!("[pgbouncer]\nadmin_users = a b\nstats_users = c,,\td{INI_REST}")).unwrap();
    assert_eq!(config.general.admin_users, ["a", "b"]);
    assert_eq!(config.general.stats_users, ["c", "d"]);
}

/// A file with two sections, or one that includes another with a section of its own.
#[test]
fn a_second_section_takes_the_settings_of_the_first_back_as_in_pgbouncer() {
    let files = Files::new();
    let list = files.write("list", "\"a\" \"b\"\n");
    let rest = format!("auth_type = trust\nauth_file = {}\n", list.display());
    let path = files.write(
        "p.ini",
        &format!(
            "[databases]\na = host=h\n[pgbouncer]\nmax_client_conn = 7\npkt_buf = 8192\nserver_reset_query_always = 1\n\
             {rest}[users]\na = pool_size=3\n[pgbouncer]\nauth_type = trust\npool_mode = statement\n"
        ),
    );
    let config = config::load(&path).unwrap();
    let General { max_client_conn, pool_mode, reset, .. } = config.general;
    assert_eq!((max_client_conn, pool_mode, reset), (100, PoolMode::Statement, Reset::Auto));
    assert!(config.database("a").is_some() && config.user("a").is_some_and(|user| user.secret.is_some()));
    let told: Vec<_> = config.warnings.iter().filter(|warning| warning.contains("[pgbouncer]")).collect();
    assert!(told.len() == 1 && told[0].contains("p.ini:11: "), "{told:?}");
    assert!(
        told[0].contains(": auth_type, max_client_conn, pkt_buf, server_reset_query_always; "),
        "{told:?}"
    );
    let again = files.write("q.ini", &format!("[pgbouncer]\n[databases]\na = host=h\n[pgbouncer]\n{rest}"));
    let told = config::load(&again).unwrap().warnings;
    assert!(!told.iter().any(|warning| warning.contains("[pgbouncer]")), "{told:?}");
}

#[test]
fn a_setting_of_a_database_or_user_that_is_minus_one_is_unset() {
    let config = ini(&format!(
        "[databases]\na = pool_size=-1 min_pool_size=-1 reserve_pool=-1 max_db_connections=-1 max_db_client_connections=-1\n\
         [users]\nz = pool_size=-1 max_user_connections=-1 max_user_client_connections=-1\n\
         [pgbouncer]\ndefault_pool_size = 7{INI_REST}"
    ))
    .unwrap();
    assert_eq!(config.database("a").unwrap().pool_size, Some(7));
    assert_eq!(config.user("z").unwrap().pool_size, None);
}

/// What is a mistake, and pgbouncer starts with it all the same.
#[test]
fn what_pgbouncer_starts_with_is_a_warning_and_no_error() {
    let files = Files::new();
    let list = files.write("list", "\"a\" \"first\"\nbroken\n\"a\" \"last\"\n# no comment\n");
    let load = |lines: &str| {
        let text = format!("[databases]\napp = host=h user=u\n[pgbouncer]\nauth_type = trust\n{lines}\n");
        let path = files.write("p.ini", &text.replace("@HOME@", &files.0.path().display().to_string()));
        config::load(&path)
    };
    let quiet = load("").unwrap().warnings;
    for (lines, line, says) in [
        ("auth_file = @HOME@/nothing-there", 5, "cannot read"),
        ("min_pool_size = 50", 5, "50 is more than the pool size of 20"),
        ("auth_type = any\n[databases]\nother = host=h", 7, "needs a fixed user"),
        ("conffile = /somewhere", 5, "no meaning here"),
        ("auth_dbname = nowhere\nauth_user = u", 5, "there is no database \"nowhere\""),
    ] {
        let config = load(lines).unwrap();
        let told: Vec<_> = config.warnings.iter().filter(|warning| !quiet.contains(warning)).collect();
        assert!(
            told.len() == 1 && told[0].contains(&format!("p.ini:{line}: ")) && told[0].contains(says),
            "{lines}: {told:?}"
        );
    }
    assert_eq!(load("min_pool_size = 50").unwrap().database("app").unwrap().min_pool_size, 20);
    let config = load("auth_file = @HOME@/list").unwrap();
    let told: Vec<_> = config.warnings.iter().filter(|warning| warning.contains("/list:")).collect();
    let lines: Vec<bool> = [2, 3, 4]
        .iter()
        .map(|line| told.iter().any(|told| told.contains(&format!("/list:{line}: "))))
        .collect();
    assert_eq!((told.len(), lines), (3, vec![true; 3]), "{told:?}");
    let secret = config.user("a").unwrap().secret.clone();
    assert_eq!(
        secret,
        Some(pgvalet::config::Secret::parse("last").unwrap()),
        "of two lines the last one counts"
    );
    drop(list);
}

#[test]
fn a_file_in_another_encoding_is_read_as_far_as_it_means_nothing() {
    let files = Files::new();
    let load = |line: &[u8]| {
        let path = files.0.path().join("p.ini");
        let text =
            [b"\xef\xbb\xbf[databases]\r\na = host=h\r\n[pgbouncer]\r\nauth_type = trust\r\n", line, b"\n"]
                .concat();
        fs::write(&path, text).unwrap();
        config::load(&path)
    };
    assert!(load(b"; gr\xfc\xdfe\n  # \xe9t\xe9").is_ok());
    assert_problem(load(b"admin_users = gr\xfcn"), 5, "", "not UTF-8");
    // The same of a userlist.
    let list = files.0.path().join("list");
    fs::write(&list, b"; gr\xfc\xdfe\n\"a\" \"x\"\n\"gr\xfcn\" \"y\"\n").unwrap();
    let config = load(format!("auth_file = {}", list.display()).as_bytes()).unwrap();
    assert!(config.user("a").is_some() && config.users.len() == 1);
    assert!(
        config.warnings.iter().any(|warning| warning.contains("/list:3: the line is not UTF-8")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_socket_may_be_in_a_directory_that_is_relative_or_abstract() {
    let directory = |text: &str| {
        ini(&format!("[pgbouncer]\nlisten_addr = ::1\nunix_socket_dir = {text}{INI_REST}"))
            .unwrap()
            .general
            .unix_socket_dir
    };
    assert_eq!(directory("run"), Some(std::env::current_dir().unwrap().join("run")));
    assert_eq!(directory("@run"), Some("@run".into()));
    assert_eq!(directory(""), None);
}

#[test]
fn broken_lines_of_an_ini_are_told_each() {
    let text = "stray = 1\n[pgbouncer]\nauth_type = trust\nnonsense\nlisten_port = x\n[open\n[databases]\na = host=\nb = host='x\nc = port=0 hots=y\n";
    let lines: Vec<_> = problems(ini(text)).iter().map(|problem| problem.line.unwrap()).collect();
    assert_eq!(lines, [1, 4, 5, 6, 8, 9, 10, 10]);
}

#[test]
fn included_files_are_read_and_their_errors_have_their_own_lines() {
    let files = Files::new();
    let databases = files.write("databases.ini", "[databases]\na = port=0\n");
    let path =
        files.write("p.ini", &format!("[pgbouncer]\nauth_type=trust\n%include {}\n", databases.display()));
    let found = problem(config::load(&path));
    assert_eq!((found.file.as_path(), found.line), (databases.as_path(), Some(2)));
    files.write("databases.ini", "[databases]\na = port=1\n");
    assert_eq!(config::load(&path).unwrap().database("a").unwrap().port, 1);
    files.write("databases.ini", &format!("%include {}\n", path.display()));
    assert!(problem(config::load(&path)).message.contains("circle"));
    fs::remove_file(databases).unwrap();
    assert_eq!(problem(config::load(&path)).line, Some(3));
}

#[test]
fn the_format_is_found_without_an_ending() {
    let files = Files::new();
    let ini = files.write("pgvalet.conf", &format!("; hello\n[pgbouncer]{INI_REST}"));
    assert_eq!(config::load(&ini).unwrap().general.pool_mode, PoolMode::Session);
    let toml = files.write("pgvalet", REST);
    assert_eq!(config::load(&toml).unwrap().general.pool_mode, PoolMode::Transaction);
}
