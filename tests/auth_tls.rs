//! Rules and methods that depend on TLS: `hostssl` and `hostnossl`, certificates, passwords in the clear, and SCRAM bound to
//! the channel with keys passed through.

mod support;

use std::process::Command;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::{Output, psql_with};
use support::tls::{Authority, Files, Wanted};
use support::wire::Login;

/// An authority, and the files of certificates of it.
struct Setup {
    authority: Authority,
    files: Files,
}

impl Setup {
    fn new() -> Self {
        let (authority, files) = (Authority::new("clients' authority"), Files::default());
        files.identity("server", &authority.issue(&Wanted::local()));
        files.write("ca.crt", &authority.pem);
        Self { authority, files }
    }

    fn path(&self, name: &str) -> String {
        self.files.path(name).display().to_string()
    }

    /// One pool for everybody: only the client's side matters.
    fn builder(&self, auth_type: &str) -> Builder {
        Pgvalet::builder()
            .setting(&format!("auth_type = \"{auth_type}\""))
            .setting("client_tls_sslmode = \"allow\"")
            .setting(&format!("client_tls_cert_file = \"{}\"", self.path("server.crt")))
            .setting(&format!("client_tls_key_file = \"{}\"", self.path("server.key")))
            .setting(&format!("client_tls_ca_file = \"{}\"", self.path("ca.crt")))
            .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
            .all_roles()
    }

    fn with_rules(&self, hba: &str, ident: &str) -> Pgvalet {
        let (hba, ident) = (self.files.write("hba.conf", hba), self.files.write("ident.conf", ident));
        self.builder("hba")
            .setting(&format!("auth_hba_file = \"{hba}\""))
            .setting(&format!("auth_ident_file = \"{ident}\""))
            .start()
    }

    /// What psql gets as `user`, with the certificate `certificate` of the files if there is one.
    fn psql(&self, valet: &Pgvalet, user: &str, mode: &str, certificate: Option<&str>) -> Output {
        let mut environment = vec![("PGSSLMODE".to_owned(), mode.to_owned())];
        if let Some(name) = certificate {
            environment.push(("PGSSLCERT".to_owned(), self.path(&format!("{name}.crt"))));
            environment.push(("PGSSLKEY".to_owned(), self.path(&format!("{name}.key"))));
        }
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let login = Login::new(user, DATABASE).password(PASSWORD);
        psql_with(&valet.tcp(), &login, &environment, "SELECT 'welcome'")
    }
}

#[track_caller]
fn welcome(output: Output) {
    assert_eq!(output.ok(), "welcome");
}

#[track_caller]
fn turned_away(output: &Output, why: &str) {
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains(why), "{output:?}");
}

#[test]
fn rules_tell_encrypted_connections_from_others() {
    let setup = Setup::new();
    let valet = setup.with_rules(
        "hostssl all app_scram all scram-sha-256\nhostnossl all app_md5 all md5\nhost all app_plain all password\n",
        "",
    );
    welcome(setup.psql(&valet, "app_scram", "require", None));
    turned_away(
        &setup.psql(&valet, "app_scram", "disable", None),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"app_scram\", database \"app\", no encryption",
    );
    welcome(setup.psql(&valet, "app_md5", "disable", None));
    turned_away(
        &setup.psql(&valet, "app_md5", "require", None),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"app_md5\", database \"app\", SSL encryption",
    );
    for mode in ["require", "disable"] {
        welcome(setup.psql(&valet, "app_plain", mode, None));
    }
}

#[test]
fn certificates_are_asked_for_and_mapped() {
    let setup = Setup::new();
    for name in ["app_scram", "somebody"] {
        let identity = setup.authority.issue(&Wanted::new(name));
        setup.files.identity(name, &identity);
    }
    setup.files.identity("forged", &Authority::new("another").issue(&Wanted::new("app_scram")));
    let valet = setup.with_rules(
        "hostssl all app_md5 all cert map=m\n\
         hostssl all app_plain all scram-sha-256 clientcert=verify-ca\n\
         hostssl all app_trust all trust clientcert=verify-full\n\
         hostssl all all all cert\n",
        "m /^some(.*)$ app_md5\n",
    );
    welcome(setup.psql(&valet, "app_scram", "require", Some("app_scram")));
    let nobody = "certificate authentication failed for user";
    turned_away(&setup.psql(&valet, "app_scram", "require", Some("somebody")), nobody);
    turned_away(&setup.psql(&valet, "app_scram", "require", None), "requires a valid client certificate");
    assert_ne!(setup.psql(&valet, "app_scram", "require", Some("forged")).code, Some(0));
    welcome(setup.psql(&valet, "app_md5", "require", Some("somebody")));
    turned_away(&setup.psql(&valet, "app_md5", "require", Some("app_scram")), nobody);
    welcome(setup.psql(&valet, "app_plain", "require", Some("somebody")));
    turned_away(&setup.psql(&valet, "app_plain", "require", None), "requires a valid client certificate");
    turned_away(&setup.psql(&valet, "app_trust", "require", Some("somebody")), nobody);
}

#[test]
fn a_certificate_alone_and_a_password_in_the_clear_want_tls() {
    let setup = Setup::new();
    setup.files.identity("app_scram", &setup.authority.issue(&Wanted::new("app_scram")));
    let valet = setup.builder("cert").start();
    welcome(setup.psql(&valet, "app_scram", "require", Some("app_scram")));
    turned_away(&setup.psql(&valet, "app_scram", "disable", None), "requires a valid client certificate");
    let valet = setup.builder("plain").start();
    welcome(setup.psql(&valet, "app_scram", "require", None));
    turned_away(
        &setup.psql(&valet, "app_scram", "disable", None),
        "not taken over an unencrypted connection",
    );
}

#[test]
fn keys_of_a_login_bound_to_its_channel_are_passed_through() {
    let setup = Setup::new();
    let valet = Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .setting("client_tls_sslmode = \"require\"")
        .setting(&format!("client_tls_cert_file = \"{}\"", setup.path("server.crt")))
        .setting(&format!("client_tls_key_file = \"{}\"", setup.path("server.key")))
        .database(DATABASE, Cluster::shared(), &[])
        .start();
    let environment = [("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")];
    let output = psql_with(&valet.tcp(), &Role::Scram.login(), &environment, "SELECT session_user");
    assert_eq!(output.ok(), "app_scram");
}

/// A certificate made by openssl, which says what rcgen cannot: several common names, an old version.
fn by_openssl(setup: &Setup, name: &str, subject: &str, extensions: bool) {
    let directory = setup.files.directory();
    let run = |arguments: &[&str]| {
        let output =
            Command::new("openssl").current_dir(directory).args(arguments).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    if !setup.files.path("old.key").exists() {
        let own = ["-keyout", "old.key", "-out", "old.crt", "-subj", "/CN=another authority", "-days", "9"];
        run(&[&["req", "-x509", "-newkey", "rsa:2048", "-nodes"], &own[..]].concat());
    }
    setup.files.write("v3", "basicConstraints=CA:FALSE\n");
    run(&["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", subject]);
    let mut sign =
        vec!["x509", "-req", "-in", &request, "-CA", "old.crt", "-CAkey", "old.key", "-CAcreateserial"];
    sign.extend(["-days", "9", "-out", &certificate]);
    if extensions {
        sign.extend(["-extfile", "v3"]);
    }
    run(&sign);
    setup.files.write(&key, &std::fs::read_to_string(setup.files.path(&key)).expect("the key"));
}

#[test]
fn of_two_common_names_the_first_counts_as_it_does_for_postgresql() {
    let setup = Setup::new();
    by_openssl(&setup, "two", "/CN=app_scram/CN=app_plain", true);
    let authority = std::fs::read_to_string(setup.files.path("old.crt")).expect("the authority");
    setup.files.write("ca.crt", &authority);
    let cluster = Cluster::builder()
        .tls(&setup.authority.issue(&Wanted::local()))
        .file("ca.crt", &authority)
        .config("ssl_ca_file = 'ca.crt'")
        .hba("hostssl all all all cert")
        .start();
    let valet = setup.builder("cert").start();
    let (certificate, key) = (setup.path("two.crt"), setup.path("two.key"));
    let environment = [("PGSSLMODE", "require"), ("PGSSLCERT", &certificate), ("PGSSLKEY", &key)];
    for (user, gets_in) in [("app_scram", true), ("app_plain", false)] {
        for endpoint in [cluster.tcp(), valet.tcp()] {
            let output = psql_with(&endpoint, &Login::new(user, DATABASE), &environment, "SELECT 'welcome'");
            assert_eq!(output.code == Some(0), gets_in, "{user} {endpoint:?}: {output:?}");
        }
    }
}

#[test]
fn a_map_holds_where_the_whole_certificate_is_to_be_verified() {
    let setup = Setup::new();
    setup.files.identity("somebody", &setup.authority.issue(&Wanted::new("somebody")));
    let valet =
        setup.with_rules("hostssl all all all cert clientcert=verify-full map=m\n", "m somebody app_md5\n");
    welcome(setup.psql(&valet, "app_md5", "require", Some("somebody")));
    let nobody = "certificate authentication failed for user";
    turned_away(&setup.psql(&valet, "somebody", "require", Some("somebody")), nobody);
}

#[test]
fn a_certificate_of_the_first_version_is_named_as_that() {
    let setup = Setup::new();
    by_openssl(&setup, "first", "/CN=app_scram", false);
    let authority = std::fs::read_to_string(setup.files.path("old.crt")).expect("the authority");
    setup.files.write("ca.crt", &authority);
    let valet = setup.builder("cert").start();
    assert_ne!(setup.psql(&valet, "app_scram", "require", Some("first")).code, Some(0));
    valet.wait_log(&["TLS failed", "X.509 version 1", "issue it again as version 3"]);
}
