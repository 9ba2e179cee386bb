//! TLS with clients: what they are offered, and their handshake.

use crate::config::tls::{ClientTls, SslMode, cryptography_with, tickets};
use crate::net::socket::Socket;
use crate::net::tls::certificate::{Subject, end_point};
use crate::net::tls::current::Source;
use crate::net::tls::files::{Unusable, authorities, certificates, private_key};
use crate::net::tls::handshake::Early;
use crate::net::tls::{ALPN, TlsStream};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Connection, ServerConfig};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What clients are offered.
#[derive(Debug)]
pub struct Offer {
    /// Whether clients that do not take it are refused.
    pub is_required: bool,
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

/// What the handshake has shown, for a client's authentication.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Whom the client's certificate is made out to, by an authority that is trusted; `None` if it has shown none.
    pub certificate: Option<Subject>,
    /// The hash of our own certificate, for channel binding by `tls-server-end-point`; `None` if there can be none.
    pub end_point: Option<Vec<u8>>,
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
        let (socket, session) = acceptor.accept(Early::new(socket, early)).await?.into_inner();
        let certificate = match session.peer_certificates().and_then(<[_]>::first) {
            Some(der) => {
                let unreadable =
                    || io::Error::new(io::ErrorKind::InvalidData, "unreadable client certificate");
                Some(Subject::of(der).ok_or_else(unreadable)?)
            }
            None => None,
        };
        let named_protocol = session.alpn_protocol() == Some(ALPN);
        let shown = Shown { certificate, end_point: self.end_point.clone(), named_protocol };
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
        let chain = certificates("client_tls_cert_file", cert_file)?;
        let key = private_key("client_tls_key_file", key_file)?;
        let end_point = chain.first().and_then(|certificate| end_point(certificate));

        let provider = Arc::new(cryptography_with(&self.ciphers, &self.tls13_ciphers));
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.protocols.supported())
            .map_err(|error| Unusable::new("client_tls_protocols", error.to_string()))?;
        let builder = match &self.ca_file {
            Some(file) => {
                let roots = Arc::new(authorities("client_tls_ca_file", file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = if self.sslmode >= SslMode::VerifyCa {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                let verifier =
                    verifier.build().map_err(|error| Unusable::file("client_tls_ca_file", file, error))?;
                builder.with_client_cert_verifier(verifier)
            }
            None if self.sslmode >= SslMode::VerifyCa => return Err(lacking("client_tls_ca_file")),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let what = format!("it does not go with the key of client_tls_key_file: {error}");
            Unusable::file("client_tls_cert_file", cert_file, what)
        })?;
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
        Ok(Some(Offer { is_required, config: Arc::new(config), end_point }))
    }

    fn files(&self) -> Vec<PathBuf> {
        [&self.key_file, &self.cert_file, &self.ca_file].into_iter().flatten().cloned().collect()
    }
}
