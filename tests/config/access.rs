//! Settings of authentication: what must fit together, and what is worth a warning.

use super::{Files, INI_REST, assert_problem, ini, problems, toml};
use pgvalet::config::{self, AuthType, PasswordSource, Secret};
use std::os::unix::fs::PermissionsExt;

/// A database without users.
const BARE: &str = "\n[databases.app]\n";

#[test]
fn every_way_to_log_in_has_its_name() {
    for (name, auth_type) in
        [("peer", AuthType::Peer), ("trust", AuthType::Trust), ("reject", AuthType::Reject)]
    {
        let config = toml(&format!("auth_type = \"{name}\"{BARE}")).unwrap();
        assert_eq!((config.general.auth_type, config.warnings.len()), (auth_type, 0), "{name}");
    }
    let user = "[users.a]\npassword = \"x\"";
    for name in ["plain", "password"] {
        let config = toml(&format!("auth_type = \"{name}\"{BARE}{user}")).unwrap();
        assert_eq!(config.general.auth_type, AuthType::Password);
    }
}

#[test]
fn rules_are_read_from_beside_the_configuration_and_their_errors_have_lines() {
    let files = Files::new();
    let path = files.write(
        "p.toml",
        &format!("auth_type = \"hba\"\nauth_hba_file = \"hba\"\nauth_ident_file = \"ident\"{BARE}"),
    );
    let hba = files.write("hba", "local all all peer map=m\n");
    let ident = files.write("ident", "m root app\n");
    let config = config::load(&path).unwrap();
    let rules = config.hba.expect("rules");
    assert_eq!((rules.rules.len(), rules.maps.len(), config.warnings.len()), (1, 1, 0));
    files.write("hba", "\nlocal all all per\n");
    files.write("ident", "m root\n");
    let problems = problems(config::load(&path));
    let told: Vec<_> = problems.iter().map(|problem| (problem.file.as_path(), problem.line)).collect();
    assert_eq!(told, [(hba.as_path(), Some(2)), (ident.as_path(), Some(1))]);
}

#[test]
fn rules_need_their_file_and_their_file_needs_them() {
    assert_problem(toml(&format!("auth_type = \"hba\"{BARE}")), 1, "auth_hba_file", "set auth_hba_file");
    let config = ini(&format!("[pgbouncer]\nauth_hba_file = /none{INI_REST}")).unwrap();
    assert!(config.warnings[0].contains("auth_hba_file: it is not read"), "{:?}", config.warnings);
}

#[test]
fn certificates_and_encrypted_connections_need_tls() {
    assert_problem(toml(&format!("auth_type = \"cert\"{BARE}")), 1, "auth_type", "set client_tls_sslmode");
    let files = Files::new();
    let path = files.write("p.toml", &format!("auth_type = \"hba\"\nauth_hba_file = \"hba\"{BARE}"));
    for rule in ["cert", "trust clientcert=verify-ca"] {
        files.write("hba", &format!("hostssl all all all {rule}\n"));
        assert_problem(config::load(&path), 2, "auth_hba_file", "client_tls_ca_file");
    }
    files.write("hba", "hostssl all all all trust\n");
    let warnings = config::load(&path).unwrap().warnings;
    assert!(warnings[0].contains("hostssl match nobody"), "{warnings:?}");
}

#[test]
fn any_name_needs_a_fixed_user() {
    let text = "auth_type = \"any\"\n[databases.a]\nuser = \"x\"\n[databases.b]\n";
    assert_problem(toml(text), 4, "databases.b.user", "needs a fixed user");
}

#[test]
fn whoever_looks_users_up_must_be_able_to() {
    let general = |lines: &str| toml(&format!("{lines}{BARE}[users.a]\npassword = \"x\"\n"));
    assert!(toml(&format!("auth_user = \"postgres\"{BARE}")).unwrap().warnings.is_empty());
    let config = general("auth_query = \"SELECT 1\"").unwrap();
    assert!(config.warnings[0].contains("auth_user is not set"), "{:?}", config.warnings);
    let nowhere = general("auth_user = \"a\"\nauth_dbname = \"nowhere\"");
    assert_problem(nowhere, 2, "auth_dbname", "no database \"nowhere\"");
    let text = format!("auth_user = \"v\"{BARE}[users.v]\npassword = \"{}\"\n", super::VERIFIER);
    assert_problem(toml(&text), 1, "auth_user", "cannot log in to a server");
    let config = toml("auth_user = \"a\"\n[databases.\"*\"]\n").unwrap();
    assert!(config.warnings[0].contains("set auth_dbname"), "{:?}", config.warnings);
    let overridden =
        toml("[databases.app]\nauth_user = \"u\"\nauth_query = \"q\"\nauth_dbname = \"app\"\n").unwrap();
    let database = overridden.database("app").unwrap();
    assert_eq!(database.auth_user.as_deref(), Some("u"));
    assert_eq!((database.auth_query.as_deref(), database.auth_dbname.as_deref()), (Some("q"), Some("app")));
}

#[test]
fn secrets_elsewhere_are_found_or_told_with_their_place() {
    let files = Files::new();
    let secret = files.write("secret", "hunter2\n");
    let text = |lines: &str| {
        format!("[databases.app]\nuser = \"a\"\n{lines}\n[users.a]\npassword_file = \"secret\"\n")
    };
    let load = |lines: &str| config::load(&files.write("p.toml", &text(lines)));
    let config = load("").unwrap();
    assert_eq!(config.user("a").unwrap().secret, Some(Secret::parse("hunter2").unwrap()));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let config = load("password_file = \"secret\"").unwrap();
    let database = config.database("app").unwrap();
    assert_eq!(database.password_source, Some(PasswordSource::File(secret.clone())));
    let config = load("password_command = \"token\"").unwrap();
    assert!(matches!(&config.database("app").unwrap().password_source,
        Some(PasswordSource::Command { command, cache_time }) if command == "token" && cache_time.as_secs() == 60));

    assert_problem(load("password_file = \"none\""), 3, "databases.app.password_file", "cannot read");
    assert_problem(
        load("password_env = \"PGVALET_NO_SUCH\""),
        3,
        "databases.app.password_env",
        "no variable",
    );
    let both = load("password_command = \"token\"\npassword = \"x\"");
    assert_problem(both, 1, "databases.app.password", "exclude each other");
    files.write("secret", "\n");
    assert_problem(load(""), 5, "users.a.password_file", "the password is empty");

    files.write("secret", "hunter2\n");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = load("").unwrap().warnings;
    assert!(
        warnings[0].contains("users.a.password_file") && warnings[0].contains("chmod o-r"),
        "{warnings:?}"
    );
}

#[test]
fn a_configuration_with_secrets_that_everybody_can_read_is_a_warning() {
    let files = Files::new();
    let path = files.write("p.toml", super::REST);
    assert!(config::load(&path).unwrap().warnings.is_empty());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = config::load(&path).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("chmod o-r"), "{warnings:?}");
}

fn set_mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode can be changed");
}

#[test]
fn files_that_others_can_read_or_change_are_warned_of() {
    let files = Files::new();
    let secrets = files.write("users", "\"bob\" \"secret\"\n");
    let rules = files.write("hba", "local all all scram-sha-256\n");
    let token = files.write("token", "secret\n");
    let text = "auth_type = \"hba\"\nauth_hba_file = \"hba\"\nauth_file = \"users\"\n[databases.app]\nuser = \"u\"\n\
                password_file = \"token\"\n[users.a]\npassword = \"x\"\n";
    let path = files.write("p.toml", text);
    let all = [&secrets, &rules, &token, &path];
    let warned = || -> Vec<String> { config::load(&path).unwrap().warnings };
    all.iter().for_each(|file| set_mode(file, 0o640));
    assert_eq!(warned(), [""; 0]);
    for (file, name) in [(&secrets, "users"), (&token, "token"), (&path, "p.toml")] {
        set_mode(file, 0o644);
        let said = warned();
        assert!(said.len() == 1 && said[0].contains("can read the secrets"), "{name}: {said:?}");
        assert!(said[0].contains(&format!("chmod o-r {}", file.display())), "{name}: {said:?}");
        set_mode(file, 0o640);
    }
    set_mode(&rules, 0o644);
    assert_eq!(warned(), [""; 0], "rules are no secret");
    for (file, name) in [(&secrets, "users"), (&rules, "hba"), (&path, "p.toml")] {
        set_mode(file, 0o642);
        let said = warned();
        assert!(said.len() == 1 && said[0].contains("can change it"), "{name}: {said:?}");
        set_mode(file, 0o640);
    }
}

#[test]
fn a_socket_that_others_can_replace_or_that_is_all_there_is_is_warned_of() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().display().to_string();
    let user = "[users.a]\npassword = \"x\"";
    let warned = |auth_type: &str, mode: &str| -> Vec<String> {
        let text = format!(
            "unix_socket_dir = \"{directory}\"\nunix_socket_mode = \"{mode}\"\nauth_type = \"{auth_type}\"{BARE}{user}"
        );
        toml(&text).unwrap().warnings
    };
    assert_eq!(warned("scram-sha-256", "0777"), [""; 0]);
    let said = warned("trust", "0777");
    assert!(said.len() == 1 && said[0].contains("unix_socket_group"), "{said:?}");
    assert_eq!(warned("trust", "0770"), [""; 0]);
    let open =
        toml(&format!("unix_socket_dir = \"@x\"\nauth_type = \"trust\"{BARE}{user}")).unwrap().warnings;
    assert!(open.len() == 1 && open[0].contains("an abstract socket has no permissions"), "{open:?}");
    for (mode, count) in [(0o777, 1), (0o1777, 0), (0o755, 0)] {
        set_mode(home.path(), mode);
        let said = warned("scram-sha-256", "0777");
        assert_eq!(said.len(), count, "{mode:o}: {said:?}");
        assert!(said.iter().all(|text| text.contains("chmod +t")), "{said:?}");
    }
}

#[test]
fn errors_quote_no_secret() {
    for broken in [
        "password = \"hunter2",
        "password = hunter2",
        "password = \"hunter2\" x",
        "password = \"hunter2\"\npassword = \"hunter2\"",
        "password = \"SCRAM-SHA-256$hunter2\"",
        "password = [\"hunter2\"]",
    ] {
        let said = problems(toml(&format!("{BARE}[users.a]\n{broken}\n")));
        assert!(!said.is_empty() && !format!("{said:?}").contains("hunter2"), "{broken}: {said:?}");
        let said = problems(toml(&format!("{BARE}user = \"u\"\n{broken}\n")));
        assert!(!said.is_empty() && !format!("{said:?}").contains("hunter2"), "{broken}: {said:?}");
    }
    let files = Files::new();
    for line in ["\"bob\" \"hunter2", "\"bob\" hunter2", "\"bob\" \"SCRAM-SHA-256$hunter2\"", "bob hunter2"] {
        files.write("users", &format!("{line}\n"));
        let path = files.write("p.toml", &format!("auth_file = \"users\"{BARE}"));
        let said = problems(config::load(&path));
        assert!(!said.is_empty() && !format!("{said:?}").contains("hunter2"), "{line}: {said:?}");
    }
    let said = problems(ini("[databases]\napp = host=h password='hunter2\n[pgbouncer]\nlisten_addr = *\n"));
    assert!(!said.is_empty() && !format!("{said:?}").contains("hunter2"), "{said:?}");
}
