//! A directory of its own: Debian's slapd, as an ordinary process on free ports.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::cluster::free_port;
use crate::support::guard::Guard;
use crate::support::install::{as_server_user, give_to_server_user};
use crate::support::tls::Identity;
use crate::support::{DEADLINE, within};

pub const SUFFIX: &str = "dc=example,dc=net";
pub const ADMIN: &str = "cn=admin,dc=example,dc=net";
pub const ADMIN_PASSWORD: &str = "admin's";

/// A running slapd.
pub struct Slapd {
    child: Child,
    pub port: u16,
    pub tls_port: u16,
    _home: TempDir,
    _guard: Guard,
}

impl Slapd {
    /// Starts one with these entries below [`SUFFIX`] and this certificate.
    pub fn start(entries: &str, identity: &Identity) -> Self {
        let program = Path::new("/usr/sbin/slapd");
        assert!(program.exists(), "there is no slapd: sudo apt-get install slapd (tests/run.sh does)");
        let home = tempfile::Builder::new().prefix("pgvalet-slapd-").tempdir().expect("a directory");
        let path = home.path();
        fs::create_dir(path.join("db")).expect("a directory");
        fs::write(path.join("crt"), &identity.certificate).expect("a file");
        fs::write(path.join("key"), &identity.key).expect("a file");
        // With `bind_anon_cred`, a name with an empty password is nobody's login, and a success: the trap of LDAP.
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             pidfile {home}/pid\nallow bind_anon_cred bind_anon_dn\n\
             TLSCertificateFile {home}/crt\nTLSCertificateKeyFile {home}/key\n\
             database mdb\nmaxsize 10485760\nsuffix \"{SUFFIX}\"\nrootdn \"{ADMIN}\"\nrootpw \"{ADMIN_PASSWORD}\"\n\
             directory {home}/db\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n",
            home = path.display()
        );
        fs::write(path.join("conf"), config).expect("a file");
        let base = format!("dn: {SUFFIX}\nobjectClass: domain\ndc: example\n\n");
        fs::write(path.join("ldif"), base + entries).expect("a file");
        give_to_server_user(path);
        let mut add = as_server_user(Path::new("/usr/sbin/slapadd"));
        let added =
            add.arg("-f").arg(path.join("conf")).arg("-l").arg(path.join("ldif")).output().expect("slapadd");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        for _ in 0..20 {
            let (port, tls_port) = (free_port(), free_port());
            let listen = format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}");
            let mut command = as_server_user(program);
            command.args(["-d", "0", "-h", &listen, "-f"]).arg(path.join("conf"));
            if let Some(child) = ready(command, port) {
                let guard = Guard::kill_and_remove(child.id(), path);
                return Self { child, port, tls_port, _home: home, _guard: guard };
            }
        }
        panic!("no free ports in 20 attempts");
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process once it takes connections; `None` if it ends instead, because somebody has its port.
fn ready(mut command: Command, port: u16) -> Option<Child> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("slapd starts");
    let outcome = within(DEADLINE, || {
        if child.try_wait().expect("a child").is_some() {
            return Some(false);
        }
        TcpStream::connect(("127.0.0.1", port)).ok().map(|_| true)
    });
    if outcome == Some(true) {
        return Some(child);
    }
    let _ = child.kill();
    let mut said = String::new();
    let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
    eprintln!("slapd ended: {said}");
    None
}
