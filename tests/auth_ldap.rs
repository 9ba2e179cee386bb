//! Passwords that a directory knows (the method `ldap`): against a real slapd, with names that try to be more than names, and
//! directories that do not answer.

#![cfg(feature = "ldap")]

#[path = "auth_ldap/slapd.rs"]
mod slapd;
mod support;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};

use slapd::{ADMIN, ADMIN_PASSWORD, SUFFIX, Slapd};
use support::cluster::{Cluster, DATABASE, PASSWORD};
use support::frontend;
use support::pgvalet::{Builder, Pgvalet};
use support::tls::{Authority, Files, Wanted};
use support::wire::{Client, Login, LoginError};

/// The directory that all tests share, and the authority of its certificate.
struct Directory {
    slapd: Slapd,
    files: Files,
}

impl Directory {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Directory> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (authority, files) = (Authority::new("the directory's"), Files::default());
            files.write("ca.crt", &authority.pem);
            files.write("other.crt", &Authority::new("somebody else").pem);
            let person = |unit: &str, uid: &str, password: &str| {
                format!(
                    "dn: uid={uid},{unit}{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: {uid}\n\
                     mail: {uid}@example.net\nuserPassword: {password}\n\n"
                )
            };
            let unit =
                |name: &str| format!("dn: ou={name},{SUFFIX}\nobjectClass: organizationalUnit\nou: {name}\n\n");
            let entries = [
                unit("staff"),
                unit("admins"),
                person("", "alice", "alice's"),
                person("", "odd\\, name", "odd's"),
                person("ou=staff,", "app_scram", PASSWORD),
                person("ou=staff,", "twice", "twice's"),
                person("ou=admins,", "twice", "twice's"),
                person("ou=admins,", "root", "root's"),
            ];
            let slapd = Slapd::start(&entries.concat(), &authority.issue(&Wanted::local()));
            Self { slapd, files }
        })
    }

    /// The options that lead to it.
    fn options(&self, more: &str) -> String {
        format!("ldapserver=127.0.0.1 ldapport={} {more}", self.slapd.port)
    }
}

/// pgvalet with a rule for the Unix socket with these options. One pool for everybody: only the client's side matters.
fn builder(options: &str) -> (Builder, Files) {
    let files = Files::default();
    let rules = format!(
        "local all app_md5 scram-sha-256\nlocal own app_scram ldap {options}\nlocal all all ldap {options}\n"
    );
    let hba = files.write("hba.conf", &rules);
    let builder = Pgvalet::builder()
        .setting("workers = 1")
        .setting("auth_type = \"hba\"")
        .setting(&format!("auth_hba_file = \"{hba}\""))
        .user("app_md5", PASSWORD, &[])
        .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
        .database("own", Cluster::shared(), &["dbname = \"app\""]);
    (builder, files)
}

fn start(options: &str) -> Pgvalet {
    builder(options).0.start()
}

fn login(valet: &Pgvalet, user: &str, password: &str) -> Result<Client, LoginError> {
    Client::login(&valet.unix(), &Login::new(user, DATABASE).password(password))
}

#[track_caller]
fn welcome(valet: &Pgvalet, user: &str, password: &str) {
    login(valet, user, password).unwrap_or_else(|error| panic!("{user}: {error}"));
}

#[track_caller]
fn refused(valet: &Pgvalet, user: &str, password: &str) {
    let error = login(valet, user, password).expect_err(user);
    assert_eq!(error.sqlstate().as_deref(), Some("28000"), "{user}: {error}");
    assert!(
        error.to_string().contains(&format!("LDAP authentication failed for user \"{user}\"")),
        "{error}"
    );
}

#[test]
fn a_users_entry_is_named_or_searched_for() {
    let directory = Directory::shared();
    let of_staff = format!("ldapprefix=\"uid=\" ldapsuffix=\",ou=staff,{SUFFIX}\"");
    let valet = start(&directory.options(&of_staff));
    welcome(&valet, "app_scram", PASSWORD);
    refused(&valet, "app_scram", "wrong");
    refused(&valet, "alice", "alice's");

    let base = format!("ldapbasedn=\"{SUFFIX}\"");
    for (more, alice, by_mail) in [
        ("", true, false),
        ("ldapsearchattribute=mail", false, true),
        ("ldapsearchfilter=\"(|(uid=$username)(mail=$username))\"", true, true),
        ("ldapsearchfilter=\"(&(uid=$username)(ou=staff))\"", false, false),
        (&format!("ldapbinddn=\"{ADMIN}\" ldapbindpasswd=\"{ADMIN_PASSWORD}\""), true, false),
    ] {
        let valet = start(&directory.options(&format!("{base} {more}")));
        for (user, is_there) in [("alice", alice), ("alice@example.net", by_mail)] {
            assert_eq!(login(&valet, user, "alice's").is_ok(), is_there, "{more}: {user}");
            refused(&valet, user, "wrong");
        }
        refused(&valet, "nobody", "alice's");
        refused(&valet, "twice", "twice's");
    }

    let address = format!("127.0.0.1:{}", directory.slapd.port);
    for (path, alice, staff) in [
        (SUFFIX.to_owned(), true, true),
        (format!("{SUFFIX}?uid?one"), true, false),
        (format!("ou=staff,{SUFFIX}?uid?sub"), false, true),
        (format!("{SUFFIX}??sub?(uid=$username)"), true, true),
    ] {
        let valet = start(&format!("ldapurl=\"ldap://{address}/{path}\""));
        assert_eq!(login(&valet, "alice", "alice's").is_ok(), alice, "{path}");
        assert_eq!(login(&valet, "app_scram", PASSWORD).is_ok(), staff, "{path}");
    }

    let valet = start(&directory.options(&format!("{base} ldapbinddn=\"{ADMIN}\" ldapbindpasswd=wrong")));
    refused(&valet, "alice", "alice's");
    valet.wait_log(&["a password cannot be checked by LDAP", "rc=49"]);
}

#[test]
fn names_are_names_and_empty_passwords_are_none() {
    let directory = Directory::shared();
    let by_search = start(&directory.options(&format!("ldapbasedn=\"{SUFFIX}\"")));
    let by_name = start(&directory.options(&format!("ldapprefix=\"uid=\" ldapsuffix=\",{SUFFIX}\"")));
    let by_form = start(&directory.options(&format!("ldapsuffix=\",{SUFFIX}\"")));
    for valet in [&by_search, &by_name] {
        welcome(valet, "alice", "alice's");
        welcome(valet, "odd, name", "odd's");
    }
    for (user, password) in [
        ("*", "alice's"),
        ("ali*", "alice's"),
        ("alice)(uid=*", "alice's"),
        ("x)(|(uid=alice)", "alice's"),
        ("root,ou=admins", "root's"),
        ("uid=root,ou=admins", "root's"),
        ("alice\\", "alice's"),
        ("", "alice's"),
    ] {
        for valet in [&by_search, &by_name, &by_form] {
            assert!(login(valet, user, password).is_err(), "{user:?}");
        }
    }
    for valet in [&by_search, &by_name] {
        for user in ["alice", "root"] {
            let error = login(valet, user, "").expect_err("an empty password");
            assert_eq!(error.sqlstate().as_deref(), Some("28P01"), "{error}");
        }
        welcome(valet, "alice", "alice's");
    }
    let told = by_search.log().iter().chain(&by_name.log()).filter(|line| line.contains("alice's")).count();
    assert_eq!(told, 0, "no password is logged");
}

#[test]
fn tls_is_verified_by_both_ways() {
    let directory = Directory::shared();
    let search = format!("ldapbasedn=\"{SUFFIX}\"");
    let ldaps =
        format!("ldapscheme=ldaps ldapserver=127.0.0.1 ldapport={} {search}", directory.slapd.tls_port);
    let starttls = directory.options(&format!("ldaptls=1 {search}"));
    for options in [ldaps, starttls] {
        for (ca, trusted) in [("ca.crt", true), ("other.crt", false)] {
            let authorities = directory.files.path(ca).display().to_string();
            let (builder, _files) = builder(&options);
            let valet = builder.environment("SSL_CERT_FILE", &authorities).start();
            match trusted {
                true => welcome(&valet, "alice", "alice's"),
                false => {
                    refused(&valet, "alice", "alice's");
                    valet.wait_log(&["a password cannot be checked by LDAP", "certificate"]);
                }
            }
        }
    }
}

#[test]
fn the_password_logs_in_to_servers_too() {
    let directory = Directory::shared();
    let valet = start(&directory.options(&format!("ldapbasedn=\"{SUFFIX}\"")));
    let login = Login::new("app_scram", "own").password(PASSWORD);
    let mut client = Client::login(&valet.unix(), &login).expect("the directory's user");
    assert_eq!(client.value("SELECT current_user"), "app_scram");
}

#[test]
fn auth_type_ldap_is_pgbouncers() {
    let directory = Directory::shared();
    let options = directory.options(&format!(
        "ldapbasedn=\\\"{SUFFIX}\\\" ldapbinddn=\\\"{ADMIN}\\\" ldapbindpasswd=\\\"{ADMIN_PASSWORD}\\\""
    ));
    let valet = Pgvalet::builder()
        .setting("auth_type = \"ldap\"")
        .setting(&format!("auth_ldap_options = \"{options}\""))
        .setting("admin_users = [\"alice\"]")
        .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
        .start();
    welcome(&valet, "alice", "alice's");
    refused(&valet, "alice", "wrong");
    // Not in the clear.
    let plain = Client::login(&valet.tcp(), &Login::new("alice", DATABASE).password("alice's"));
    assert_eq!(plain.expect_err("it is not encrypted").sqlstate().as_deref(), Some("28000"));
    let console = Login::new("alice", "pgvalet").password("alice's");
    let mut console = Client::login(&valet.unix(), &console).expect("an admin");
    let settings = console.rows("SHOW CONFIG");
    let shown =
        settings.iter().find(|row| row[0].as_deref() == Some("auth_ldap_options")).expect("a setting");
    assert_eq!(shown[1].as_deref(), Some("***"));
}

#[test]
fn the_next_server_is_asked_where_one_cannot_be_reached() {
    let directory = Directory::shared();
    let options = format!(
        "ldapserver=\"127.0.0.2 127.0.0.1\" ldapport={} ldapbasedn=\"{SUFFIX}\"",
        directory.slapd.port
    );
    welcome(&start(&options), "alice", "alice's");
    // None at all.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let valet = start(&format!("ldapserver=127.0.0.1 ldapport={closed} ldapbasedn=x"));
    refused(&valet, "alice", "alice's");
    valet.wait_log(&["a password cannot be checked by LDAP"]);
}

/// A directory that takes connections and says nothing.
fn silent() -> (u16, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (sender, connections) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if sender.send(stream).is_err() {
                break;
            }
        }
    });
    (port, connections)
}

#[test]
fn a_silent_directory_holds_nobody_else_up_and_gets_few_questions() {
    let (port, connections) = silent();
    let valet = start(&format!("ldapserver=127.0.0.1 ldapport={port} ldapprefix=\"uid=\" ldapsuffix=\",x\""));
    let ask = || {
        let mut client = Client::connect(&valet.unix()).expect("a connection");
        client.send(&frontend::startup(&[("user", "alice"), ("database", DATABASE)]));
        assert_eq!(client.recv().body, [0, 0, 0, 3]);
        client.send(&frontend::password("x"));
        client
    };
    let mut clients: Vec<Client> = (0..20).map(|_| ask()).collect();
    let mut asked: Vec<TcpStream> = (0..16).map(|_| connections.recv().expect("a question")).collect();
    // There is one worker, and it goes on.
    let login = Login::new("app_md5", DATABASE).password(PASSWORD);
    Client::login(&valet.unix(), &login).expect("somebody else");
    assert!(connections.try_recv().is_err(), "no more than 16 at the same time");
    // Each that ends makes room for another one; a client that leaves, too.
    drop(asked.pop());
    asked.push(connections.recv().expect("the next question"));
    drop(clients.remove(0));
    asked.push(connections.recv().expect("the next question"));
    let mut gone = asked.iter().filter(|stream| {
        stream.set_nonblocking(true).expect("a socket");
        let mut rest = Vec::new();
        let mut reader: &TcpStream = stream;
        reader.read_to_end(&mut rest).is_ok()
    });
    assert!(gone.next().is_some(), "the question of who left is dropped");
    drop(asked);
    drop(connections);
    for mut client in clients {
        assert_eq!(client.until_end()[0].sqlstate().as_deref(), Some("28000"));
    }
}
