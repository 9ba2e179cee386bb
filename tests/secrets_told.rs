//! What pgvalet says: to its log at the finest level, on the console, as metrics, to clients. No secret is in it, wherever it
//! came from and whatever went wrong with it.

#![cfg(all(feature = "oauth", feature = "ldap"))]

mod support;

use std::io::{Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use support::cluster::{Cluster, DATABASE, PASSWORD};
use support::eventually;
use support::frontend::{self, sasl_initial};
use support::pgvalet::Pgvalet;
use support::scram;
use support::tables::everything;
use support::tls::{Authority, Dial, Files, Wanted};
use support::tokens::{SigningKey, key_set};
use support::wire::{Client, Login};

/// Each secret says what it is, so that a failure does.
const PLAIN: &str = "plain-secret-of-a-user";
const IN_VERIFIER: &str = "secret-behind-a-verifier";
const WRONG: &str = "secret-that-is-wrong";
const BIND: &str = "secret-to-bind-with";
const LOOKED_UP: &str = "secret-that-was-looked-up";
const IN_SQL: &str = "secret-in-a-statement";
const OF_COMMAND: &str = "secret-of-a-command";
const OF_ENVIRONMENT: &str = "secret-of-the-environment";

struct House {
    valet: Pgvalet,
    files: Files,
    token: String,
    secrets: Vec<String>,
}

impl House {
    fn new() -> Self {
        let (cluster, files) = (Cluster::shared(), Files::default());
        let authority = Authority::new("an authority");
        let identity = authority.issue(&Wanted::local());
        let (certificate, key) = files.identity("server", &identity);
        let issuer = SigningKey::new("first", "ES256");
        files.write("keys.json", &key_set(&[issuer.public()]));
        let soon = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 300;
        let claims = json!({ "iss": "https://issuer.test", "aud": "pgvalet", "sub": "bearer", "exp": soon });
        let token = issuer.token("ES256", &claims);
        let (verifier, hash) =
            (scram::verifier(IN_VERIFIER, b"salt", 4096), scram::md5_secret("hashed", PLAIN));
        let hba = files.write(
            "hba.conf",
            &format!(
                "host all bearer all oauth issuer=https://issuer.test validator.audience=pgvalet \
                 validator.jwks=keys.json scope=db\n\
                 host all clear all password\n\
                 host all hashed all md5\n\
                 host all listed all ldap ldapserver=127.0.0.1 ldapport=1 ldapbasedn=dc=x ldapbinddn=cn=x \
                 ldapbindpasswd={BIND}\n\
                 host all all all scram-sha-256\n"
            ),
        );
        let file = files.write("password", PASSWORD);
        let valet = Pgvalet::builder()
            .setting("log_level = \"trace,rustls=trace\"")
            .setting("auth_type = \"hba\"")
            .setting(&format!("auth_hba_file = \"{hba}\""))
            .setting("auth_user = \"postgres\"")
            .setting("admin_users = [\"plain\"]")
            .setting("max_failed_logins = 0")
            .setting("query_wait_timeout = \"1s\"")
            .setting("metrics_listen = \"127.0.0.1:0\"")
            .setting("client_tls_sslmode = \"allow\"")
            .setting(&format!("client_tls_cert_file = \"{certificate}\""))
            .setting(&format!("client_tls_key_file = \"{key}\""))
            .setting("workers = 1")
            .environment("SERVER_PASSWORD", OF_ENVIRONMENT)
            .user("plain", PLAIN, &[])
            .user("clear", PLAIN, &[])
            .user("verifier", &verifier, &[])
            .user("hashed", &hash, &[])
            .user("bearer", WRONG, &[])
            .database(DATABASE, cluster, &["user = \"app_scram\"", &format!("password_file = \"{file}\"")])
            .database(
                "clear",
                cluster,
                &["dbname = \"app\"", "user = \"app_plain\"", &format!("password_file = \"{file}\"")],
            )
            .database(
                "md5",
                cluster,
                &["dbname = \"app\"", "user = \"app_md5\"", &format!("password_file = \"{file}\"")],
            )
            .database(
                "wrong",
                cluster,
                &["dbname = \"app\"", "user = \"app_plain\"", &format!("password = \"{WRONG}\"")],
            )
            .database(
                "environment",
                cluster,
                &["dbname = \"app\"", "user = \"app_scram\"", "password_env = \"SERVER_PASSWORD\""],
            )
            .database(
                "command",
                cluster,
                &[
                    "dbname = \"app\"",
                    "user = \"app_md5\"",
                    &format!("password_command = \"echo {OF_COMMAND}\""),
                ],
            )
            .database(
                "looked_up",
                cluster,
                &[
                    "dbname = \"app\"",
                    "user = \"app_trust\"",
                    "auth_query = \"SELECT $1::text, 'secret' || '-that-was-looked-up'\"",
                ],
            )
            .start();
        let parts = verifier.rsplit(['$', ':']).take(2).map(String::from);
        let key = identity.key.lines().nth(1).expect("a line of base64").to_owned();
        let signature = token.rsplit('.').next().expect("a token has three parts").to_owned();
        let secrets =
            [PLAIN, IN_VERIFIER, WRONG, BIND, LOOKED_UP, IN_SQL, OF_COMMAND, OF_ENVIRONMENT, PASSWORD];
        let mut secrets: Vec<String> = secrets.map(String::from).into();
        secrets.extend([hash[3..].to_owned(), key, signature]);
        secrets.extend(parts);
        Self { valet, files, token, secrets }
    }

    /// A login, in the clear or over TLS; what the client is told if it fails.
    fn attempt(&self, user: &str, database: &str, password: &str, tls: bool) -> Result<Client, String> {
        let login = Login::new(user, database).password(password);
        let endpoint = self.valet.tcp();
        let outcome = match tls {
            true => Client::login_over(
                Dial::default().connect(&endpoint).expect("a handshake"),
                &endpoint,
                &login,
            ),
            false => Client::login(&endpoint, &login),
        };
        outcome.map_err(|error| error.to_string())
    }

    /// A login with a token; what came of it.
    fn bear(&self, token: &str) -> String {
        let endpoint = self.valet.tcp();
        let stream = Dial::default().connect(&endpoint).expect("a handshake");
        let mut client = Client::over(stream, &endpoint);
        client.send(&frontend::startup(&[("user", "bearer"), ("database", DATABASE)]));
        client.recv();
        client
            .send(&sasl_initial("OAUTHBEARER", format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}").as_bytes()));
        let answer = format!("{:?}", client.recv());
        let _ = client.try_send(&frontend::sasl_response(&[1]));
        answer
    }
}

#[test]
fn no_secret_is_in_anything_that_is_said() {
    let house = House::new();
    let mut said = String::new();
    for (user, password) in [("plain", PLAIN), ("clear", PLAIN), ("verifier", IN_VERIFIER), ("hashed", PLAIN)]
    {
        for (database, tls) in [(DATABASE, false), ("clear", true), ("md5", false)] {
            let mut client = house.attempt(user, database, password, tls).expect("it is right");
            let statement = format!("ALTER ROLE nobody_of_this_name PASSWORD '{IN_SQL}'");
            said += &format!("{:?}", client.query(&statement));
            said += &format!("{:?}", client.extended(&statement, &[]));
        }
        said += &house.attempt(user, DATABASE, WRONG, true).expect_err("it is wrong");
    }
    for database in ["wrong", "environment", "command", "nowhere"] {
        said += &house.attempt("plain", database, PLAIN, true).expect_err("no server takes that");
    }
    said += &house.attempt("anybody", "looked_up", LOOKED_UP, false).map(drop).err().unwrap_or_default();
    said += &house.attempt("anybody", "looked_up", WRONG, false).expect_err("it is wrong");
    said += &house.attempt("listed", DATABASE, WRONG, true).expect_err("nobody can be asked");
    let (content, _) = house.token.rsplit_once('.').expect("a token has three parts");
    for token in [&*house.token, &format!("{content}.{}", "A".repeat(86)), &house.token[1..], "x.y.z", WRONG]
    {
        said += &house.bear(token);
    }

    let mut console = house.attempt("plain", "pgbouncer", PLAIN, false).expect("an administrator");
    let options = format!("ldapserver=x ldapprefix=x ldapbindpasswd={BIND}");
    said += &format!("{:?}", console.query(&format!("SET auth_ldap_options = '{options}'")));
    said += &everything(&mut console);
    let line = house.valet.wait_log(&["metrics are served", "address="]);
    let address = line.split_once("address=").expect("an address").1.trim_matches('"').to_owned();
    let mut stream = std::net::TcpStream::connect(address).expect("the endpoint listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is sent");
    stream.read_to_string(&mut said).expect("it answers");

    // Files that are wrong in every way.
    let text = house.valet.config();
    for (file, wrong) in [
        ("hba.conf", format!("host all all all ldap ldapserver=x ldapbindpasswd={BIND} {BIND}=x\n")),
        ("hba.conf", format!("host all all all ldap ldapserver=x \"ldapbindpasswd={BIND}\n")),
        ("hba.conf", format!("host all all all ldap ldapserver=x ldapbindpaswd=my {BIND}\n")),
        ("server.key", format!("-----BEGIN PRIVATE KEY-----\n{BIND}\n-----END PRIVATE KEY-----\n")),
        ("password", format!("{WRONG}\0{WRONG}")),
    ] {
        let failed = house.valet.count_log(&["reload failed"]);
        house.files.write(file, &wrong);
        house.valet.sighup();
        eventually("the reload to fail", || {
            (house.valet.count_log(&["reload failed"]) > failed).then_some(())
        });
    }
    house.valet.write_config(&format!("{text}\n[users.late]\npassword = \"{WRONG}\n"));
    house.valet.sighup();
    house.valet.wait_log(&["not TOML"]);
    said += &house.attempt("plain", "md5", PLAIN, false).err().unwrap_or_default();
    house.valet.sigterm();
    house.valet.wait_exit();

    let log = house.valet.log().join("\n");
    assert!(log.contains("TRACE") && log.contains("rustls"), "there is much in the log");
    assert!(said.len() > 10_000, "much was said");
    for secret in &house.secrets {
        for (where_, text) in [("the log", &log), ("what is said", &said)] {
            let around = text.find(secret.as_str()).map(|at| {
                let from = text.floor_char_boundary(at.saturating_sub(200));
                &text[from..at + secret.len()]
            });
            assert_eq!(around, None, "{secret} is in {where_}");
        }
    }
}
