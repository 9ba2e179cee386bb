//! Addresses to listen on, and hosts to connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::{Scalar, Unit, items, quoted, written_list};
use crate::config::Host;
use crate::protocol::peer_key::MAX_PEER_ID;

/// Addresses to listen on; `*` is every address of both IP versions.
pub(in crate::config) struct Addresses;

impl Unit for Addresses {
    type Value = Vec<IpAddr>;
    const KIND: &'static str = "list of addresses";

    fn read(scalar: &Scalar) -> Result<Vec<IpAddr>, String> {
        let mut addresses = Vec::new();
        for item in items(scalar, r#"addresses such as "127.0.0.1" or "*""#)? {
            let found = match item.as_str() {
                "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                name => resolved(name)?,
            };
            addresses.extend(found);
        }
        let mut seen = Vec::new();
        addresses.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        Ok(addresses)
    }

    fn write(value: &Vec<IpAddr>) -> Option<String> {
        Some(written_list(value))
    }
}

/// The number of a process among its peers. It has room in 14 bits of a cancel key.
pub(in crate::config) struct PeerId;

impl Unit for PeerId {
    type Value = u16;
    const KIND: &'static str = "number up to 16383";

    fn read(scalar: &Scalar) -> Result<u16, String> {
        let number = <super::Number<0> as Unit>::read(scalar)?;
        u16::try_from(number)
            .ok()
            .filter(|id| *id <= MAX_PEER_ID)
            .ok_or_else(|| format!("{number} is too large; write a number up to {MAX_PEER_ID}"))
    }

    fn write(value: &u16) -> Option<String> {
        Some(value.to_string())
    }
}

/// Hosts of a database: names, addresses, or directories of Unix sockets (with `@` in front, abstract ones).
pub(in crate::config) struct Hosts;

impl Unit for Hosts {
    type Value = Vec<Host>;
    const KIND: &'static str = "list of hosts";

    fn read(scalar: &Scalar) -> Result<Vec<Host>, String> {
        let how = r#"a host such as "127.0.0.1", "db.example.com" or "/var/run/postgresql""#;
        let hosts = items(scalar, how)?;
        if hosts.is_empty() {
            return Err(format!("it is empty; write {how}"));
        }
        hosts.into_iter().map(|host| self::host(&host, how)).collect()
    }

    fn write(value: &Vec<Host>) -> Option<String> {
        let hosts = value.iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(directory) => directory.display().to_string(),
        });
        Some(match hosts.collect::<Vec<_>>().as_slice() {
            [host] => quoted(host),
            hosts => written_list(hosts),
        })
    }
}

/// An address with a port, or nothing.
pub(in crate::config) struct OptionalAddress;

impl Unit for OptionalAddress {
    type Value = Option<SocketAddr>;
    const KIND: &'static str = "address and port";

    fn read(scalar: &Scalar) -> Result<Option<SocketAddr>, String> {
        match scalar {
            Scalar::Text(text) if text.is_empty() => Ok(None),
            Scalar::Text(text) => text.parse().map(Some).map_err(|_| ()),
            _ => Err(()),
        }
        .map_err(|()| {
            format!(r#"{scalar} is not an address with a port; write one such as "127.0.0.1:9127", or "" for none"#)
        })
    }

    fn write(value: &Option<SocketAddr>) -> Option<String> {
        Some(quoted(&value.map(|address| address.to_string()).unwrap_or_default()))
    }
}

fn resolved(name: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let wrong = || {
        let how = r#"write "127.0.0.1", or "*" for all addresses"#;
        format!("{name:?} is neither an address nor a name that can be resolved; {how}")
    };
    if !name.chars().all(is_host_char) {
        return Err(wrong());
    }
    let found = (name, 0).to_socket_addrs().map_err(|_| wrong())?;
    let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn host(text: &str, how: &str) -> Result<Host, String> {
    if text.starts_with('/') || text.starts_with('@') && text.len() > 1 {
        return Ok(Host::Unix(text.into()));
    }
    // With a colon it is an IPv6 address, perhaps with a zone, or a port where none belongs.
    let address = text.split('%').next().unwrap_or(text);
    let misplaced_port = text.contains(':') && address.parse::<IpAddr>().is_err();
    if misplaced_port || !text.chars().all(is_host_char) {
        return Err(format!("{text:?} is not a host; write {how} (the port has a key of its own)"));
    }
    Ok(Host::Tcp(text.to_owned()))
}

fn is_host_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.into())
    }

    #[test]
    fn hosts_are_names_addresses_and_directories() {
        let hosts = Hosts::read(&text("db-1.example.com, 10.0.0.1,::1 ,/run/pg,@pg")).unwrap();
        assert_eq!(
            hosts,
            [
                Host::Tcp("db-1.example.com".into()),
                Host::Tcp("10.0.0.1".into()),
                Host::Tcp("::1".into()),
                Host::Unix("/run/pg".into()),
                Host::Unix("@pg".into()),
            ]
        );
        for wrong in ["", "a,,b", "a b", "db:5432", "http://db", "@"] {
            assert!(Hosts::read(&text(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_star_listens_on_every_address_once() {
        let every: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        assert_eq!(Addresses::read(&text("*, 0.0.0.0")).unwrap(), every);
        assert_eq!(Addresses::read(&text("")).unwrap(), Vec::<IpAddr>::new());
    }
}
