//! TLS with servers: what is demanded of them, how it is negotiated, and whom their certificates must name.

use crate::config::tls::{Authorities, Negotiation, ServerTls, SslMode, cryptography_with};
use crate::net::socket::Socket;
use crate::net::tls::certificate::Subject;
use crate::net::tls::current::Source;
use crate::net::tls::expiry::{Expiry, of_authorities, of_chain, of_revocations};
use crate::net::tls::files::{Unusable, certificates, private_key, revocations};
use crate::net::tls::handshake::{Early, explained};
use crate::net::tls::{ALPN, TlsStream};
use crate::protocol::frontend;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    Resumption, VerifierBuilderError, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor,
    verify_server_name,
};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, Connection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Why a server without direct TLS is refused.
const NO_DIRECT_TLS: &str = "the server has no direct TLS, which came with PostgreSQL 17; let server_tls_sslnegotiation be \"postgres\"";

/// What is demanded of servers.
#[derive(Debug)]
pub struct Demand {
    /// What a server has to prove; never [`SslMode::Disable`].
    pub sslmode: SslMode,
    /// When what it is made of expires.
    pub expiries: Vec<Expiry>,
    negotiation: Negotiation,
    config: Arc<ClientConfig>,
}

/// What became of a demand.
#[derive(Debug)]
pub enum Outcome {
    /// The connection is encrypted.
    Tls(Box<TlsStream>),
    /// The server has no TLS; the connection is as it was.
    Declined(Socket),
}

impl Demand {
    /// Begins TLS with a server that goes by `name`.
    ///
    /// # Errors
    /// The socket's; `InvalidData` for what is wrong with the server or its certificate.
    pub async fn secure(&self, mut socket: Socket, name: ServerName<'static>) -> io::Result<Outcome> {
        if !self.is_direct() && !ask(&mut socket).await? {
            return Ok(Outcome::Declined(socket));
        }
        let connector = TlsConnector::from(self.config.clone());
        let shaken = connector.connect(name, Early::new(socket, Vec::new())).await;
        let (socket, session) = match shaken {
            Ok(stream) => stream.into_inner(),
            // What a server without direct TLS does with a ClientHello.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.is_direct() => {
                return Err(invalid(NO_DIRECT_TLS));
            }
            Err(error) => return Err(explained(error)),
        };
        if self.is_direct() && session.alpn_protocol() != Some(ALPN) {
            return Err(invalid(NO_DIRECT_TLS));
        }
        TlsStream::new(socket.into_socket(), Connection::Client(session))
            .map(|stream| Outcome::Tls(Box::new(stream)))
    }

    /// The name by which a host has to be known to its certificate.
    ///
    /// # Errors
    /// The host has no name that a certificate could have, but has to have one.
    pub fn name(&self, host: &str) -> io::Result<ServerName<'static>> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.sslmode < SslMode::VerifyFull => Ok(IpAddr::from(Ipv4Addr::UNSPECIFIED).into()),
            Err(_) => Err(invalid(&format!("\"{host}\" is no name that a certificate could have"))),
        }
    }

    fn is_direct(&self) -> bool {
        self.negotiation == Negotiation::Direct
    }
}

/// Asks whether the server has TLS. Just its one byte is read: what follows it must come encrypted.
async fn ask(socket: &mut Socket) -> io::Result<bool> {
    let request = frontend::ssl_request();
    let mut sent = 0;
    while sent < request.len() {
        sent += poll_fn(|cx| socket.poll_write(cx, &request[sent..])).await?;
    }
    let mut answer = [0];
    match poll_fn(|cx| socket.poll_read(cx, &mut answer)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => match answer[0] {
            b'S' => Ok(true),
            b'N' => Ok(false),
            // Its text may have been put there by anybody.
            b'E' => Err(io::Error::other("the server answered the request for TLS with an error")),
            _ => Err(invalid("the server answered the request for TLS with something else than yes or no")),
        },
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Source for ServerTls {
    type Made = Demand;

    fn make(&self) -> Result<Option<Demand>, Unusable> {
        if self.sslmode == SslMode::Disable {
            return Ok(None);
        }
        let provider = Arc::new(cryptography_with(&self.ciphers, &self.tls13_ciphers));
        let authorities = match &self.authorities {
            Some(wanted) if self.sslmode >= SslMode::VerifyCa => load(wanted)?,
            _ => Vec::new(),
        };
        let mut expiries = Vec::new();
        if let Some(Authorities::File(file)) = &self.authorities {
            expiries.extend(of_authorities("server_tls_ca_file", file, &authorities));
        }
        let roots = RootCertStore::empty();
        let verifier =
            Verifier { mode: self.sslmode, authorities, roots, revoked: None, provider: provider.clone() };
        let mut verifier = verifier.with_roots()?;
        if let Some(file) = &self.crl_file {
            let lists = revocations("server_tls_crl_file", file)?;
            expiries.extend(of_revocations("server_tls_crl_file", file, &lists));
            verifier = verifier
                .with_revocations(lists)
                .map_err(|error| Unusable::file("server_tls_crl_file", file, error))?;
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.protocols.supported())
            .map_err(|error| Unusable::new("server_tls_protocols", error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.cert_file, &self.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let chain = certificates("server_tls_cert_file", cert_file)?;
                expiries.extend(of_chain("server_tls_cert_file", cert_file, &chain));
                let key = private_key("server_tls_key_file", key_file)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let what = format!("it does not go with the key of server_tls_key_file: {error}");
                    Unusable::file("server_tls_cert_file", cert_file, what)
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL resumes no sessions.
        config.resumption = Resumption::disabled();
        Ok(Some(Demand {
            sslmode: self.sslmode,
            expiries,
            negotiation: self.negotiation,
            config: Arc::new(config),
        }))
    }

    fn files(&self) -> Vec<PathBuf> {
        let authorities = match &self.authorities {
            Some(Authorities::File(path)) => Some(path.clone()),
            _ => None,
        };
        let own = [&self.key_file, &self.cert_file, &self.crl_file].into_iter().flatten().cloned();
        own.chain(authorities).collect()
    }
}

fn load(wanted: &Authorities) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    match wanted {
        Authorities::File(path) => certificates("server_tls_ca_file", path),
        Authorities::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let what =
                    "this system has no list of authorities; install it (ca-certificates), or name a file";
                return Err(Unusable::new("server_tls_ca_file", what));
            }
            Ok(found.certs)
        }
    }
}

/// Looks at servers' certificates as far as the mode asks for it, the way libpq does.
#[derive(Debug)]
struct Verifier {
    mode: SslMode,
    /// Whose signature counts; also certificates of servers themselves.
    authorities: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    /// Looks at what they have revoked too.
    revoked: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn with_roots(mut self) -> Result<Verifier, Unusable> {
        // A list of many may have some that are of no use here.
        let (usable, _) = self.roots.add_parsable_certificates(self.authorities.iter().cloned());
        if usable == 0 && !self.authorities.is_empty() {
            return Err(Unusable::new(
                "server_tls_ca_file",
                "no certificate in it can be used as an authority",
            ));
        }
        Ok(self)
    }

    /// With lists of what is revoked. As PostgreSQL and libpq: every certificate of a chain needs a list that says nothing of it
    /// and is in force.
    fn with_revocations(
        mut self,
        lists: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Verifier, VerifierBuilderError> {
        let roots = Arc::new(self.roots.clone());
        let builder = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone());
        self.revoked = Some(builder.with_crls(lists).enforce_revocation_expiration().build()?);
        Ok(self)
    }

    /// Whether the chain leads to an authority.
    fn check_chain(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(revoked) = &self.revoked else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, chain, now, algorithms);
        };
        match revoked.verify_server_cert(certificate, chain, name, &[], now) {
            // What it looks at last, and what is judged elsewhere.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn check_authority(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        match self.check_chain(certificate, parsed, chain, name, now) {
            // One that signs itself and is trusted by name needs no authority; webpki does not know such.
            Err(Error::InvalidCertificate(error))
                if !is_about_time_or_revocation(&error)
                    && self.authorities.iter().any(|known| known == certificate) =>
            {
                match Subject::of(certificate).is_some_and(|subject| subject.is_valid_at(now.as_secs())) {
                    true => Ok(()),
                    false => Err(CertificateError::Expired.into()),
                }
            }
            outcome => outcome,
        }
    }
}

/// Whether no trust in a certificate helps against what is wrong with it.
fn is_about_time_or_revocation(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::Revoked
            | CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. }
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.mode >= SslMode::VerifyCa {
            let parsed = ParsedCertificate::try_from(certificate)?;
            self.check_authority(certificate, &parsed, chain, name, now)?;
            if self.mode == SslMode::VerifyFull
                && let Err(error) = verify_server_name(&parsed, name)
                && !is_common_name(certificate, name)
            {
                return Err(error);
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate without alternative names for hosts has the host as its common name, as libpq allows.
fn is_common_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Some(subject) = Subject::of(certificate).filter(|subject| !subject.names_hosts) else { return false };
    subject.common_name.is_some_and(|pattern| matches(&pattern, &name.to_str()))
}

/// Whether a name of a certificate, which may begin with `*.`, means this host.
fn matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    if pattern == host {
        return true;
    }
    let Some(domain) = pattern.strip_prefix("*.").filter(|domain| domain.contains('.')) else { return false };
    let Some((label, rest)) = host.split_once('.') else { return false };
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    !is_address && !label.is_empty() && rest == domain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_stands_for_one_host_or_one_level_of_a_domain() {
        for (pattern, host, expected) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "db", false),
            ("d*.example.com", "db.example.com", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("*.0.0.1", "127.0.0.1", false),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
    }
}
