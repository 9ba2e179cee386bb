//! The method `ldap`: which directory is asked, and how.
//!
//! Owns its options, which are PostgreSQL's ("LDAP Authentication"); pgbouncer has the same in `auth_ldap_options`.

use std::fmt;
use std::net::IpAddr;

use super::options::Options;
use super::tokens;

/// A directory and how it is asked about users.
#[derive(Clone, PartialEq, Eq)]
pub struct Ldap {
    /// Its addresses, such as `ldap://ldap.example.com:389`, in the order in which they are tried.
    pub servers: Vec<String>,
    /// Whether TLS begins on a connection without it.
    pub starttls: bool,
    /// How a user is found.
    pub way: Way,
}

/// How a user is found in a directory.
#[derive(Clone, PartialEq, Eq)]
pub enum Way {
    /// Its name is part of its entry's.
    Simple {
        /// What comes before it.
        prefix: String,
        /// What comes after it.
        suffix: String,
    },
    /// Its entry is searched for.
    Search {
        /// Below which entry.
        base: String,
        /// How deep.
        scope: Scope,
        /// What is searched for, with [`USER`] in the place of the name.
        filter: String,
        /// As whom; empty: as nobody.
        bind_dn: String,
        /// Its password.
        bind_password: String,
    },
}

/// How deep a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The entry itself.
    Base,
    /// What is right below it.
    One,
    /// It and everything below.
    Subtree,
}

/// What stands for the user's name in a filter.
pub const USER: &str = "$username";

const OPTIONS: [&str; 14] = [
    "ldapserver",
    "ldapport",
    "ldapscheme",
    "ldaptls",
    "ldapprefix",
    "ldapsuffix",
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
    "ldapurl",
    "clientcert",
    "clientname",
];

impl Ldap {
    /// Reads the options as one line, as `auth_ldap_options` has them.
    ///
    /// # Errors
    /// What is wrong with them, and what would be right.
    pub fn from_line(line: &str) -> Result<Ldap, String> {
        let words = tokens::words(line)?;
        read(&Options::read(words.iter())?)
    }

    /// Whether passwords cross the network in the clear on their way to the directory.
    #[must_use]
    pub fn is_in_the_clear(&self) -> bool {
        let is_clear = |server: &String| match server.strip_prefix("ldap://") {
            Some(place) => {
                let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
                let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
                host != "localhost" && !address.is_ok_and(|address| address.is_loopback())
            }
            None => false,
        };
        !self.starttls && self.servers.iter().any(is_clear)
    }
}

impl fmt::Debug for Ldap {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ldap").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// What `ldapurl` says.
#[derive(Default)]
struct Url {
    scheme: String,
    host: String,
    port: Option<u16>,
    base: String,
    attribute: String,
    scope: String,
    filter: String,
}

/// Reads the options of a rule.
pub(super) fn read(options: &Options<'_>) -> Result<Ldap, String> {
    if cfg!(not(feature = "ldap")) {
        return Err("this pgvalet was built without ldap; build it with the feature ldap".into());
    }
    options.only(&OPTIONS)?;
    let url = options.text("ldapurl")?.map(url).transpose()?;
    let own = |name: &str| options.text(name).map(|value| value.map(str::to_owned));
    let of_url = |part: fn(&Url) -> &String| url.as_ref().map(part).filter(|text| !text.is_empty()).cloned();

    let scheme = own("ldapscheme")?.or(of_url(|url| &url.scheme)).unwrap_or_else(|| "ldap".into());
    let default_port = match scheme.as_str() {
        "ldap" => 389,
        "ldaps" => 636,
        other => return Err(format!("ldapscheme={other} is not known; write ldap or ldaps")),
    };
    let starttls = options.flag("ldaptls")?;
    if starttls && scheme == "ldaps" {
        return Err("ldaptls=1 begins TLS within ldap, and ldaps has it anyway; leave one of them out".into());
    }
    let port = match options.number("ldapport", 65_535)? {
        Some(0) => return Err("ldapport=0 is no port; leave it out for the usual one".into()),
        Some(port) => u16::try_from(port).unwrap_or(default_port),
        None => url.as_ref().and_then(|url| url.port).unwrap_or(default_port),
    };
    let hosts = own("ldapserver")?.or(of_url(|url| &url.host));
    let hosts = hosts.ok_or("ldapserver is missing: write the name or the address of the directory")?;
    let servers: Vec<String> =
        hosts.split_whitespace().map(|host| server(&scheme, host, port)).collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err("ldapserver is empty: write the name or the address of the directory".into());
    }

    let base = own("ldapbasedn")?.or(of_url(|url| &url.base));
    let (prefix, suffix) = (own("ldapprefix")?, own("ldapsuffix")?);
    let searching = ["ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter"];
    let way = match (base, prefix.is_some() || suffix.is_some()) {
        (None, false) => {
            return Err(
                "it is not said how users are found; write ldapbasedn, or ldapprefix and ldapsuffix".into()
            );
        }
        (None, true) => {
            if let Some(name) = searching.iter().find(|name| options.get(name).is_some()) {
                return Err(format!("{name} is for searches only; leave it out, or write ldapbasedn"));
            }
            Way::Simple { prefix: prefix.unwrap_or_default(), suffix: suffix.unwrap_or_default() }
        }
        (Some(_), true) => {
            return Err(
                "ldapprefix and ldapsuffix cannot go with a search; leave these out, or the others".into()
            );
        }
        (Some(base), false) => {
            let attribute = own("ldapsearchattribute")?.or(of_url(|url| &url.attribute));
            let filter = own("ldapsearchfilter")?.or(of_url(|url| &url.filter));
            Way::Search {
                base,
                scope: scope(of_url(|url| &url.scope).as_deref())?,
                filter: search_filter(attribute, filter)?,
                bind_dn: own("ldapbinddn")?.unwrap_or_default(),
                bind_password: own("ldapbindpasswd")?.unwrap_or_default(),
            }
        }
    };
    Ok(Ldap { servers, starttls, way })
}

fn server(scheme: &str, host: &str, port: u16) -> Result<String, String> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_');
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => Ok(format!("{scheme}://[{address}]:{port}")),
        _ if host.chars().all(is_name) => Ok(format!("{scheme}://{host}:{port}")),
        _ => {
            Err(format!("ldapserver: {host:?} is neither a name nor an address; the port goes into ldapport"))
        }
    }
}

fn scope(name: Option<&str>) -> Result<Scope, String> {
    match name {
        Some("base") => Ok(Scope::Base),
        Some("one") => Ok(Scope::One),
        None | Some("sub") => Ok(Scope::Subtree),
        Some(other) => Err(format!("ldapurl: {other:?} is no scope; write base, one or sub")),
    }
}

fn search_filter(attribute: Option<String>, filter: Option<String>) -> Result<String, String> {
    if attribute.is_some() && filter.is_some() {
        return Err("an attribute and a filter say the same thing twice; leave one of them out".into());
    }
    if let Some(filter) = filter {
        let filter = if filter.starts_with('(') { filter } else { format!("({filter})") };
        if !filter.contains(USER) {
            return Err(format!("the filter {filter:?} finds the same for every user; write {USER} in it"));
        }
        return match is_filter(&filter.replace(USER, "x")) {
            true => Ok(filter),
            false => Err(format!("{filter:?} is no filter; write one such as (uid={USER})")),
        };
    }
    let attribute = attribute.unwrap_or_else(|| "uid".into());
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | ';' | '.');
    match attribute.chars().all(is_part) {
        true => Ok(format!("({attribute}={USER})")),
        false => Err(format!("{attribute:?} is no attribute; write one such as uid")),
    }
}

#[cfg(feature = "ldap")]
fn is_filter(text: &str) -> bool {
    ldap3::parse_filter(text).is_ok()
}

#[cfg(not(feature = "ldap"))]
fn is_filter(_: &str) -> bool {
    true
}

/// `ldap[s]://host[:port]/base[?[attribute][?[scope][?[filter]]]]` (RFC 4516).
fn url(text: &str) -> Result<Url, String> {
    let wrong =
        || format!("ldapurl={text} is no address; write one such as ldap://host/dc=example,dc=net?uid?sub");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let (place, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().map_err(|_| wrong())?)),
        _ => (place, None),
    };
    let mut parts = rest.splitn(4, '?').map(|part| percent_decoded(part).ok_or_else(wrong));
    let mut part = || parts.next().unwrap_or_else(|| Ok(String::new()));
    Ok(Url {
        scheme: scheme.to_ascii_lowercase(),
        host: host.to_owned(),
        port,
        base: part()?,
        attribute: part()?,
        scope: part()?,
        filter: part()?,
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(all(test, feature = "ldap"))]
mod tests {
    use super::*;

    fn search(line: &str) -> (String, Scope, String, Vec<String>) {
        let ldap = Ldap::from_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        match ldap.way {
            Way::Search { base, scope, filter, .. } => (base, scope, filter, ldap.servers),
            Way::Simple { .. } => panic!("{line}"),
        }
    }

    #[test]
    fn options_and_addresses_say_the_same() {
        let expected = (
            "dc=example,dc=net".to_owned(),
            Scope::Subtree,
            "(uid=$username)".to_owned(),
            vec!["ldap://ldap.example.net:389".to_owned()],
        );
        assert_eq!(search("ldapserver=ldap.example.net ldapbasedn=\"dc=example,dc=net\""), expected);
        assert_eq!(search("ldapurl=\"ldap://ldap.example.net/dc=example,dc=net?uid?sub\""), expected);
        assert_eq!(search("ldapurl=\"ldap://ldap.example.net/dc=example%2cdc=net\""), expected);
        let (_, scope, filter, servers) =
            search("ldapurl=\"ldaps://[::1]:1636/dc=x??one?(&(cn=$username)(a=b))\"");
        assert_eq!((scope, filter.as_str()), (Scope::One, "(&(cn=$username)(a=b))"));
        assert_eq!(servers, ["ldaps://[::1]:1636"]);
        let (.., servers) =
            search("ldapserver=\"one two\" ldapport=1389 ldapbasedn=x ldapsearchattribute=mail");
        assert_eq!(servers, ["ldap://one:1389", "ldap://two:1389"]);
        let simple =
            Ldap::from_line("ldapserver=x ldapprefix=\"uid=\" ldapsuffix=\",dc=x\" ldaptls=1").unwrap();
        assert!(simple.way == Way::Simple { prefix: "uid=".into(), suffix: ",dc=x".into() });
        assert!(simple.starttls && !simple.is_in_the_clear());
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        for (line, said) in [
            ("ldapbasedn=x", "ldapserver is missing"),
            ("ldapserver= ldapbasedn=x", "ldapserver is empty"),
            ("ldapserver=x", "how users are found"),
            ("ldapserver=x ldapbasedn=x ldapprefix=y", "cannot go with a search"),
            ("ldapserver=x ldapprefix=y ldapbinddn=z", "searches only"),
            ("ldapserver=x ldapbasedn=x ldapsearchattribute=a ldapsearchfilter=(a=$username)", "twice"),
            ("ldapserver=x ldapbasedn=x ldapsearchfilter=(a=b)", "finds the same for every user"),
            ("ldapserver=x ldapbasedn=x ldapsearchfilter=(a=$username", "is no filter"),
            ("ldapserver=x ldapbasedn=x ldapsearchattribute=a=b", "is no attribute"),
            ("ldapserver=x ldapbasedn=x ldapscheme=http", "ldap or ldaps"),
            ("ldapserver=x ldapbasedn=x ldapscheme=ldaps ldaptls=1", "leave one of them out"),
            ("ldapserver=x:389 ldapbasedn=x", "ldapport"),
            ("ldapserver=x ldapbasedn=x ldapport=0", "no port"),
            ("ldapserver=x ldapbasedn=x ldaptls=2", "write 0 or 1"),
            ("ldapserver=x ldapbasedn=x ldapbasedm=x", "did you mean ldapbasedn?"),
            ("ldapurl=ldap://x/dc=x??deep", "is no scope"),
            ("ldapurl=x", "is no address"),
            ("ldapserver=x ldapbasedn=\"x", "quote is not closed"),
        ] {
            let refused = Ldap::from_line(line).expect_err(line);
            assert!(refused.contains(said), "{line}: {refused}");
        }
    }

    #[test]
    fn passwords_in_the_clear_are_noticed_and_kept_out_of_logs() {
        let clear = |line: &str| Ldap::from_line(line).unwrap().is_in_the_clear();
        assert!(clear("ldapserver=\"127.0.0.1 far\" ldapbasedn=x"));
        assert!(!clear("ldapserver=\"127.0.0.1 localhost ::1\" ldapbasedn=x"));
        assert!(!clear("ldapserver=far ldapbasedn=x ldapscheme=ldaps"));
        let ldap = Ldap::from_line("ldapserver=x ldapbasedn=x ldapbinddn=y ldapbindpasswd=hunter2").unwrap();
        assert!(!format!("{ldap:?}").contains("hunter2"));
    }
}
