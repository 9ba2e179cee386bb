//! TLS with clients: what they are offered, and their handshake.

use crate::config::names::{self, Identity, ServedName};
use crate::config::tls::{ClientTls, SslMode, cryptography_with, tickets};
use crate::net::socket::Socket;
use crate::net::tls::certificate::{Subject, end_point};
use crate::net::tls::current::Source;
use crate::net::tls::expiry::{Expiry, of_authorities, of_chain, of_revocations};
use crate::net::tls::files::{Unusable, authorities, certificates, private_key, revocations};
use crate::net::tls::handshake::{Early, explained};
use crate::net::tls::{ALPN, TlsStream};
use rustls::crypto::CryptoProvider;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Connection, ServerConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What clients are offered.
#[derive(Debug)]
pub struct Offer {
    /// Whether clients that do not take it are refused.
    pub is_required: bool,
    /// When what it is made of expires.
    pub expiries: Vec<Expiry>,
    config: Arc<ServerConfig>,
    shop: Arc<Shop>,
}

/// The certificates that clients are shown, by the name that they connect to.
#[derive(Debug)]
struct Shop {
    /// For those who name nothing, or nothing that is known.
    default: Article,
    names: Vec<ServedName>,
    /// Of each name, where it has one of its own.
    own: Vec<Option<Article>>,
}

/// A certificate of ours.
#[derive(Debug)]
struct Article {
    key: Arc<CertifiedKey>,
    /// For channel binding by `tls-server-end-point`; `None` where there is none.
    end_point: Option<Vec<u8>>,
}

impl Shop {
    fn pick(&self, name: Option<&str>) -> &Article {
        let known = name.and_then(|name| names::of(&self.names, name));
        let own = known.and_then(|(at, _)| self.own.get(at)?.as_ref());
        own.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Shop {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pick(hello.server_name()).key.clone())
    }
}

/// What the handshake has shown, for a client's authentication.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Whom the client's certificate is made out to, by an authority that is trusted; `None` if it has shown none.
    pub certificate: Option<Subject>,
    /// The hash of our own certificate, for channel binding by `tls-server-end-point`; `None` if there can be none.
    pub end_point: Option<Vec<u8>>,
    /// The name that the client connects to, if it said so (SNI).
    pub server_name: Option<String>,
    /// Whether the client said by ALPN that it speaks PostgreSQL's protocol.
    pub named_protocol: bool,
}

impl Offer {
    /// The handshake with a client. `early` is what was read of its ClientHello.
    ///
    /// # Errors
    /// Why the handshake failed; the client has been told as far as TLS allows.
    pub async fn accept(&self, socket: Socket, early: Vec<u8>) -> io::Result<(TlsStream, Shown)> {
        let acceptor = TlsAcceptor::from(self.config.clone());
        let (socket, session) =
            acceptor.accept(Early::new(socket, early)).await.map_err(explained)?.into_inner();
        let certificate = match session.peer_certificates().and_then(<[_]>::first) {
            Some(der) => {
                let unreadable =
                    || io::Error::new(io::ErrorKind::InvalidData, "unreadable client certificate");
                Some(Subject::of(der).ok_or_else(unreadable)?)
            }
            None => None,
        };
        let named_protocol = session.alpn_protocol() == Some(ALPN);
        let server_name = session.server_name().map(str::to_owned);
        let end_point = self.shop.pick(server_name.as_deref()).end_point.clone();
        let shown = Shown { certificate, end_point, server_name, named_protocol };
        let stream = TlsStream::new(socket.into_socket(), Connection::Server(session))?;
        Ok((stream, shown))
    }
}

impl Source for ClientTls {
    type Made = Offer;

    fn make(&self) -> Result<Option<Offer>, Unusable> {
        if self.sslmode == SslMode::Disable {
            return Ok(None);
        }
        let lacking = |setting| Unusable::new(setting, "not set, but client_tls_sslmode asks for TLS");
        let cert_file = self.cert_file.as_ref().ok_or_else(|| lacking("client_tls_cert_file"))?;
        let key_file = self.key_file.as_ref().ok_or_else(|| lacking("client_tls_key_file"))?;
        let mut expiries = Vec::new();
        let provider = Arc::new(cryptography_with(&self.ciphers, &self.tls13_ciphers));
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.protocols.supported())
            .map_err(|error| Unusable::new("client_tls_protocols", error.to_string()))?;
        let builder = match &self.ca_file {
            Some(file) => {
                let found = certificates("client_tls_ca_file", file)?;
                expiries.extend(of_authorities("client_tls_ca_file", file, &found));
                let roots = Arc::new(authorities("client_tls_ca_file", file, found)?);
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                if let Some(file) = &self.crl_file {
                    let lists = revocations("client_tls_crl_file", file)?;
                    expiries.extend(of_revocations("client_tls_crl_file", file, &lists));
                    // As PostgreSQL: every certificate of a chain needs a list that says nothing of it and is in force.
                    verifier = verifier.with_crls(lists).enforce_revocation_expiration();
                }
                let verifier = if self.sslmode >= SslMode::VerifyCa {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                let verifier = verifier.build().map_err(|error| match (&error, &self.crl_file) {
                    (VerifierBuilderError::InvalidCrl(_), Some(file)) => {
                        Unusable::file("client_tls_crl_file", file, &error)
                    }
                    _ => Unusable::file("client_tls_ca_file", file, &error),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
            None if self.sslmode >= SslMode::VerifyCa => return Err(lacking("client_tls_ca_file")),
            None => builder.with_no_client_auth(),
        };
        let usual = ["client_tls_cert_file", "client_tls_key_file"];
        let mut own = Vec::new();
        for served in &self.names {
            let settings = ["client_tls_names.cert_file", "client_tls_names.key_file"];
            let article = |identity: &Identity| {
                article(settings, &identity.cert_file, &identity.key_file, &provider, &mut expiries)
            };
            own.push(served.identity.as_ref().map(article).transpose()?);
        }
        let default = article(usual, cert_file, key_file, &provider, &mut expiries)?;
        let shop = Arc::new(Shop { default, names: self.names.clone(), own });
        let mut config = builder.with_cert_resolver(shop.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are resumed by tickets: nothing is kept here for a client that has gone. Not where certificates are
        // asked for: one that has expired or lost its authority since would go unnoticed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = usize::from(self.ca_file.is_none());
        if self.ca_file.is_none() {
            config.ticketer = tickets().map_err(|error| {
                Unusable::new("client_tls_sslmode", format!("no keys for tickets: {error}"))
            })?;
        }
        let is_required = self.sslmode >= SslMode::Require;
        Ok(Some(Offer { is_required, expiries, config: Arc::new(config), shop }))
    }

    fn files(&self) -> Vec<PathBuf> {
        let usual = [&self.key_file, &self.cert_file, &self.ca_file, &self.crl_file].into_iter().flatten();
        let own = self.names.iter().filter_map(|served| served.identity.as_ref());
        usual.chain(own.flat_map(|identity| [&identity.key_file, &identity.cert_file])).cloned().collect()
    }
}

/// A certificate and its key from their files, which the settings name.
fn article(
    [cert_setting, key_setting]: [&'static str; 2],
    cert_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
    expiries: &mut Vec<Expiry>,
) -> Result<Article, Unusable> {
    let chain = certificates(cert_setting, cert_file)?;
    let key = private_key(key_setting, key_file)?;
    expiries.extend(of_chain(cert_setting, cert_file, &chain));
    let end_point = chain.first().and_then(|certificate| end_point(certificate));
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let what = format!("it does not go with the key of {key_setting}: {error}");
        Unusable::file(cert_setting, cert_file, what)
    })?;
    Ok(Article { key: Arc::new(key), end_point })
}
