//! How a client has reached pgvalet, as far as it matters for who may log in.
//!
//! Owns only these facts. Whoever accepts a connection fills them in.

use std::fmt;
use std::net::IpAddr;

/// A client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The Unix socket.
    Unix,
    /// TCP.
    Tcp {
        /// The client's address.
        address: IpAddr,
        /// `None`: in the clear.
        tls: Option<Tls>,
    },
}

/// What is known of a client's TLS session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The client's certificate, if it showed one; it has been verified against the trusted authorities.
    pub certificate: Option<Certificate>,
}

/// The names in a verified certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificate {
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The subject's distinguished name, in the form of RFC 2253.
    pub distinguished_name: String,
}

impl Transport {
    /// Whether nobody on the way can read along.
    #[must_use]
    pub fn is_private(&self) -> bool {
        matches!(self, Transport::Unix | Transport::Tcp { tls: Some(_), .. })
    }

    /// What is known of TLS; `None` without it.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Transport::Tcp { tls, .. } => tls.as_ref(),
            Transport::Unix => None,
        }
    }

    /// The encryption, in PostgreSQL's words.
    #[must_use]
    pub fn encryption(&self) -> &'static str {
        if self.tls().is_some() { "SSL encryption" } else { "no encryption" }
    }
}

impl fmt::Display for Transport {
    /// The client's host, as PostgreSQL names it in its errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transport::Unix => f.write_str("[local]"),
            Transport::Tcp { address, .. } => address.fmt(f),
        }
    }
}
