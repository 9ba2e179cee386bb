//! What a client may send first: a startup packet, a request for encryption, a cancel request.
//!
//! These packets have no tag. PostgreSQL limits them to 10,000 bytes; so do we.

use crate::protocol::frame::cstr;
use thiserror::Error;

/// Longest startup packet that PostgreSQL accepts (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP: usize = 10_000;

pub(super) const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The newest minor version of protocol 3 that pgvalet speaks.
pub const NEWEST_MINOR: u16 = 2;

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The client wants TLS.
    SslRequest,
    /// The client wants GSSAPI encryption.
    GssEncRequest,
    /// The client wants another connection's query cancelled.
    Cancel {
        /// Process id from BackendKeyData.
        pid: i32,
        /// Secret from BackendKeyData: 4 bytes in protocol 3.0, up to 256 later.
        secret: Vec<u8>,
    },
    /// The client wants a session.
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Minor version of protocol 3 that the client asked for.
    pub minor: u16,
    /// Parameters in the order sent; bytes that are not UTF-8 became `?`.
    pub parameters: Vec<(String, String)>,
}

/// Kinds of replication connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Of a whole server; the database does not matter.
    Physical,
    /// Of one database, which can be asked with SQL too.
    Logical,
}

/// Why a first packet was refused. Display is PostgreSQL's own text for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartupError {
    /// The length field is out of range.
    #[error("invalid length of startup packet")]
    Length,
    /// The parameters do not end where the packet does.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// A major version other than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")]
    Version {
        /// Major version asked for.
        major: u16,
        /// Minor version asked for.
        minor: u16,
    },
    /// No user name.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A value of the parameter `replication` that means nothing.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
    /// A cancel request whose secret is empty or longer than 256 bytes.
    #[error("invalid length of query cancel packet")]
    Cancel,
}

/// How many bytes the packet at the start of `input` has, length field included; `None` until that is known.
///
/// # Errors
/// [`StartupError::Length`] when the length is below 8 or above [`MAX_STARTUP`].
pub fn packet_length(input: &[u8]) -> Result<Option<usize>, StartupError> {
    let Some(&length) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(length) as usize;
    if (8..=MAX_STARTUP).contains(&length) { Ok(Some(length)) } else { Err(StartupError::Length) }
}

impl Packet {
    /// Reads a whole packet, length field included.
    ///
    /// # Errors
    /// [`StartupError`] with the text to send before the connection ends.
    pub fn parse(packet: &[u8]) -> Result<Packet, StartupError> {
        let Some((&length, rest)) = packet.split_first_chunk::<4>() else { return Err(StartupError::Length) };
        if u32::from_be_bytes(length) as usize != packet.len() || packet.len() > MAX_STARTUP {
            return Err(StartupError::Length);
        }
        let Some((&code, body)) = rest.split_first_chunk::<4>() else { return Err(StartupError::Length) };
        let code = u32::from_be_bytes(code);
        match code {
            SSL_REQUEST if body.is_empty() => Ok(Packet::SslRequest),
            GSSENC_REQUEST if body.is_empty() => Ok(Packet::GssEncRequest),
            SSL_REQUEST | GSSENC_REQUEST => Err(StartupError::Length),
            CANCEL_REQUEST => match body.split_first_chunk::<4>() {
                Some((&pid, secret)) if (4..=256).contains(&secret.len()) => {
                    Ok(Packet::Cancel { pid: i32::from_be_bytes(pid), secret: secret.to_vec() })
                }
                _ => Err(StartupError::Cancel),
            },
            _ => {
                let (major, minor) = ((code >> 16) as u16, code as u16);
                if major != 3 {
                    return Err(StartupError::Version { major, minor });
                }
                Ok(Packet::Startup(Startup { minor, parameters: parameters(body)? }))
            }
        }
    }
}

impl Startup {
    /// The last value given for `name`, as PostgreSQL takes it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The user, which a startup packet must name.
    ///
    /// # Errors
    /// [`StartupError::NoUser`] if it is missing or empty.
    pub fn user(&self) -> Result<&str, StartupError> {
        self.get("user").filter(|user| !user.is_empty()).ok_or(StartupError::NoUser)
    }

    /// The database: the user's name where none was given.
    #[must_use]
    pub fn database(&self) -> &str {
        self.get("database").filter(|name| !name.is_empty()).or_else(|| self.get("user")).unwrap_or("")
    }

    /// What kind of replication connection is wanted, if any.
    ///
    /// # Errors
    /// [`StartupError::Replication`] if the value is neither a boolean nor `database`.
    pub fn replication(&self) -> Result<Option<Replication>, StartupError> {
        let Some(value) = self.get("replication") else { return Ok(None) };
        if value == "database" {
            return Ok(Some(Replication::Logical));
        }
        match boolean(value) {
            Some(wanted) => Ok(wanted.then_some(Replication::Physical)),
            None => Err(StartupError::Replication(value.to_owned())),
        }
    }

    /// Names of the protocol options (`_pq_.`) that were asked for; none is known yet.
    pub fn protocol_options(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("_pq_."))
    }
}

/// A boolean as PostgreSQL reads it: any beginning of a word that is not that of another.
fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if begins("true", 1) || begins("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

fn parameters(mut body: &[u8]) -> Result<Vec<(String, String)>, StartupError> {
    let mut found = Vec::new();
    loop {
        let (name, rest) = cstr(body).ok_or(StartupError::Layout)?;
        if name.is_empty() {
            return if rest.is_empty() { Ok(found) } else { Err(StartupError::Layout) };
        }
        let (value, rest) = cstr(rest).ok_or(StartupError::Layout)?;
        found.push((text(name), text(value)));
        body = rest;
    }
}

/// Text of unknown encoding: what is not UTF-8 becomes `?`, byte by byte, as PostgreSQL cleans names it shows.
fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '?'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_a_boolean_or_a_database() {
        let asked = |value: &str| {
            let parameters = vec![("replication".to_owned(), value.to_owned())];
            Startup { minor: 0, parameters }.replication()
        };
        for (values, expected) in [
            (&["true", "T", "y", "YES", "on", "1"][..], Some(Replication::Physical)),
            (&["database"][..], Some(Replication::Logical)),
            (&["false", "f", "N", "no", "of", "off", "0"][..], None),
        ] {
            values.iter().for_each(|value| assert_eq!(asked(value), Ok(expected), "{value}"));
        }
        for value in ["", "o", "Database", "truex", "2", "maybe"] {
            assert_eq!(asked(value), Err(StartupError::Replication(value.to_owned())));
        }
    }

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = ((8 + body.len()) as u32).to_be_bytes().to_vec();
        out.extend(code.to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn a_startup_message_is_read() {
        let parsed = Packet::parse(&packet(3 << 16, b"user\0bob\0application_name\0a\xffb\0\0"));
        let Ok(Packet::Startup(startup)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(startup.user(), Ok("bob"));
        assert_eq!(startup.database(), "bob");
        assert_eq!(startup.get("application_name"), Some("a?b"));
        assert_eq!(startup.minor, 0);
    }

    #[test]
    fn the_last_of_a_repeated_parameter_counts() {
        let parsed = Packet::parse(&packet(3 << 16, b"user\0a\0user\0b\0\0"));
        let Ok(Packet::Startup(startup)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(startup.user(), Ok("b"));
    }

    #[test]
    fn layouts_that_cannot_be_are_refused() {
        for body in [&b""[..], b"user", b"user\0bob", b"user\0bob\0", b"user\0bob\0\0x", b"\0\0"] {
            assert_eq!(Packet::parse(&packet(3 << 16, body)), Err(StartupError::Layout), "{body:?}");
        }
        assert_eq!(packet_length(&[0, 0, 0, 3]), Err(StartupError::Length));
        assert_eq!(packet_length(&[0, 0, 0x27, 0x11]), Err(StartupError::Length));
        assert_eq!(packet_length(&[0, 0, 0]), Ok(None));
        assert_eq!(packet_length(&[0, 0, 0x27, 0x10]), Ok(Some(10_000)));
    }

    #[test]
    fn versions_other_than_3_are_refused() {
        assert_eq!(
            Packet::parse(&packet(2 << 16, b"user\0bob\0\0")),
            Err(StartupError::Version { major: 2, minor: 0 })
        );
    }

    #[test]
    fn cancel_keys_of_both_protocols_are_read() {
        assert_eq!(
            Packet::parse(&packet(CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4])),
            Ok(Packet::Cancel { pid: 7, secret: vec![1, 2, 3, 4] })
        );
        assert!(Packet::parse(&packet(CANCEL_REQUEST, &[0; 260])).is_ok());
        assert_eq!(Packet::parse(&packet(CANCEL_REQUEST, &[0; 261])), Err(StartupError::Cancel));
        assert_eq!(Packet::parse(&packet(CANCEL_REQUEST, &[0; 4])), Err(StartupError::Cancel));
    }
}
