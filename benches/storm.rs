//! Clients that connect, log in by SCRAM over TLS, run one query and leave, again and again: what `benches/logins.sh` measures
//! poolers with.
//!
//! `storm HOST:PORT USER PASSWORD DATABASE CLIENTS SECONDS [plain|tls]` prints what it has done and how long logins took.
//! `storm watch ...` is one client that stays and asks `SELECT 1` all the time: what it waits is what a storm costs others.
//! `storm hold ...` logs in all clients, has each run a query, says so, and keeps them until its standard input ends.
//!
//! It does as little as a client can: each salt's keys are derived once, so that the storm is not made of its own hashing; all
//! runs on one thread.

use bytes::BytesMut;
use pgvalet::auth::keys::{ClientKeys, KeyCache};
use pgvalet::auth::scram::{ChannelBinding, Nonce};
use pgvalet::auth::scram_client::ClientStart;
use pgvalet::config::secret::Password;
use pgvalet::protocol::frontend;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::error::Error;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What all clients have in common.
struct Plan {
    address: String,
    user: String,
    password: Password,
    database: String,
    tls: Option<TlsConnector>,
    keys: KeyCache,
    until: Instant,
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

fn main() -> Outcome<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_mode = arguments.first().is_some_and(|word| word == "watch" || word == "hold");
    let mode = if is_mode { arguments.remove(0) } else { String::new() };
    let [address, user, password, database, clients, seconds, kind] = &arguments[..] else {
        return Err("storm [watch|hold] HOST:PORT USER PASSWORD DATABASE CLIENTS SECONDS plain|tls".into());
    };
    let plan = Rc::new(Plan {
        address: address.clone(),
        user: user.clone(),
        password: Password::new(password.as_str())?,
        database: database.clone(),
        tls: (kind == "tls").then(connector).transpose()?,
        keys: KeyCache::new(NonZeroUsize::MIN),
        until: Instant::now() + Duration::from_secs_f64(seconds.parse()?),
    });
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut times, failed) = tokio::task::LocalSet::new().block_on(&runtime, async {
        if mode == "watch" {
            return (watch(&plan).await.unwrap_or_else(|error| panic!("{error}")), 0);
        }
        if mode == "hold" {
            let times = hold(&plan, clients.parse().unwrap_or(1)).await;
            return (times.unwrap_or_else(|error| panic!("{error}")), 0);
        }
        let clients: Vec<_> = (0..clients.parse().unwrap_or(1))
            .map(|_: u32| tokio::task::spawn_local(come_and_go(plan.clone())))
            .collect();
        let (mut all, mut failed) = (Vec::new(), 0);
        for client in clients {
            let (times, failures) = client.await.unwrap_or_default();
            all.extend(times);
            failed += failures;
        }
        (all, failed)
    });
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).or(times.last());
    let milliseconds = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!(
        "done={} failed={failed} seconds={:.3} p50={:.3} p99={:.3} max={:.3}",
        times.len(),
        began.elapsed().as_secs_f64(),
        milliseconds(at(0.5)),
        milliseconds(at(0.99)),
        milliseconds(times.last()),
    );
    Ok(())
}

/// One client of the storm: how long each of its visits took, and how many failed.
async fn come_and_go(plan: Rc<Plan>) -> (Vec<Duration>, u32) {
    let (mut times, mut failed) = (Vec::new(), 0);
    while Instant::now() < plan.until {
        let began = Instant::now();
        match visit(&plan).await {
            Ok(()) => times.push(began.elapsed()),
            Err(error) => {
                if failed == 0 {
                    eprintln!("storm: {error}");
                }
                failed += 1;
            }
        }
    }
    (times, failed)
}

async fn visit(plan: &Plan) -> Outcome<()> {
    let mut stream = log_in(plan).await?;
    query(&mut stream).await?;
    stream.write_all(&[b'X', 0, 0, 0, 4]).await?;
    Ok(())
}

/// A client that stays: how long each of its queries took.
async fn watch(plan: &Plan) -> Outcome<Vec<Duration>> {
    let mut stream = log_in(plan).await?;
    let mut times = Vec::new();
    while Instant::now() < plan.until {
        let began = Instant::now();
        query(&mut stream).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Clients that log in one after the other, and stay.
async fn hold(plan: &Plan, count: u32) -> Outcome<Vec<Duration>> {
    let (mut clients, mut times) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let began = Instant::now();
        let mut stream = log_in(plan).await?;
        query(&mut stream).await?;
        clients.push(stream);
        times.push(began.elapsed());
    }
    println!("holding");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    Ok(times)
}

async fn query(stream: &mut Box<dyn Stream>) -> Outcome<()> {
    stream.write_all(b"Q\0\0\0\x0dSELECT 1\0").await?;
    while message(stream).await?.0 != b'Z' {}
    Ok(())
}

async fn log_in(plan: &Plan) -> Outcome<Box<dyn Stream>> {
    let mut socket = TcpStream::connect(&plan.address).await?;
    socket.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match &plan.tls {
        None => Box::new(socket),
        Some(connector) => {
            socket.write_all(&frontend::ssl_request()).await?;
            if socket.read_u8().await? != b'S' {
                return Err("TLS was declined".into());
            }
            Box::new(connector.connect(ServerName::try_from("localhost")?, socket).await?)
        }
    };
    let mut out = BytesMut::new();
    let parameters = [("user", plan.user.as_str()), ("database", &plan.database)];
    frontend::startup(&mut out, parameters.into_iter());
    stream.write_all(&out).await?;
    let mut scram = None;
    let mut proved = None;
    loop {
        let (tag, body) = message(&mut stream).await?;
        if tag == b'Z' {
            return Ok(stream);
        }
        if tag == b'E' {
            return Err(String::from_utf8_lossy(&body).into());
        }
        let request = (tag == b'R').then(|| body.split_first_chunk::<4>()).flatten();
        let Some((&code, data)) = request else { continue };
        out.clear();
        match u32::from_be_bytes(code) {
            10 => {
                let mut entropy = [0; Nonce::ENTROPY];
                getrandom::fill(&mut entropy)?;
                // Without binding: pgbouncer has none, and all are to do the same.
                let (start, first) = ClientStart::begin(Nonce::new(entropy), ChannelBinding::None);
                scram = Some(start);
                frontend::sasl_initial(&mut out, "SCRAM-SHA-256", &first);
            }
            11 => {
                let challenged = scram.take().ok_or("no exchange")?.server_first(data)?;
                let keys: ClientKeys =
                    plan.keys.get_or_derive(&plan.password, challenged.salt(), challenged.iterations());
                let (waiting, last) = challenged.answer(&keys);
                proved = Some(waiting);
                frontend::sasl_response(&mut out, &last);
            }
            12 => proved.take().ok_or("no exchange")?.server_final(data)?,
            0 => {}
            code => return Err(format!("authentication request {code}").into()),
        }
        stream.write_all(&out).await?;
    }
}

async fn message(stream: &mut Box<dyn Stream>) -> Outcome<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await?;
    let [tag, length @ ..] = header;
    let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// TLS 1.3, whatever certificate, and every handshake a full one.
fn connector() -> Outcome<TlsConnector> {
    let provider = Arc::new(provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config).into())
}

fn provider() -> CryptoProvider {
    #[cfg(feature = "ring")]
    return rustls::crypto::ring::default_provider();
    #[cfg(not(feature = "ring"))]
    return rustls::crypto::aws_lc_rs::default_provider();
}

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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
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
