//! A line of pg_hba.conf.
//!
//! Owns the meaning of its fields. A message says what was found and what would be right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use super::options::Options;
use super::tokens::{Line, Token};
use super::{
    Addresses, CertificateName, ClientCertificate, DatabasePattern, Encryption, Method, NO_PAM, Origin,
    Pattern, Rule, UserPattern, ldap, oauth, written,
};
use crate::config::problem::{Problem, nearest};

const KINDS: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
const METHODS: [&str; 10] =
    ["trust", "reject", "scram-sha-256", "md5", "password", "peer", "cert", "ldap", "pam", "oauth"];

/// Reads a line.
pub(super) fn rule(line: &Line, warnings: &mut Vec<Problem>) -> Result<Rule, String> {
    let mut fields = line.fields.iter();
    let kind = one(fields.next(), "the kind of connection")?;
    let encryption = encryption(&kind.text)?;
    let databases = fields.next().ok_or("the database is missing; write a name, or all")?;
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = fields.next().ok_or("the user is missing; write a name, or all")?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let origin = match encryption {
        None => Origin::Local,
        Some(encryption) => {
            if encryption == Encryption::Gss {
                let message = "pgvalet has no GSSAPI encryption: this line never matches";
                warnings.push(line.place.problem("hostgssenc", message));
            }
            let address = one(fields.next(), "the address")?;
            let mut mask = || one(fields.next(), "the netmask");
            Origin::Host { encryption, addresses: addresses(address, &mut mask)? }
        }
    };
    let method = one(fields.next(), "the method")?;
    let options = Options::read(fields.flatten())?;
    let directory = line.place.file.parent().unwrap_or(Path::new(""));
    let (method, client_certificate) = proof(&method.text, &origin, &options, directory)?;
    let clear = matches!(
        origin,
        Origin::Host { encryption: Encryption::Any | Encryption::NoTls, ref addresses }
            if !is_loopback(addresses)
    );
    if let Method::Ldap(ldap) = &method
        && ldap.is_in_the_clear()
    {
        let message = "passwords cross the network in the clear on their way to the directory; write ldaptls=1, or ldapscheme=ldaps";
        warnings.push(line.place.problem("ldap", message));
    }
    if matches!(method, Method::Password | Method::Ldap(_) | Method::Pam { .. }) && clear {
        let message = "passwords can cross the network in the clear; write hostssl, or scram-sha-256";
        warnings.push(line.place.problem("password", message));
    }
    if matches!(method, Method::OAuth(_)) && clear {
        let message =
            "tokens are taken over TLS only, so others that this line matches are refused; write hostssl";
        warnings.push(line.place.problem("oauth", message));
    }
    Ok(Rule { place: written(&line.place), origin, databases, users, method, client_certificate })
}

/// The only token of a field.
fn one<'a>(field: Option<&'a Vec<Token>>, what: &str) -> Result<&'a Token, String> {
    match field.map(Vec::as_slice) {
        Some([token]) => Ok(token),
        Some([]) | None => Err(format!("{what} is missing; a line is: {}", shape())),
        Some(_) => Err(format!("{what} must be a single value; write a line for each")),
    }
}

fn shape() -> &'static str {
    "local DATABASE USER METHOD, or host DATABASE USER ADDRESS METHOD"
}

/// `None` for a line about the Unix socket.
fn encryption(kind: &str) -> Result<Option<Encryption>, String> {
    Ok(Some(match kind {
        "local" => return Ok(None),
        "host" | "hostnogssenc" => Encryption::Any,
        "hostssl" => Encryption::Tls,
        "hostnossl" => Encryption::NoTls,
        "hostgssenc" => Encryption::Gss,
        _ => return Err(unknown("kind of connection", kind, &KINDS)),
    }))
}

fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("{word:?} is no {what}; did you mean {near}?"),
        None => format!("{word:?} is no {what}; write one of {}", known.join(", ")),
    }
}

fn database(token: &Token) -> Result<DatabasePattern, String> {
    if let Some(pattern) = regex(token)? {
        return Ok(DatabasePattern::Regex(pattern));
    }
    Ok(match token.text.as_str() {
        "all" if !token.quoted => DatabasePattern::All,
        "sameuser" if !token.quoted => DatabasePattern::SameUser,
        "samerole" | "samegroup" if !token.quoted => DatabasePattern::SameRole,
        "replication" if !token.quoted => DatabasePattern::Replication,
        name => DatabasePattern::Name(name.to_owned()),
    })
}

/// Users as a rule or a map names them.
pub(super) fn user(token: &Token) -> Result<UserPattern, String> {
    if let Some(group) = token.text.strip_prefix('+').filter(|_| !token.quoted) {
        if group.is_empty() {
            return Err("a role is missing behind the +; quote a name that is a plus sign".into());
        }
        return Ok(UserPattern::Group(group.to_owned()));
    }
    if token.is("all") {
        return Ok(UserPattern::All);
    }
    Ok(match regex(token)? {
        Some(pattern) => UserPattern::Regex(pattern),
        None => UserPattern::Name(token.text.clone()),
    })
}

/// A name that starts with a slash is a regular expression, in quotes too.
pub(super) fn regex(token: &Token) -> Result<Option<Pattern>, String> {
    let Some(text) = token.text.strip_prefix('/') else { return Ok(None) };
    Pattern::new(text).map(Some).map_err(|error| format!("{text:?} is no regular expression: {error}"))
}

fn addresses<'a>(
    token: &Token,
    mask: &mut dyn FnMut() -> Result<&'a Token, String>,
) -> Result<Addresses, String> {
    match token.text.as_str() {
        "all" if !token.quoted => return Ok(Addresses::All),
        "samehost" if !token.quoted => return Ok(Addresses::SameHost),
        "samenet" if !token.quoted => return Ok(Addresses::SameNet),
        _ => {}
    }
    let (text, bits) = match token.text.split_once('/') {
        Some((text, bits)) => (text, Some(bits)),
        None => (token.text.as_str(), None),
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return name(text, bits);
    };
    let mask = match bits {
        Some(bits) => {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let all_digits = !bits.is_empty() && bits.bytes().all(|digit| digit.is_ascii_digit());
            let bits = bits.parse().ok().filter(|bits| all_digits && *bits <= most);
            let bits = bits.ok_or_else(|| {
                format!("{:?} has no valid length of the network; write a number up to {most}", token.text)
            })?;
            network_mask(address, bits)
        }
        None => {
            let text = &mask()?.text;
            text.parse().map_err(|_| {
                format!(
                    "{text:?} is no netmask; write one such as 255.255.255.0, or the address as {address}/24"
                )
            })?
        }
    };
    if address.is_ipv4() != mask.is_ipv4() {
        return Err(format!("the address {address} and the netmask {mask} are of different kinds"));
    }
    Ok(Addresses::Network { address, mask })
}

fn name(text: &str, bits: Option<&str>) -> Result<Addresses, String> {
    if bits.is_some() {
        return Err(format!("{text:?} is no address, and a host name has no netmask; write one of the two"));
    }
    if text.starts_with('.') {
        return Err(format!(
            "{text:?} would need names of addresses, which pgvalet does not look up; write a network or full names"
        ));
    }
    let allowed = |character: char| character.is_alphanumeric() || matches!(character, '-' | '.' | '_');
    // What ends like a number was meant as an address.
    let is_number = text.rsplit('.').next().is_some_and(|last| last.parse::<u32>().is_ok());
    if text.is_empty() || is_number || !text.chars().all(allowed) {
        return Err(format!(
            "{text:?} is neither an address nor a host name; write one such as 10.0.0.0/8, or all"
        ));
    }
    Ok(Addresses::Name(text.to_ascii_lowercase()))
}

/// A mask of `bits` ones, of the family of `address`.
pub(super) fn network_mask(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::from(u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)).into(),
    }
}

fn is_loopback(addresses: &Addresses) -> bool {
    match addresses {
        Addresses::SameHost => true,
        Addresses::Network { address: IpAddr::V4(address), mask: IpAddr::V4(mask) } => {
            address.is_loopback() && mask.octets()[0] == 255
        }
        Addresses::Network { address: IpAddr::V6(address), mask: IpAddr::V6(mask) } => {
            address.is_loopback() && *mask == Ipv6Addr::from(u128::MAX)
        }
        _ => false,
    }
}

/// The method and what else is asked, checked against where it stands.
fn proof(
    method: &str,
    origin: &Origin,
    options: &Options<'_>,
    directory: &Path,
) -> Result<(Method, ClientCertificate), String> {
    let over_tls = matches!(origin, Origin::Host { encryption: Encryption::Tls, .. });
    let option = |name: &str| options.get(name);
    let map = option("map").map(str::to_owned);
    let certificate_name = match option("clientname") {
        None | Some("CN") => CertificateName::Cn,
        Some("DN") => CertificateName::Dn,
        Some(other) => return Err(format!("clientname={other} is not known; write CN or DN")),
    };
    let found = match method {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "scram-sha-256" => Method::ScramSha256,
        "md5" => Method::Md5,
        "password" | "plain" => Method::Password,
        // PostgreSQL takes ident for peer on its Unix socket, too.
        "peer" | "ident" if *origin == Origin::Local => Method::Peer { map: map.clone() },
        "peer" => return Err("peer works on the Unix socket only; write local, or another method".into()),
        "cert" if over_tls => Method::Certificate { map: map.clone(), name: certificate_name },
        "cert" => return Err("cert works over TLS only; write hostssl".into()),
        "oauth" => Method::OAuth(Arc::new(oauth::read(options, directory)?)),
        "ldap" => Method::Ldap(Arc::new(ldap::read(options)?)),
        "pam" => pam(options)?,
        "ident" | "radius" | "gss" | "sspi" | "bsd" => {
            return Err(format!(
                "pgvalet does not have the method {method}; write scram-sha-256, or cert with hostssl"
            ));
        }
        _ => return Err(unknown("method", method, &METHODS)),
    };
    let client_certificate = match option("clientcert") {
        None => ClientCertificate::NotAsked,
        Some(_) if !over_tls => return Err("clientcert works over TLS only; write hostssl".into()),
        // The method asks for all of it itself, by the name that its map leads to.
        Some("verify-full") if matches!(found, Method::Certificate { .. }) => ClientCertificate::NotAsked,
        Some("verify-full") => ClientCertificate::VerifyFull(certificate_name),
        Some("verify-ca") if matches!(found, Method::Certificate { .. }) => {
            return Err("cert always asks for verify-full; leave clientcert out".into());
        }
        Some("verify-ca") => ClientCertificate::VerifyCa,
        Some(other) => {
            return Err(format!("clientcert={other} is not known; write verify-ca or verify-full"));
        }
    };
    for name in options.names() {
        match name {
            // These have options of their own, and have looked at all.
            _ if matches!(found, Method::OAuth(_) | Method::Ldap(_) | Method::Pam { .. }) => {}
            "map" if !matches!(found, Method::Peer { .. } | Method::Certificate { .. }) => {
                return Err(format!("map is for peer, cert and oauth only, not for {method}"));
            }
            "clientname" if !over_tls => return Err("clientname works over TLS only; write hostssl".into()),
            "map" | "clientcert" | "clientname" => {}
            _ => return Err(unknown("option", name, &["map", "clientcert", "clientname"])),
        }
    }
    Ok((found, client_certificate))
}

/// PostgreSQL's "PAM Authentication".
fn pam(options: &Options<'_>) -> Result<Method, String> {
    if cfg!(not(feature = "pam")) {
        return Err(NO_PAM.into());
    }
    options.only(&["pamservice", "pam_use_hostname", "clientcert", "clientname"])?;
    if options.flag("pam_use_hostname")? {
        return Err("pgvalet does not look up the names of addresses; leave pam_use_hostname out".into());
    }
    Ok(Method::Pam { service: options.text("pamservice")?.unwrap_or("postgresql").to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;
    use super::super::{Hba, read};
    use super::*;
    use std::path::Path;

    fn rules(text: &str) -> (Hba, Vec<String>, Vec<String>) {
        let outcome = read(Path::new("/hba"), None, &Memory::new(&[("/hba", text)]));
        let told = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.message).collect();
        (outcome.hba, told(outcome.problems), told(outcome.warnings))
    }

    fn only(text: &str) -> Rule {
        let (mut hba, problems, _) = rules(text);
        assert!(problems.is_empty(), "{text}: {problems:?}");
        hba.rules.remove(0)
    }

    #[test]
    fn names_keywords_groups_and_expressions_are_told_apart() {
        let rule = only(
            "local all,\"all\",sameuser,samegroup,replication,/^a,\"/b\",x all,+g,\"+g\",/u$,\"all\" trust",
        );
        use DatabasePattern as D;
        let regex = |text: &str| Pattern::new(text).unwrap();
        let databases = [
            D::All,
            D::Name("all".into()),
            D::SameUser,
            D::SameRole,
            D::Replication,
            D::Regex(regex("^a")),
            D::Regex(regex("b")),
            D::Name("x".into()),
        ];
        assert_eq!(rule.databases, databases);
        use UserPattern as U;
        let users = [
            U::All,
            U::Group("g".into()),
            U::Name("+g".into()),
            U::Regex(regex("u$")),
            U::Name("all".into()),
        ];
        assert_eq!(rule.users, users);
        assert_eq!((rule.origin, rule.method, rule.place.as_str()), (Origin::Local, Method::Trust, "/hba:1"));
        // Case counts, as in PostgreSQL.
        assert_eq!(only("local ALL Bob trust").databases, [D::Name("ALL".into())]);
    }

    #[test]
    fn addresses_have_many_forms() {
        let from = |text: &str| match only(&format!("host all all {text} md5")).origin {
            Origin::Host { addresses, .. } => addresses,
            Origin::Local => panic!("local"),
        };
        let network = |address: &str, mask: &str| Addresses::Network {
            address: address.parse().unwrap(),
            mask: mask.parse().unwrap(),
        };
        assert_eq!(from("all"), Addresses::All);
        assert_eq!(from("samehost"), Addresses::SameHost);
        assert_eq!(from("samenet"), Addresses::SameNet);
        assert_eq!(from("10.1.2.3/8"), network("10.1.2.3", "255.0.0.0"));
        assert_eq!(from("0.0.0.0/0"), network("0.0.0.0", "0.0.0.0"));
        assert_eq!(from("10.0.0.0 255.255.0.0"), network("10.0.0.0", "255.255.0.0"));
        assert_eq!(from("::1/128"), network("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(from("fe80::/10"), network("fe80::", "ffc0::"));
        assert_eq!(from("::/0"), network("::", "::"));
        assert_eq!(from("Db.Example.com"), Addresses::Name("db.example.com".into()));
    }

    #[test]
    fn options_belong_to_their_methods() {
        assert_eq!(only("local all all peer map=m").method, Method::Peer { map: Some("m".into()) });
        assert_eq!(only("local all all ident").method, Method::Peer { map: None });
        let rule = only("hostssl all all all cert map=m clientname=DN");
        assert_eq!(rule.method, Method::Certificate { map: Some("m".into()), name: CertificateName::Dn });
        let rule = only("hostssl all all all scram-sha-256 clientcert=verify-full");
        assert_eq!(rule.client_certificate, ClientCertificate::VerifyFull(CertificateName::Cn));
        let rule = only("hostssl all all all trust clientcert=verify-ca");
        assert_eq!(rule.client_certificate, ClientCertificate::VerifyCa);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (line, said) in [
            ("hots all all all md5", "did you mean host?"),
            ("\"local\"", "the database is missing"),
            ("local all", "the user is missing"),
            ("local all all", "the method is missing"),
            ("host all all", "the address is missing"),
            ("host all all 10.0.0.1 md5", "\"md5\" is no netmask"),
            ("host all all 10.0.0.1", "the netmask is missing"),
            ("host all all 10.0.0.1 ffff::", "different kinds"),
            ("host all all 10.0.0.0/33 md5", "up to 32"),
            ("host all all 10.0.0.0/ md5", "up to 32"),
            ("host all all 10.0.0.0/+8 md5", "up to 32"),
            ("host all all ::/129 md5", "up to 128"),
            ("host all all 10.0.0/8 md5", "a host name has no netmask"),
            ("host all all 300.1.1.1 md5", "neither an address nor a host name"),
            ("host all all a,b md5", "the address must be a single value"),
            ("host all all .example.com md5", "does not look up"),
            ("local,host all all trust", "must be a single value"),
            ("local all all trust,md5", "the method must be a single value"),
            ("local all all scram-sha256", "did you mean scram-sha-256?"),
            ("local all all nothing-like-it", "write one of trust, reject"),
            ("host all all all peer", "Unix socket only"),
            ("host all all all ident", "does not have the method ident"),
            ("host all all all radius radiusservers=x", "does not have the method radius"),
            ("host all all all cert", "write hostssl"),
            ("host all all all md5 clientcert=verify-ca", "write hostssl"),
            ("hostssl all all all cert clientcert=verify-ca", "always asks for verify-full"),
            ("hostssl all all all md5 clientcert=1", "verify-ca or verify-full"),
            ("hostssl all all all cert clientname=SAN", "CN or DN"),
            ("local all all md5 map=x", "peer, cert and oauth only"),
            ("local all all peer mpa=x", "did you mean map?"),
            ("local all all peer map", "NAME=VALUE"),
            ("local all /( trust", "no regular expression"),
            ("local /[ all trust", "no regular expression"),
            ("local all + trust", "missing behind the +"),
        ] {
            let (_, problems, _) = rules(line);
            assert_eq!(problems.len(), 1, "{line}: {problems:?}");
            assert!(problems[0].contains(said), "{line}: {problems:?}");
        }
    }

    #[test]
    fn what_is_accepted_but_unwise_is_warned_of() {
        for (line, said) in [
            ("hostgssenc all all all md5", "never matches"),
            ("host all all all password", "in the clear"),
            ("hostnossl all all 10.0.0.0/8 password", "in the clear"),
        ] {
            let (_, problems, warnings) = rules(line);
            assert!(problems.is_empty() && warnings[0].contains(said), "{line}: {problems:?} {warnings:?}");
        }
        for line in [
            "hostssl all all all password",
            "local all all password",
            "host all all 127.0.0.1/32 password",
            "host all all ::1/128 password",
            "hostnogssenc all all all md5",
        ] {
            let (_, problems, warnings) = rules(line);
            assert!(problems.is_empty() && warnings.is_empty(), "{line}: {problems:?} {warnings:?}");
        }
    }
}
