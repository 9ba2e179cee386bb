//! Passwords that the operating system's PAM knows (the method `pam`).
//!
//! PAM reads its services from /etc/pam.d only, where nobody but root may write and where a test has no business: so this
//! one has to be asked for. It needs libpam0g-dev to be built, and root to run:
//! `cargo test --features pam --test auth_pam -- --ignored`.

#![cfg(feature = "pam")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::cluster::{Cluster, DATABASE, PASSWORD};
use support::frontend;
use support::pgvalet::Pgvalet;
use support::tls::Files;
use support::wire::{Client, Login, LoginError};

/// A service in /etc/pam.d while it lives.
struct Service(String);

impl Service {
    fn new(kind: &str, text: &str) -> Self {
        let name = format!("pgvalet-test-{kind}-{}", std::process::id());
        fs::write(Self::path(&name), text).expect("/etc/pam.d is writable: run this as root");
        Self(name)
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from("/etc/pam.d").join(name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::path(&self.0));
    }
}

fn login(valet: &Pgvalet, user: &str, database: &str, password: &str) -> Result<Client, LoginError> {
    Client::login(&valet.unix(), &Login::new(user, database).password(password))
}

#[test]
#[ignore = "it writes services into /etc/pam.d, which takes root"]
fn pam_decides_and_holds_nobody_up() {
    let files = Files::default();
    // A module that runs a program, which gets the password, and the user and the host in its environment.
    let program = files.write(
        "check",
        "#!/bin/sh\nread -r password\n[ \"$PAM_USER:$PAM_RHOST:$password\" = \"alice:[local]:alice's\" ] || \
         [ \"$PAM_USER:$password\" = \"app_scram:$(cat \"$(dirname \"$0\")/password\")\" ]\n",
    );
    files.write("password", PASSWORD);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("a mode");
    let fifo = files.path("never");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let hang = files.write("hang", &format!("#!/bin/sh\nexec cat {}\n", fifo.display()));
    fs::set_permissions(&hang, fs::Permissions::from_mode(0o700)).expect("a mode");

    let checks = Service::new(
        "check",
        &format!(
            "auth required pam_exec.so quiet expose_authtok {program}\naccount required pam_permit.so\n"
        ),
    );
    let closed = Service::new("closed", "auth required pam_permit.so\naccount required pam_deny.so\n");
    let denies = Service::new("denies", "auth required pam_deny.so\naccount required pam_permit.so\n");
    let hangs = Service::new(
        "hangs",
        &format!("auth required pam_exec.so quiet {hang}\naccount required pam_permit.so\n"),
    );
    let rules = format!(
        "local closed all pam pamservice={}\nlocal denies all pam pamservice={}\nlocal hangs all pam pamservice={}\n\
         local all app_md5 scram-sha-256\nlocal all all pam pamservice={}\n",
        closed.0, denies.0, hangs.0, checks.0
    );
    let hba = files.write("hba.conf", &rules);
    let shared = Cluster::shared();
    let fixed = &["dbname = \"app\"", "user = \"app_trust\""][..];
    let valet = Pgvalet::builder()
        .setting("workers = 1")
        .setting("auth_type = \"hba\"")
        .setting(&format!("auth_hba_file = \"{hba}\""))
        .user("app_md5", PASSWORD, &[])
        .database(DATABASE, shared, fixed)
        .database("closed", shared, fixed)
        .database("denies", shared, fixed)
        .database("hangs", shared, fixed)
        .database("own", shared, &["dbname = \"app\""])
        .start();
    login(&valet, "alice", DATABASE, "alice's").expect("alice");
    for (user, database, password) in [
        ("alice", DATABASE, "wrong"),
        ("bob", DATABASE, "alice's"),
        ("alice", "closed", "alice's"),
        ("alice", "denies", "alice's"),
    ] {
        let error = login(&valet, user, database, password).expect_err(database);
        assert_eq!(error.sqlstate().as_deref(), Some("28000"), "{error}");
        let told = format!("PAM authentication failed for user \"{user}\"");
        assert!(error.to_string().contains(&told), "{error}");
    }
    let error = login(&valet, "alice", DATABASE, "").expect_err("an empty password");
    assert_eq!(error.sqlstate().as_deref(), Some("28P01"), "{error}");
    let mut own = login(&valet, "app_scram", "own", PASSWORD).expect("its password logs in to servers, too");
    assert_eq!(own.value("SELECT current_user"), "app_scram");

    // A module that hangs holds up nobody, whatever the number of its clients.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&valet.unix()).expect("a connection");
        client.send(&frontend::startup(&[("user", "alice"), ("database", "hangs")]));
        client.recv();
        client.send(&frontend::password("x"));
        waiting.push(client);
    }
    login(&valet, "app_md5", DATABASE, PASSWORD).expect("there is one worker, and it goes on");
    drop(waiting);
    // Lets the threads end that hang.
    fs::write(&fifo, "").expect("somebody reads");
}
