//! Files of rules, maps and users, and a login that is matched against them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::auth::hba::{Facts, Groups, Request, Wanted, decide, is_mapped};
use pgvalet::auth::transport::Transport;
use pgvalet::config::hba::{self, Files};
use pgvalet::config::userlist;
use std::io;
use std::path::{Path, PathBuf};

/// Two files; any other name is that of the second.
struct Two<'a>(&'a str, &'a str);

impl Files for Two<'_> {
    fn read(&self, path: &Path) -> io::Result<String> {
        Ok(if path.ends_with("hba") { self.0 } else { self.1 }.to_owned())
    }

    fn conf_files(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![path.join("a.conf"), path.join("b.conf")])
    }
}

fuzz_target!(|input: &str| {
    let (rules, rest) = input.split_once('\0').unwrap_or((input, ""));
    let (maps, user) = rest.split_once('\0').unwrap_or((rest, "alice"));
    let outcome = hba::read(Path::new("hba"), Some(Path::new("ident")), &Two(rules, maps));
    let transport = Transport::Tcp { address: [127, 0, 0, 1].into(), tls: None };
    let request = Request { transport: &transport, database: Wanted::Database("app"), user };
    let facts = Facts { groups: Groups::Unknown, ..Facts::default() };
    let _ = decide(&outcome.hba, &request, &facts);
    assert!(is_mapped(&outcome.hba, Some("m"), "system", user, &Groups::Unknown).is_ok());
    userlist::read(rules).for_each(drop);
});
