//! Which rule of pg_hba.conf holds for a connection, and which users a map makes of a name.
//!
//! Owns the match, not the files (`config::hba`). What it has to know of the world, the addresses behind host names or the
//! roles of a user, it asks for and is called again: it does no I/O. Invariant: what is unknown never lets anybody in. Where it
//! is unknown whether the user is a member of a role, or which addresses a name stands for, a rule that admits does not match, and a
//! rule that rejects does.

use std::collections::HashMap;
use std::net::IpAddr;

use super::transport::Transport;
use crate::config::hba::{
    Addresses, DatabasePattern, Encryption, Hba, MappedUser, Method, Origin, Rule, SystemUser, UserPattern,
};

/// Who wants to log in, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// How the client came here.
    pub transport: &'a Transport,
    /// What it asks for.
    pub database: Wanted<'a>,
    /// As whom.
    pub user: &'a str,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A database, for queries or logical replication.
    Database(&'a str),
    /// Physical replication, which is of no database.
    PhysicalReplication,
}

/// What was found out of the world so far.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Addresses by host name; `None` where nobody could tell.
    pub addresses: HashMap<String, Option<Vec<IpAddr>>>,
    /// Roles that the user is a member of.
    pub groups: Groups,
    /// This machine's addresses with their netmasks; only looked at if a rule asks for them.
    pub interfaces: Interfaces,
}

/// This machine's addresses with their netmasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// Nobody has looked.
    #[default]
    NotAsked,
    /// The system does not tell.
    Unknown,
    /// These.
    Known(Vec<(IpAddr, IpAddr)>),
}

/// The roles that a user is a member of, itself included or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Groups {
    /// Nobody has looked.
    #[default]
    NotAsked,
    /// There is nobody to tell.
    Unknown,
    /// These.
    Known(Vec<String>),
}

/// What came of a match.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<'a> {
    /// This rule decides.
    Rule(&'a Rule),
    /// No rule does: the client is rejected.
    NoRule,
    /// Call again with the addresses of this host.
    WantsAddresses(&'a str),
    /// Call again with the user's groups.
    WantsGroups,
    /// Call again with this machine's addresses.
    WantsInterfaces,
}

/// What has to be found out first.
type Missing<'a> = Outcome<'a>;

/// The first rule that matches.
#[must_use]
pub fn decide<'a>(hba: &'a Hba, request: &Request<'_>, facts: &Facts) -> Outcome<'a> {
    for rule in &hba.rules {
        match matches(rule, request, facts) {
            Ok(true) => return Outcome::Rule(rule),
            Ok(false) => {}
            Err(missing) => return missing,
        }
    }
    Outcome::NoRule
}

/// Whether `system`, a name that the operating system or a certificate vouches for, may be `user`; `None` for `map` means
/// that the names must be equal.
///
/// # Errors
/// [`Outcome::WantsGroups`], where that is needed to tell.
pub fn is_mapped<'a>(
    hba: &Hba,
    map: Option<&str>,
    system: &str,
    user: &str,
    groups: &Groups,
) -> Result<bool, Missing<'a>> {
    let Some(map) = map.filter(|map| !map.is_empty()) else { return Ok(system == user) };
    for line in hba.maps.iter().filter(|line| line.map == map) {
        let captured = match &line.system {
            SystemUser::Name(name) if name == system => "",
            SystemUser::Name(_) => continue,
            SystemUser::Regex(pattern) => match pattern.capture(system) {
                Some(captured) => captured,
                None => continue,
            },
        };
        let fits = match &line.user {
            MappedUser::Pattern(pattern) => is_user(pattern, user, groups, false)?,
            MappedUser::Capture(before, after) => format!("{before}{captured}{after}") == user,
        };
        if fits {
            return Ok(true);
        }
    }
    Ok(false)
}

fn matches<'a>(rule: &'a Rule, request: &Request<'_>, facts: &Facts) -> Result<bool, Missing<'a>> {
    let (encryption, addresses, client) = match (&rule.origin, request.transport) {
        (Origin::Local, Transport::Unix) => (Encryption::Any, &Addresses::All, None),
        (Origin::Host { encryption, addresses }, Transport::Tcp { address, .. }) => {
            (*encryption, addresses, Some(*address))
        }
        _ => return Ok(false),
    };
    let is_tls = request.transport.tls().is_some();
    let fits = match encryption {
        Encryption::Any => true,
        Encryption::Tls => is_tls,
        Encryption::NoTls => !is_tls,
        Encryption::Gss => false,
    };
    if !fits {
        return Ok(false);
    }
    // Names last: only they can take time.
    let is_rejected = rule.method == Method::Reject;
    let addressed = match client {
        Some(client) => is_address(addresses, client, facts, is_rejected)?,
        None => Some(true),
    };
    if addressed == Some(false)
        || !any(&rule.databases, |database| is_database(database, request, &facts.groups, is_rejected))?
        || !any(&rule.users, |user| is_user(user, request.user, &facts.groups, is_rejected))?
    {
        return Ok(false);
    }
    match (addresses, client) {
        (Addresses::Name(name), Some(client)) => match facts.addresses.get(name) {
            Some(Some(known)) => Ok(known.contains(&client)),
            Some(None) => Ok(is_rejected),
            None => Err(Outcome::WantsAddresses(name)),
        },
        _ => Ok(true),
    }
}

/// Whether the client's address is among these; `None` if a name has to be looked up for that.
fn is_address<'a>(
    addresses: &Addresses,
    client: IpAddr,
    facts: &Facts,
    if_unknown: bool,
) -> Result<Option<bool>, Missing<'a>> {
    let any_interface = |test: &dyn Fn(IpAddr, IpAddr) -> bool| match &facts.interfaces {
        Interfaces::NotAsked => Err(Outcome::WantsInterfaces),
        Interfaces::Unknown => Ok(if_unknown),
        Interfaces::Known(all) => Ok(all.iter().any(|(address, mask)| test(*address, *mask))),
    };
    Ok(match addresses {
        Addresses::All => Some(true),
        Addresses::Name(_) => None,
        Addresses::Network { address, mask } => Some(is_in_network(client, *address, *mask)),
        Addresses::SameHost => Some(any_interface(&|address, _| address == client)?),
        Addresses::SameNet => Some(any_interface(&|address, mask| is_in_network(client, address, mask))?),
    })
}

fn is_in_network(client: IpAddr, address: IpAddr, mask: IpAddr) -> bool {
    match (client, address, mask) {
        (IpAddr::V4(client), IpAddr::V4(address), IpAddr::V4(mask)) => {
            (client.to_bits() ^ address.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(client), IpAddr::V6(address), IpAddr::V6(mask)) => {
            (client.to_bits() ^ address.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

/// `any`, for tests that may lack something. What is missing counts only if nothing else matches.
fn any<'a, T>(
    items: &[T],
    mut test: impl FnMut(&T) -> Result<bool, Missing<'a>>,
) -> Result<bool, Missing<'a>> {
    let mut missing = None;
    for item in items {
        match test(item) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(what) => missing = Some(what),
        }
    }
    missing.map_or(Ok(false), Err)
}

fn is_database<'a>(
    pattern: &DatabasePattern,
    request: &Request<'_>,
    groups: &Groups,
    if_unknown: bool,
) -> Result<bool, Missing<'a>> {
    let Wanted::Database(database) = request.database else {
        return Ok(*pattern == DatabasePattern::Replication);
    };
    Ok(match pattern {
        DatabasePattern::All => true,
        DatabasePattern::SameUser => database == request.user,
        DatabasePattern::SameRole => is_member(request.user, database, groups, if_unknown)?,
        DatabasePattern::Replication => false,
        DatabasePattern::Name(name) => name == database,
        DatabasePattern::Regex(pattern) => pattern.matches(database),
    })
}

fn is_user<'a>(
    pattern: &UserPattern,
    user: &str,
    groups: &Groups,
    if_unknown: bool,
) -> Result<bool, Missing<'a>> {
    Ok(match pattern {
        UserPattern::All => true,
        UserPattern::Group(group) => is_member(user, group, groups, if_unknown)?,
        UserPattern::Name(name) => name == user,
        UserPattern::Regex(pattern) => pattern.matches(user),
    })
}

/// Whether `user` is a member of `role`; every role is one of itself.
fn is_member<'a>(user: &str, role: &str, groups: &Groups, if_unknown: bool) -> Result<bool, Missing<'a>> {
    match groups {
        _ if user == role => Ok(true),
        Groups::NotAsked => Err(Outcome::WantsGroups),
        Groups::Unknown => Ok(if_unknown),
        Groups::Known(roles) => Ok(roles.iter().any(|known| known == role)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::transport::Tls;
    use crate::config::hba::{Files, read};
    use std::io;
    use std::path::{Path, PathBuf};

    struct Two(&'static str, &'static str);

    impl Files for Two {
        fn read(&self, path: &Path) -> io::Result<String> {
            Ok(if path == Path::new("hba") { self.0 } else { self.1 }.to_owned())
        }

        fn conf_files(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
            Ok(Vec::new())
        }
    }

    fn parse(hba: &'static str, ident: &'static str) -> Hba {
        let outcome = read(Path::new("hba"), Some(Path::new("ident")), &Two(hba, ident));
        assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        outcome.hba
    }

    fn from(address: &str) -> Transport {
        Transport::Tcp { address: address.parse().unwrap(), tls: None }
    }

    fn over_tls(address: &str) -> Transport {
        Transport::Tcp { address: address.parse().unwrap(), tls: Some(Tls::default()) }
    }

    /// The line of the rule that holds, 0 for none.
    fn line(hba: &Hba, transport: &Transport, database: Wanted<'_>, user: &str, facts: &Facts) -> usize {
        match decide(hba, &Request { transport, database, user }, facts) {
            Outcome::Rule(rule) => rule.place.rsplit_once(':').unwrap().1.parse().unwrap(),
            Outcome::NoRule => 0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let hba = parse(
            "local   all         all             peer\n\
             hostssl all         all             all            cert\n\
             host    sameuser    all             10.0.0.0/8     md5\n\
             host    a,/^b       /^u             10.1.0.0/16    trust\n\
             host    all         all             fe80::/10      trust\n\
             hostnossl all       postgres        all            reject\n\
             host    replication all             all            md5\n",
            "",
        );
        let facts = Facts::default();
        let at = |transport: &Transport, database: &str, user: &str| {
            line(&hba, transport, Wanted::Database(database), user, &facts)
        };
        assert_eq!(at(&Transport::Unix, "a", "u"), 1);
        assert_eq!(at(&over_tls("1.2.3.4"), "a", "u"), 2);
        assert_eq!(at(&from("10.2.3.4"), "u", "u"), 3);
        assert_eq!(at(&from("10.1.3.4"), "a", "u1"), 4);
        assert_eq!(at(&from("10.1.3.4"), "bb", "u1"), 4);
        assert_eq!(at(&from("10.1.3.4"), "ab", "u1"), 0);
        assert_eq!(at(&from("10.1.3.4"), "a", "vu"), 0);
        assert_eq!(at(&from("10.2.3.4"), "a", "u1"), 0);
        assert_eq!(at(&from("febf::1"), "a", "x"), 5);
        assert_eq!(at(&from("fec0::1"), "a", "x"), 0);
        assert_eq!(at(&from("1.1.1.1"), "a", "postgres"), 6);
        assert_eq!(at(&from("1.1.1.1"), "replication", "x"), 0, "a database of this name is not replication");
        assert_eq!(line(&hba, &from("1.1.1.1"), Wanted::PhysicalReplication, "x", &facts), 7);
        assert_eq!(
            line(&hba, &from("fe80::1"), Wanted::PhysicalReplication, "x", &facts),
            7,
            "all is not replication"
        );
    }

    #[test]
    fn groups_are_asked_for_only_where_they_matter() {
        let hba = parse(
            "host all alice,+staff all md5\nhost samerole all all trust\nhost all +bad all reject\nhost all all all md5\n",
            "",
        );
        let transport = from("1.1.1.1");
        let outcome = |user: &str, groups: Groups| {
            let facts = Facts { groups, ..Facts::default() };
            let request = Request { transport: &transport, database: Wanted::Database("db"), user };
            match decide(&hba, &request, &facts) {
                Outcome::Rule(rule) => Some(rule.place.clone()),
                Outcome::WantsGroups => None,
                other => panic!("{other:?}"),
            }
        };
        let known = |names: &[&str]| Groups::Known(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(outcome("alice", Groups::NotAsked).unwrap(), "hba:1");
        assert_eq!(outcome("staff", Groups::NotAsked).unwrap(), "hba:1", "a role is a member of itself");
        assert_eq!(outcome("bob", Groups::NotAsked), None);
        assert_eq!(outcome("bob", known(&["x", "staff"])).unwrap(), "hba:1");
        assert_eq!(outcome("bob", known(&["db"])).unwrap(), "hba:2");
        assert_eq!(outcome("bob", known(&["bad"])).unwrap(), "hba:3");
        assert_eq!(outcome("bob", known(&[])).unwrap(), "hba:4");
        assert_eq!(outcome("bob", Groups::Unknown).unwrap(), "hba:3", "what is unknown lets nobody in");
    }

    #[test]
    fn names_and_interfaces_are_asked_for_only_where_they_matter() {
        let hba = parse("host a all db.x md5\nhost b all samehost trust\nhost b all samenet md5\n", "");
        let transport = from("10.0.0.9");
        let request =
            |database| Request { transport: &transport, database: Wanted::Database(database), user: "u" };
        let mut facts = Facts::default();
        assert_eq!(decide(&hba, &request("a"), &facts), Outcome::WantsAddresses("db.x"));
        assert_eq!(decide(&hba, &request("b"), &facts), Outcome::WantsInterfaces);
        facts.interfaces =
            Interfaces::Known(vec![("10.0.0.1".parse().unwrap(), "255.255.255.0".parse().unwrap())]);
        assert!(matches!(decide(&hba, &request("b"), &facts), Outcome::Rule(rule) if rule.place == "hba:3"));
        facts.addresses.insert("db.x".into(), Some(vec!["10.0.0.9".parse().unwrap()]));
        assert!(matches!(decide(&hba, &request("a"), &facts), Outcome::Rule(rule) if rule.place == "hba:1"));
        facts.addresses.insert("db.x".into(), Some(Vec::new()));
        assert_eq!(decide(&hba, &request("a"), &facts), Outcome::NoRule);
    }

    #[test]
    fn addresses_that_nobody_can_tell_let_nobody_in() {
        let hba = parse(
            "host a all db.x reject\nhost a all db.x trust\nhost b all samenet reject\nhost all all samehost trust\n",
            "",
        );
        let transport = from("10.0.0.9");
        let facts = Facts {
            addresses: [("db.x".to_owned(), None)].into(),
            interfaces: Interfaces::Unknown,
            ..Facts::default()
        };
        for (database, expected) in [("a", "hba:1"), ("b", "hba:3"), ("c", "")] {
            let request = Request { transport: &transport, database: Wanted::Database(database), user: "u" };
            match decide(&hba, &request, &facts) {
                Outcome::Rule(rule) => assert_eq!(rule.place, expected),
                outcome => assert!(outcome == Outcome::NoRule && expected.is_empty(), "{outcome:?}"),
            }
        }
    }

    #[test]
    fn maps_make_users_of_names() {
        let hba = parse(
            "local all all peer",
            "m root  postgres\nm /^(.*)@x\\.org$ \\1\nm /^dba_ +dba\nm any all\nn root other\nm /^o(p)?$ u\\1\n",
        );
        let known = Groups::Known(vec!["dba".into()]);
        let mapped = |map, system, user| is_mapped(&hba, map, system, user, &known);
        assert_eq!(mapped(None, "root", "root"), Ok(true));
        assert_eq!(mapped(None, "root", "postgres"), Ok(false));
        assert_eq!(mapped(Some("m"), "root", "postgres"), Ok(true));
        assert_eq!(mapped(Some("m"), "root", "root"), Ok(false));
        assert_eq!(mapped(Some("m"), "root", "other"), Ok(false));
        assert_eq!(mapped(Some("m"), "bob@x.org", "bob"), Ok(true));
        assert_eq!(mapped(Some("m"), "bob@x.org", "all"), Ok(false));
        assert_eq!(
            mapped(Some("m"), "all@x.org", "bob"),
            Ok(false),
            "what was captured is a name and no keyword"
        );
        assert_eq!(mapped(Some("m"), "dba_1", "anyone"), Ok(true));
        assert_eq!(mapped(Some("m"), "any", "anyone"), Ok(true));
        assert_eq!(mapped(Some("m"), "o", "u"), Ok(true));
        assert_eq!(mapped(Some("m"), "op", "up"), Ok(true));
        assert_eq!(is_mapped(&hba, Some("m"), "dba_1", "x", &Groups::NotAsked), Err(Outcome::WantsGroups));
        assert_eq!(is_mapped(&hba, Some("m"), "dba_1", "x", &Groups::Unknown), Ok(false));
    }
}
