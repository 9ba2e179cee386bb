//! Certificates made on the spot, and a raw TLS client.
//!
//! The client is rustls', with whatever versions, ALPN and certificate a test wants; [`super::wire::Client`] speaks through it.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::stream::Stream;
use super::{DEADLINE, Endpoint, frontend};

/// A 2048-bit RSA key, which takes too long to make anew.
const RSA_KEY: &str = include_str!("rsa_key.pem");

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub struct Wanted {
    common_name: String,
    names: Vec<SanType>,
    expired: bool,
    rsa: bool,
    serial: Option<u64>,
}

impl Wanted {
    /// A certificate of this common name, without alternative names.
    pub fn new(common_name: &str) -> Self {
        Self { common_name: common_name.into(), names: Vec::new(), expired: false, rsa: false, serial: None }
    }

    /// One for servers on this machine: `localhost` and 127.0.0.1.
    pub fn local() -> Self {
        Self::new("localhost").dns("localhost").ip("127.0.0.1")
    }

    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(SanType::DnsName(name.try_into().expect("a name in ASCII")));
        self
    }

    pub fn ip(mut self, address: &str) -> Self {
        self.names.push(SanType::IpAddress(address.parse().expect("an address")));
        self
    }

    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }

    /// With an RSA key; else it is ECDSA on P-256.
    pub fn rsa(mut self) -> Self {
        self.rsa = true;
        self
    }

    /// With a number by which it can be revoked.
    pub fn serial(mut self, number: u64) -> Self {
        self.serial = Some(number);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.serial_number = self.serial.map(SerialNumber::from);
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, self.common_name.clone());
        params.distinguished_name = name;
        params.subject_alt_names.clone_from(&self.names);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if self.expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        params
    }

    fn key(&self) -> KeyPair {
        let key = if self.rsa { KeyPair::from_pem(RSA_KEY) } else { KeyPair::generate() };
        key.expect("a key")
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let wanted = Wanted::new(name);
        let mut params = wanted.params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages.clear();
        let key = wanted.key();
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate that signs itself, as an authority's does; who trusts it trusts this very one.
    pub fn self_signed(wanted: &Wanted) -> Identity {
        let mut params = wanted.params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = wanted.key();
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A list of revoked certificates, which is in force until the year `until`.
    pub fn revoke(&self, serials: &[u64], until: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    pub fn issue(&self, wanted: &Wanted) -> Identity {
        let key = wanted.key();
        let certificate = wanted.params().signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A directory of PEM files.
#[derive(Debug)]
pub struct Files {
    home: tempfile::TempDir,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            home: tempfile::Builder::new().prefix("pgvalet-tls-").tempdir().expect("a temporary directory"),
        }
    }
}

impl Files {
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file that only its owner can read, in one step for whoever looks at it.
    pub fn write(&self, name: &str, text: &str) -> String {
        let (fresh, path) = (self.path(&format!("{name}.new")), self.path(name));
        fs::write(&fresh, text).expect("the file is writable");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).expect("the mode can be changed");
        fs::rename(&fresh, &path).expect("the file can be renamed");
        path.display().to_string()
    }

    /// Writes `<name>.crt` and `<name>.key`.
    pub fn identity(&self, name: &str, identity: &Identity) -> (String, String) {
        let certificate = self.write(&format!("{name}.crt"), &identity.certificate);
        (certificate, self.write(&format!("{name}.key"), &identity.key))
    }

    pub fn directory(&self) -> &Path {
        self.home.path()
    }
}

/// How a raw client makes its TLS connection.
#[derive(Debug, Clone)]
pub struct Dial {
    pub versions: Vec<&'static rustls::SupportedProtocolVersion>,
    pub alpn: Vec<Vec<u8>>,
    pub identity: Option<Identity>,
    /// TLS from the first byte, or after an SSLRequest.
    pub direct: bool,
}

impl Default for Dial {
    fn default() -> Self {
        Self { versions: rustls::ALL_VERSIONS.to_vec(), alpn: Vec::new(), identity: None, direct: false }
    }
}

impl Dial {
    pub fn version(mut self, version: &'static rustls::SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub fn alpn(mut self, name: &str) -> Self {
        self.alpn = vec![name.as_bytes().to_vec()];
        self
    }

    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    pub fn identity(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// What sessions of it have in common: a second connection resumes the first.
    pub fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll(provider)));
        let mut config = match &self.identity {
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("an identity")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        Arc::new(config)
    }

    pub fn connect(&self, endpoint: &Endpoint) -> io::Result<Stream> {
        self.connect_with(endpoint, self.config())
    }

    /// Connects and finishes the handshake.
    pub fn connect_with(&self, endpoint: &Endpoint, config: Arc<ClientConfig>) -> io::Result<Stream> {
        let Endpoint::Tcp(address) = endpoint else { panic!("TLS goes over TCP") };
        let mut socket = TcpStream::connect_timeout(address, DEADLINE)?;
        if !self.direct {
            use io::{Read, Write};
            socket.write_all(&frontend::ssl_request())?;
            let mut answer = [0];
            socket.read_exact(&mut answer)?;
            assert_eq!(answer, *b"S", "the answer to SSLRequest");
        }
        let Stream::Tcp(socket) = Stream::tcp(socket)? else { unreachable!("it is TCP") };
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// The cryptography of the tests themselves.
pub fn provider() -> CryptoProvider {
    #[cfg(feature = "ring")]
    return rustls::crypto::ring::default_provider();
    #[cfg(not(feature = "ring"))]
    return rustls::crypto::aws_lc_rs::default_provider();
}

/// Takes any certificate: what pgvalet shows is checked by psql, which does it as people do.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
