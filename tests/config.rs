//! Configuration files: what is wrong is told with its place, and what is right means the same in both formats.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvalet::config::tls::Authorities;
use pgvalet::config::{
    self, AuthType, Config, Host, PoolMode, Problem, Problems, Reset, Secret, resolve, settings,
};

#[path = "config/access.rs"]
mod access;
#[path = "config/any_ini.rs"]
mod any_ini;
#[path = "config/cli.rs"]
mod cli;
#[path = "config/pgbouncer.rs"]
mod pgbouncer;

/// A directory with configuration files in it.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file that only its owner can read.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// What TOML needs besides the lines under test.
const REST: &str = "\n[databases.app]\n[users.app]\npassword = \"x\"\n";

/// A SCRAM verifier of no particular password.
const VERIFIER: &str = "SCRAM-SHA-256$4096:AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What an ini needs besides the lines under test.
const INI_REST: &str = "\nauth_type = trust\n[databases]\napp = host=127.0.0.1\n";

fn toml(text: &str) -> Result<Config, Problems> {
    config::load(&Files::new().write("test.toml", text))
}

fn ini(text: &str) -> Result<Config, Problems> {
    config::load(&Files::new().write("test.ini", text))
}

#[track_caller]
fn problems(result: Result<Config, Problems>) -> Vec<Problem> {
    match result {
        Ok(config) => panic!("accepted, with warnings {:?}", config.warnings),
        Err(problems) => problems.0,
    }
}

/// The one problem of a file.
#[track_caller]
fn problem(result: Result<Config, Problems>) -> Problem {
    let mut problems = problems(result);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[track_caller]
fn assert_problem(result: Result<Config, Problems>, line: impl Into<Option<usize>>, key: &str, part: &str) {
    let problem = problem(result);
    assert_eq!((problem.line, problem.key.as_str()), (line.into(), key), "{problem}");
    assert!(problem.message.contains(part), "{problem}");
}

/// Drops the problems that say `part`.
fn without(part: &'static str) -> impl Fn(Problems) -> Problems {
    move |problems| {
        Problems(problems.0.into_iter().filter(|problem| !problem.message.contains(part)).collect())
    }
}

// --- Wrong values ---

#[test]
fn a_wrong_value_is_told_with_file_line_key_and_remedy() {
    let files = Files::new();
    let path =
        files.write("wrong.toml", &format!("pool_mode = \"session\"\ndefault_pool_size = \"many\"{REST}"));
    let message = config::load(&path).unwrap_err().to_string();
    let expected = r#":2: default_pool_size: "many" is not a number; write a whole number such as 20, or 0 for no limit"#;
    assert_eq!(message, format!("{}{expected}", path.display()));
}

#[test]
fn every_kind_of_value_is_checked() {
    for (line, part) in [
        ("workers = 0", "from 1 to 1024"),
        ("listen_addr = \"300.0.0.1.x y\"", "neither an address nor a name"),
        ("listen_addr = 1", "is not a list"),
        ("listen_port = 65536", "from 0 to 65535"),
        ("listen_backlog = 1.5", "is not a number"),
        ("so_reuseport = \"maybe\"", "neither true nor false"),
        ("unix_socket_dir = \"tmp\"", "not an absolute path"),
        ("unix_socket_mode = 777", "in quotes such as \"0777\""),
        ("pool_mode = \"fast\"", "\"session\", \"transaction\", \"statement\""),
        ("max_client_conn = 0", "from 1 to"),
        ("max_client_conn = -1", "out of range"),
        ("max_client_conn = 99999999999999999999", ""),
        ("client_tls_sslmode = \"on\"", "\"disable\", \"allow\""),
        ("client_tls_protocols = \"tlsv1.1\"", "not safe"),
        ("client_tls_ciphers = \"HIGH:nonsense\"", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
        ("client_tls13_ciphers = \"RC4\"", "TLS_AES_256_GCM_SHA384"),
        ("auth_type = \"kerberos\"", "not known"),
        ("admin_users = [1]", "not text"),
        ("reset = true", "\"auto\", \"always\", \"never\""),
        ("server_lifetime = \"5m\"", "\"5min\""),
        ("server_lifetime = -1", "not a duration"),
        ("server_login_retry = 0", "without a pause"),
        ("query_timeout = 1979-05-27", "a table or date"),
        ("tcp_user_timeout = \"soon\"", "milliseconds"),
        ("log_level = \"chatty\"", "\"warn\""),
        ("log_format = \"xml\"", "\"json\""),
        ("server_check_query = 1", "in quotes"),
    ] {
        let key = line.split(' ').next().unwrap();
        assert_problem(toml(&format!("\n{line}{REST}")), 2, key, part);
    }
}

#[test]
fn wrong_values_of_databases_and_users_name_their_section() {
    let text =
        "[users.app]\npassword = \"x\"\npool_size = \"a\"\n[databases.app]\nhost = \"db:5432\"\nport = 0\n";
    let problems = problems(toml(text));
    let told: Vec<_> = problems.iter().map(|problem| (problem.line.unwrap(), problem.key.as_str())).collect();
    assert_eq!(told, [(3, "users.app.pool_size"), (5, "databases.app.host"), (6, "databases.app.port")]);
    assert_problem(
        toml("[users.a]\npassword = \"x\"\n[databases.\"a b\"]\nport = \"x\""),
        4,
        "databases.\"a b\".port",
        "",
    );
}

#[test]
fn all_errors_are_told_at_once_in_the_order_of_the_lines() {
    let text = "pool_mod = \"x\"\nlisten_port = \"x\"\nauth_file = \"none.txt\"\n[databases.app]\nmin_pool_size = 30\nprot = 1\n";
    let lines: Vec<_> = problems(toml(text)).iter().map(|problem| problem.line.unwrap()).collect();
    // The missing auth_file leaves the users unknown: what fits together is not judged.
    assert_eq!(lines, [1, 2, 3, 6]);
    let text = "pool_mod = \"x\"\nlisten_port = \"x\"\n[databases.app]\nmin_pool_size = 30\nprot = 1\n";
    let lines: Vec<_> = problems(toml(text)).iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [None, Some(1), Some(2), Some(4), Some(5)]);
}

/// The lines of all problems, each with whether it is about syntax.
#[track_caller]
fn lines(result: Result<Config, Problems>) -> Vec<(usize, bool)> {
    let line = |problem: &Problem| (problem.line.unwrap(), problem.message.starts_with("not TOML"));
    problems(result).iter().map(line).collect()
}

#[test]
fn broken_syntax_is_told_with_its_line_and_hides_nothing_else() {
    let text = "pool_mode = \na b = 3\nlisten_port = 1\nlisten_port = 2\nlisten_backlog = \"x\"\n[databases.app]\nport = \"x\"\n";
    assert_eq!(lines(toml(text)), [(1, true), (2, true), (4, true), (5, false), (7, false)]);
    assert_problem(toml(&format!("listen_port = 1\nlisten_port = 2{REST}")), 2, "", "duplicate key");
}

#[test]
fn a_broken_header_is_one_problem() {
    assert_eq!(lines(toml("[databases.app\nport = 1\n[users.a]\nfoo = 1\n")), [(1, true), (4, false)]);
    assert_eq!(
        lines(toml("pool_mod = 1\nadmin_users = [\"a\",\n[databases.app]\nport = 1\n")),
        [(1, false), (2, false), (3, true)]
    );
}

#[test]
fn what_is_no_toml_at_all_ends_somewhere() {
    assert!(problems(toml(&"no toml\n".repeat(1000))).len() <= 20);
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let problem = problem(config::load(Path::new("/nonexistent/pgvalet.toml")));
    assert_eq!(
        problem.to_string().split(" (").next().unwrap(),
        "/nonexistent/pgvalet.toml: cannot read the configuration: No such file or directory"
    );
    let files = Files::new();
    let path = files.write("x.toml", "");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(config::load(&path).unwrap_err().to_string().contains("UTF-8"));
}

// --- Unknown names ---

#[test]
fn an_unknown_key_is_told_with_the_nearest_name() {
    assert_problem(toml(&format!("pol_mode = \"session\"{REST}")), 1, "pol_mode", "did you mean pool_mode?");
    assert_problem(
        toml("[databases.app]\nhots = \"x\"\n[users.app]\npassword=\"x\""),
        2,
        "databases.app.hots",
        "did you mean host?",
    );
    assert_problem(
        toml("[databases.app]\n[users.app]\npasword=\"x\"\n[users.b]\npassword=\"x\""),
        3,
        "users.app.pasword",
        "did you mean password?",
    );
    assert_problem(toml(&format!("zebra = 1{REST}")), 1, "zebra", "docs/configuration.md");
    assert_problem(
        ini(&format!("[pgbouncer]\nlisten_addr=*\nmax_client_con=1{INI_REST}")),
        3,
        "max_client_con",
        "max_client_conn?",
    );
}

#[test]
fn an_unknown_section_is_told() {
    assert_problem(toml(&format!("[database.app]\nport = 1{REST}")), 1, "database", "[databases.NAME]");
    assert_problem(
        toml("databases = \"x\"\n[users.app]\npassword=\"x\"").map_err(without("no database")),
        1,
        "databases",
        "write [databases.NAME]",
    );
    assert_problem(
        ini(&format!("[pgbounce]\nx=1\n[pgbouncer]\n{INI_REST}")),
        1,
        "[pgbounce]",
        "[pgbouncer]?",
    );
}

#[test]
fn pgbouncers_settings_in_toml_are_known_to_be_missing() {
    assert_problem(
        toml(&format!("pkt_buf = 4096{REST}")),
        1,
        "pkt_buf",
        "pgbouncer has it, but has no meaning here",
    );
    assert_problem(
        toml(&format!("server_reset_query_always = 1{REST}")),
        1,
        "server_reset_query_always",
        "reset = \"always\"",
    );
}

// --- What must fit together ---

#[test]
fn a_pool_cannot_keep_more_servers_than_it_may_have() {
    assert_problem(
        toml("[databases.app]\npool_size = 5\nmin_pool_size = 6\n[users.a]\npassword='x'"),
        3,
        "databases.app.min_pool_size",
        "6 is more than the pool size of 5",
    );
    assert_problem(
        toml(&format!("min_pool_size = 21{REST}")),
        1,
        "databases.app.min_pool_size",
        "pool size of 20",
    );
    assert!(toml("[databases.app]\npool_size = 0\nmin_pool_size = 600\n[users.a]\npassword='x'").is_ok());
}

#[test]
fn there_must_be_something_to_listen_on() {
    assert_problem(toml(&format!("\nlisten_addr = []{REST}")), 2, "listen_addr", "nothing to listen on");
    assert!(toml(&format!("listen_addr = []\nunix_socket_dir = \"/tmp\"{REST}")).is_ok());
}

#[test]
fn there_must_be_a_database_and_the_message_shows_one() {
    assert_problem(toml("[users.app]\npassword = \"x\""), None, "databases", "[databases.app]\n    host");
}

#[test]
fn somebody_must_be_able_to_log_in() {
    assert_problem(toml("[databases.app]"), None, "users", "no client could log in");
    assert_problem(
        toml("[databases.app]\n[users.app]\npool_size = 1"),
        None,
        "users",
        "no client could log in",
    );
    assert!(toml("auth_type = \"trust\"\n[databases.app]").is_ok());
    let one = toml("[databases.app]\n[users.a]\npassword = \"x\"\n[users.b]\npool_size = 1").unwrap();
    assert_eq!(one.warnings.len(), 1);
    assert!(one.warnings[0].contains(":4: users.b: this user has no password"), "{:?}", one.warnings);
    let md5 = format!("[databases.app]\n[users.a]\npassword = \"md5{}\"", "0".repeat(32));
    assert!(toml(&md5).unwrap().warnings[0].contains("cannot log in by SCRAM"));
    assert!(toml(&format!("auth_type = \"md5\"\n{md5}")).unwrap().warnings.is_empty());
}

#[test]
fn the_consoles_names_are_reserved() {
    for name in ["pgbouncer", "pgvalet"] {
        let key = format!("databases.{name}");
        assert_problem(
            toml(&format!("[databases.{name}]\n[users.a]\npassword = \"x\"")),
            1,
            &key,
            "admin console",
        );
        assert_problem(
            ini(&format!("[pgbouncer]\nauth_type=trust\n[databases]\n{name} =\n")),
            4,
            &key,
            "admin console",
        );
    }
}

#[test]
fn a_reset_needs_a_query() {
    assert_problem(
        toml(&format!("server_reset_query = \"\"{REST}")),
        1,
        "server_reset_query",
        "reset = \"never\"",
    );
    assert!(toml(&format!("server_reset_query = \"\"\nreset = \"never\"{REST}")).is_ok());
}

#[test]
fn a_password_must_serve_its_purpose() {
    let users = "[users.a]\npassword = \"x\"\n[databases.app]\n";
    assert_problem(
        toml(&format!("{users}user = \"a\"\npassword = \"{VERIFIER}\"")),
        5,
        "databases.app.password",
        "cannot log in to a server",
    );
    let unused = toml(&format!("{users}password = \"y\"")).unwrap();
    assert!(unused.warnings[0].contains("no fixed user"), "{:?}", unused.warnings);
    let broken = problem(toml(&format!("{users}user = \"a\"\npassword = \"SCRAM-SHA-256$hunter2\"")));
    assert!(!broken.to_string().contains("hunter2"), "{broken}");
}

// --- Users from a file ---

#[test]
fn the_userlist_is_found_beside_the_toml_and_its_errors_have_lines() {
    let files = Files::new();
    let path =
        files.write("p.toml", "auth_file = \"userlist.txt\"\n[databases.app]\n[users.bob]\npool_size = 3\n");
    files.write("userlist.txt", "; users\n\"alice\" \"a\"\"b\"\n\"bob\" \"secret\"\n\"carol\" \"\"\n");
    let config = config::load(&path).unwrap();
    assert_eq!(config.user("alice").unwrap().secret, Some(Secret::parse("a\"b").unwrap()));
    assert_eq!(config.user("bob").unwrap().pool_size, Some(Some(3)));
    assert!(config.user("bob").unwrap().secret.is_some());
    assert_eq!(config.warnings.len(), 1, "carol has none: {:?}", config.warnings);

    let list = files
        .write("userlist.txt", "\"alice\" \"x\"\nbob secret\n\"alice\" \"y\"\n\"d\" \"SCRAM-SHA-256$x\"\n");
    let problems = problems(config::load(&path));
    let told: Vec<_> =
        problems.iter().map(|problem| (problem.file.as_path(), problem.line.unwrap())).collect();
    assert_eq!(told, [(list.as_path(), 2), (list.as_path(), 3), (list.as_path(), 4)]);
    assert!(problems[1].message.contains("line 1"), "{}", problems[1]);
}

#[test]
fn a_missing_userlist_is_one_problem() {
    assert_problem(toml("auth_file = \"none.txt\"\n[databases.app]"), 1, "auth_file", "none.txt");
}

#[test]
fn a_userlist_that_everybody_can_read_is_a_warning() {
    let files = Files::new();
    let path = files.write("p.toml", "auth_file = \"users\"\n[databases.app]\n");
    let list = files.write("users", "\"a\" \"x\"\n");
    assert!(config::load(&path).unwrap().warnings.is_empty());
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = config::load(&path).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("chmod o-r"), "{warnings:?}");
}

#[test]
fn a_password_in_the_toml_counts_before_the_userlist() {
    let files = Files::new();
    let path =
        files.write("p.toml", "auth_file = \"users\"\n[databases.app]\n[users.a]\npassword = \"toml\"\n");
    files.write("users", "\"a\" \"list\"\n");
    let config = config::load(&path).unwrap();
    assert_eq!(config.user("a").unwrap().secret, Some(Secret::parse("toml").unwrap()));
    assert!(config.warnings[0].contains("users:1: users.a.password"), "{:?}", config.warnings);
}

// --- What the files mean ---

#[test]
fn the_smallest_toml_has_the_documented_defaults() {
    let config = toml(REST).unwrap();
    let general = &config.general;
    assert_eq!(general.listen_addr, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((general.pool_mode, general.max_client_conn), (PoolMode::Transaction, 10_000));
    assert_eq!((general.auth_type, general.reset), (AuthType::ScramSha256, Reset::Auto));
    assert_eq!(general.query_wait_timeout, Some(Duration::from_secs(120)));
    assert_eq!(general.unix_socket_dir, None);
    let app = config.database("app").unwrap();
    assert_eq!((app.hosts.as_slice(), app.port), ([Host::Tcp("127.0.0.1".into())].as_slice(), 5432));
    assert_eq!((app.pool_size, app.pool_size_set), (Some(20), false));
}

#[test]
fn the_fallback_serves_what_has_no_entry() {
    let config = toml("[databases.app]\n[databases.\"*\"]\nport = 7\n[users.a]\npassword='x'").unwrap();
    assert_eq!(config.database("app").unwrap().port, 5432);
    assert_eq!(config.database("other").unwrap().port, 7);
    assert!(!config.databases.contains_key("*"));
    assert!(toml(REST).unwrap().database("other").is_none());
    assert!(config.user("nobody").is_none());
}

#[test]
fn overrides_are_taken_in_their_order() {
    let text = r#"
        pool_mode = "transaction"
        query_timeout = "1s"
        query_wait_timeout = "2s"
        [databases.plain]
        [databases.own]
        pool_mode = "session"
        pool_size = 0
        query_wait_timeout = 0
        reserve_pool_size = 4
        [users.plain]
        password = "x"
        [users.own]
        password = "x"
        pool_mode = "statement"
        pool_size = 7
        query_timeout = 0
        query_wait_timeout = "5s"
        reserve_pool_size = 5
    "#;
    let config = toml(text).unwrap();
    let general = &config.general;
    let [plain_db, own_db] = ["plain", "own"].map(|name| config.database(name).unwrap());
    let [plain, own] = ["plain", "own"].map(|name| config.user(name).unwrap());
    let (plain, own) = (Some(&*plain), Some(&*own));
    assert_eq!(resolve::pool_mode(general, &plain_db, plain), PoolMode::Transaction);
    assert_eq!(resolve::pool_mode(general, &plain_db, own), PoolMode::Statement);
    assert_eq!(resolve::pool_mode(general, &own_db, own), PoolMode::Session);
    assert_eq!(resolve::pool_size(&plain_db, None), Some(20));
    assert_eq!(resolve::pool_size(&plain_db, own), Some(7));
    assert_eq!(resolve::pool_size(&own_db, own), None);
    assert_eq!(resolve::reserve_pool_size(&own_db, plain), 4);
    assert_eq!(resolve::reserve_pool_size(&own_db, own), 5);
    assert_eq!(resolve::query_timeout(general, plain), Some(Duration::from_secs(1)));
    assert_eq!(resolve::query_timeout(general, own), None);
    assert_eq!(resolve::query_wait_timeout(general, &plain_db, plain), Some(Duration::from_secs(2)));
    assert_eq!(resolve::query_wait_timeout(general, &plain_db, own), Some(Duration::from_secs(5)));
    assert_eq!(resolve::query_wait_timeout(general, &own_db, own), None);
}

#[test]
fn a_fixed_user_takes_its_password_from_the_users() {
    let config = toml("[databases.app]\nuser = \"app\"\n[users.app]\npassword = \"x\"").unwrap();
    assert_eq!(config.database("app").unwrap().password, Some(Secret::parse("x").unwrap()));
    // A verifier would be of no use there.
    let text = format!("[databases.app]\nuser = \"app\"\n[users.app]\npassword = \"{VERIFIER}\"");
    assert_eq!(toml(&text).unwrap().database("app").unwrap().password, None);
}

#[test]
fn secrets_are_not_in_the_debug_output() {
    let config =
        toml("[databases.app]\nuser='a'\npassword = \"hunter2\"\n[users.a]\npassword = \"hunter3\"").unwrap();
    assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
}

// --- TLS ---

#[test]
fn tls_with_clients_needs_its_files() {
    let text = format!("client_tls_sslmode = \"prefer\"{REST}");
    let keys: Vec<String> = problems(toml(&text)).into_iter().map(|problem| problem.key).collect();
    assert_eq!(keys, ["client_tls_key_file", "client_tls_cert_file"]);
    let files = "client_tls_key_file = \"a.key\"\nclient_tls_cert_file = \"/b.crt\"";
    let text = format!("client_tls_sslmode = \"verify-full\"\n{files}{REST}");
    assert_problem(toml(&text), 1, "client_tls_ca_file", "not set");
    let config = toml(&format!("client_tls_sslmode = \"require\"\n{files}{REST}")).unwrap();
    let tls = config.general.client_tls;
    assert!(tls.key_file.is_some_and(|file| file.is_absolute() && file.ends_with("a.key")));
    assert_eq!(tls.cert_file.as_deref(), Some(Path::new("/b.crt")));
}

#[test]
fn tls_with_servers_needs_what_its_mode_asks_for() {
    for (lines, line, key, part) in [
        ("server_tls_sslmode = \"verify-ca\"", 1, "server_tls_ca_file", "not set"),
        (
            "server_tls_ca_file = \"system\"\nserver_tls_sslmode = \"verify-ca\"",
            2,
            "server_tls_ca_file",
            "verify-full",
        ),
        ("server_tls_sslnegotiation = \"direct\"", 1, "server_tls_sslnegotiation", "\"require\""),
        ("server_tls_cert_file = \"a\"", 1, "server_tls_key_file", "go together"),
        ("server_tls_key_file = \"a\"", 1, "server_tls_cert_file", "go together"),
    ] {
        assert_problem(toml(&format!("{lines}{REST}")), line, key, part);
    }
    let text = "server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"system\"";
    assert_eq!(
        toml(&format!("{text}{REST}")).unwrap().general.server_tls.authorities,
        Some(Authorities::System)
    );
}

// --- What ships ---

#[test]
fn the_example_loads_without_warnings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pgvalet.toml");
    let files = Files::new();
    // As the example says itself, only its owner should be able to read it.
    let path = files.write("pgvalet.toml", &fs::read_to_string(path).unwrap());
    let config = config::load(&path).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    let app = config.database("app").unwrap();
    assert_eq!((app.user.as_deref(), app.pool_size), (Some("app"), Some(10)));
    assert!(config.general.max_client_conn >= 2000);
    assert!(config.user("app").unwrap().secret.is_some());
}

#[test]
fn the_documentation_lists_every_setting_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let general = settings::general().map(|about| general_row(&about));
    let own = settings::database().chain(settings::user()).chain(settings::name()).chain(settings::peer());
    let own = own.map(|about| own_row(&about));
    let missing: Vec<String> =
        general.chain(own).filter(|row| !text.lines().any(|line| line == row)).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks or misstates:\n{}", missing.join("\n"));
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    let own = settings::database().count()
        + settings::user().count()
        + settings::name().count()
        + settings::peer().count();
    let settings = settings::general().count() + own;
    assert_eq!(rows, settings, "docs/configuration.md has rows of settings that are gone");
}

/// `| name | kind | default | pgbouncer's default | reload | doc |`
fn general_row(about: &settings::About) -> String {
    let pgbouncer = about.pgbouncer.map(|default| format!("`{default}`")).unwrap_or_default();
    let reload = if about.reload { "yes" } else { "no" };
    format!(
        "| `{}` | {} | `{}` | {pgbouncer} | {reload} | {} |",
        about.name, about.kind, about.default, about.doc
    )
}

/// `| name | kind | default | doc |`
fn own_row(about: &settings::About) -> String {
    let default = if about.default.is_empty() { String::new() } else { format!("`{}`", about.default) };
    format!("| `{}` | {} | {default} | {} |", about.name, about.kind, about.doc)
}

#[test]
fn the_examples_of_the_documentation_load() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|part| part.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let files = Files::new();
        files.write("userlist.txt", "\"alice\" \"x\"\n");
        let config = config::load(&files.write("example.toml", example)).unwrap();
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}
