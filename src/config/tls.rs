//! What the configuration says of TLS, for both sides.

use super::names::ServedName;
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};
use std::path::PathBuf;
use std::sync::Arc;

/// Whether TLS is used, and what the peer has to prove; libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS only if the other side insists.
    Allow,
    /// TLS if the other side can.
    Prefer,
    /// Nothing but TLS; who the peer is, is not looked at.
    Require,
    /// The peer's certificate must come from a known authority.
    VerifyCa,
    /// It must also be made out to the peer.
    VerifyFull,
}

/// How TLS begins on a connection to a server; libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// The server is asked in the clear whether it wants TLS.
    Postgres,
    /// TLS from the first byte (PostgreSQL 17 or later): one round trip less.
    Direct,
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// TLS 1.2.
    pub v1_2: bool,
    /// TLS 1.3.
    pub v1_3: bool,
}

/// Cipher suites of one version of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ciphers {
    /// All that the cryptography library offers, in its order.
    Default,
    /// These, in this order; each is known.
    Only(Vec<String>),
}

/// The settings `client_tls_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether clients may, or must, use TLS.
    pub sslmode: SslMode,
    /// The private key.
    pub key_file: Option<PathBuf>,
    /// The certificate of that key, with its chain.
    pub cert_file: Option<PathBuf>,
    /// The authorities of clients' certificates.
    pub ca_file: Option<PathBuf>,
    /// What those authorities have revoked.
    pub crl_file: Option<PathBuf>,
    /// What clients get who connect to certain names.
    pub names: Vec<ServedName>,
    /// Versions of TLS.
    pub protocols: Versions,
    /// Cipher suites of TLS 1.2.
    pub ciphers: Ciphers,
    /// Cipher suites of TLS 1.3.
    pub tls13_ciphers: Ciphers,
}

impl Default for ClientTls {
    fn default() -> ClientTls {
        ClientTls {
            sslmode: SslMode::Disable,
            key_file: None,
            cert_file: None,
            ca_file: None,
            crl_file: None,
            names: Vec::new(),
            protocols: Versions::ALL,
            ciphers: Ciphers::Default,
            tls13_ciphers: Ciphers::Default,
        }
    }
}

/// Whose signature makes a server's certificate count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorities {
    /// Those that the operating system trusts.
    System,
    /// Those of a file; also certificates of servers themselves.
    File(PathBuf),
}

/// The settings `server_tls_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether TLS is used with servers, and what they have to prove.
    pub sslmode: SslMode,
    /// How it begins.
    pub negotiation: Negotiation,
    /// The key of our own certificate.
    pub key_file: Option<PathBuf>,
    /// The certificate that servers are shown if they ask for one.
    pub cert_file: Option<PathBuf>,
    /// The authorities of servers' certificates.
    pub authorities: Option<Authorities>,
    /// What those authorities have revoked.
    pub crl_file: Option<PathBuf>,
    /// Versions of TLS.
    pub protocols: Versions,
    /// Cipher suites of TLS 1.2.
    pub ciphers: Ciphers,
    /// Cipher suites of TLS 1.3.
    pub tls13_ciphers: Ciphers,
}

impl Default for ServerTls {
    fn default() -> ServerTls {
        ServerTls {
            sslmode: SslMode::Prefer,
            negotiation: Negotiation::Postgres,
            key_file: None,
            cert_file: None,
            authorities: None,
            crl_file: None,
            protocols: Versions::ALL,
            ciphers: Ciphers::Default,
            tls13_ciphers: Ciphers::Default,
        }
    }
}

impl Versions {
    /// All versions that are safe.
    pub const ALL: Versions = Versions { v1_2: true, v1_3: true };

    /// As rustls wants them.
    #[must_use]
    pub fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(self.v1_3, &rustls::version::TLS13), (self.v1_2, &rustls::version::TLS12)];
        all.into_iter().filter_map(|(wanted, version)| wanted.then_some(version)).collect()
    }
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("choose what TLS computes with: the feature `ring` or the feature `aws-lc-rs`");

/// The cryptography that pgvalet was built with, all of it.
#[must_use]
pub fn cryptography() -> CryptoProvider {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return rustls::crypto::ring::default_provider();
    // So that what is said above is all that is said.
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    unreachable!()
}

/// Fresh keys for session tickets.
///
/// # Errors
/// There is no randomness.
pub fn tickets() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::Ticketer::new();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return rustls::crypto::ring::Ticketer::new();
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    unreachable!()
}

/// The cryptography with the cipher suites that were configured only.
#[must_use]
pub fn cryptography_with(v1_2: &Ciphers, v1_3: &Ciphers) -> CryptoProvider {
    let all = cryptography();
    let is_v1_3 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
    let mut suites = v1_3.choose(all.cipher_suites.iter().filter(|suite| is_v1_3(suite)));
    suites.extend(v1_2.choose(all.cipher_suites.iter().filter(|suite| !is_v1_3(suite))));
    CryptoProvider { cipher_suites: suites, ..all }
}

impl Ciphers {
    fn choose<'a>(
        &self,
        all: impl Iterator<Item = &'a SupportedCipherSuite> + Clone,
    ) -> Vec<SupportedCipherSuite> {
        match self {
            Ciphers::Default => all.copied().collect(),
            Ciphers::Only(names) => names
                .iter()
                .filter_map(|name| all.clone().find(|suite| is_named(suite, name)))
                .copied()
                .collect(),
        }
    }
}

/// The names of the suites of TLS 1.3, or of those of 1.2.
pub(super) fn suite_names(v1_3: bool) -> Vec<String> {
    let all = cryptography().cipher_suites;
    let suites = all.iter().filter(|suite| suite.tls13().is_some() == v1_3);
    suites.map(|suite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")).collect()
}

/// Whether this is the name of a suite of TLS 1.3, or of one of 1.2.
pub(super) fn is_suite(name: &str, v1_3: bool) -> bool {
    let all = cryptography().cipher_suites;
    all.iter().any(|suite| suite.tls13().is_some() == v1_3 && is_named(suite, name))
}

/// Whether the suite has this name, which may be that of the standards or that of OpenSSL.
fn is_named(suite: &SupportedCipherSuite, name: &str) -> bool {
    essence(&format!("{:?}", suite.suite())) == essence(name)
}

/// A suite's name without what its spellings differ in: `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256` and
/// `ECDHE-RSA-AES128-GCM-SHA256` are one.
fn essence(name: &str) -> String {
    let name = name.to_ascii_uppercase().replace("TLS13_", "").replace("TLS_", "").replace("_WITH_", "_");
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    // OpenSSL leaves out the hash that goes with ChaCha20 in TLS 1.2.
    match name.strip_suffix("POLY1305SHA256") {
        Some(start) => format!("{start}POLY1305"),
        None => name,
    }
}
