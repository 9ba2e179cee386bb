//! One document from an address, by HTTP.
//!
//! Owns the request and its bounds: of time, of size, and of who may answer. Redirects are not followed: the address comes from
//! the configuration, or from a document that the configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::alarm::timeout;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::tls::cryptography;

/// How long it may take altogether.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest document.
const MOST: usize = 1 << 20;

/// Gets the document at `url`; certificates there have to come from `ca_file`, or from the authorities of the operating
/// system. It reads files, so it belongs on a thread that may block.
///
/// # Errors
/// What went wrong, as text.
pub(super) async fn get(url: &str, ca_file: Option<&Path>) -> Result<Bytes, String> {
    let got = timeout(LIMIT, attempt(url, ca_file)).await;
    got.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
        .map_err(|error| format!("{url}: {error}"))
}

async fn attempt(url: &str, ca_file: Option<&Path>) -> Result<Bytes, String> {
    let uri: Uri = url.parse().map_err(|error| format!("it is no address: {error}"))?;
    let authority = uri.authority().ok_or("it is no address: there is no host")?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("it must begin with https://".into()),
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = authority.host();
    // Addresses of version 6 stand in brackets.
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let socket = TcpStream::connect((name.as_str(), port)).await.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("pgvalet/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    if !is_tls {
        return exchange(socket, request).await;
    }
    let connector = TlsConnector::from(Arc::new(trusting(ca_file)?));
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let stream = connector.connect(name, socket).await.map_err(|error| error.to_string())?;
    exchange(stream, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Bytes, String> {
    let (mut sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when its sender is dropped.
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(format!(
                    "the answer is {status}, and redirects are not followed; name the final address"
                ));
            }
            status => return Err(format!("the answer is {status}")),
        }
        let body = Limited::new(response.into_body(), MOST).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// TLS that trusts these authorities.
fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let certificates = match ca_file {
        Some(file) => rustls_pki_types::CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|error| format!("cannot read the authorities in {}: {error}", file.display()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(
            "there is no authority to trust; install ca-certificates, or set validator.ca_file".into()
        );
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(cryptography()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
