//! What stands between pgvalet and a server: one that listens only, and one that pretends to be the server.

#![allow(dead_code, reason = "each test binary uses only a part of this")]
#![allow(missing_docs, reason = "as in the rest of the harness")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::cluster::Cluster;
use crate::support::stream::Stream;
use crate::support::tls::{Dial, Identity, provider};

/// Passes everything on, and remembers how each connection began.
#[derive(Debug)]
pub struct Recorder {
    port: u16,
    shared: Arc<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    beginnings: Mutex<Vec<Vec<u8>>>,
    piece: AtomicUsize,
}

impl Recorder {
    pub fn in_front_of(cluster: &Cluster) -> Self {
        Self::start(cluster, None)
    }

    /// Answers the first connection's first eight bytes itself, with this, and closes it.
    pub fn that_first_answers(cluster: &Cluster, answer: &[u8]) -> Self {
        Self::start(cluster, Some(answer.to_vec()))
    }

    fn start(cluster: &Cluster, mut first_answer: Option<Vec<u8>>) -> Self {
        let (listener, port) = listen();
        let shared = Arc::new(Recorded::default());
        let (recorded, behind) = (Arc::clone(&shared), cluster.port());
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                if let Some(answer) = first_answer.take() {
                    let _ = client.read_exact(&mut [0; 8]).and_then(|()| client.write_all(&answer));
                    continue;
                }
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).expect("the server listens");
                let back = (server.try_clone().expect("a handle"), client.try_clone().expect("a handle"));
                let (there, here) = (Arc::clone(&recorded), Arc::clone(&recorded));
                std::thread::spawn(move || there.pass(client, server, true));
                std::thread::spawn(move || here.pass(back.0, back.1, false));
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first bytes of each connection that has sent any.
    pub fn beginnings(&self) -> Vec<Vec<u8>> {
        self.shared.beginnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on nothing longer goes through at once.
    pub fn deliver_in_pieces_of(&self, size: usize) {
        self.shared.piece.store(size, Ordering::SeqCst);
    }
}

impl Recorded {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, record: bool) {
        let _ = to.set_nodelay(true);
        let mut chunk = [0; 16 * 1024];
        let mut is_first = record;
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            if is_first {
                is_first = false;
                let beginning = chunk[..count.min(16)].to_vec();
                self.beginnings.lock().unwrap_or_else(PoisonError::into_inner).push(beginning);
            }
            let piece = match self.piece.load(Ordering::SeqCst) {
                0 => count,
                piece => piece,
            };
            if chunk[..count].chunks(piece).any(|piece| to.write_all(piece).is_err()) {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Ends TLS itself, with a certificate of its own, and speaks to the server by another TLS connection.
#[derive(Debug)]
pub struct Impostor {
    port: u16,
}

impl Impostor {
    pub fn in_front_of(cluster: &Cluster, identity: &Identity) -> Self {
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("an identity");
        let (config, behind) = (Arc::new(config), cluster.tcp());
        let (listener, port) = listen();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (config, behind) = (Arc::clone(&config), behind.clone());
                std::thread::spawn(move || {
                    // Ends with an error when either side has gone.
                    let _ = deceive(client, config, || Dial::default().connect(&behind));
                });
            }
        });
        Self { port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn deceive(
    mut client: TcpStream,
    config: Arc<ServerConfig>,
    server: impl FnOnce() -> io::Result<Stream>,
) -> io::Result<()> {
    let mut request = [0; 8];
    client.read_exact(&mut request)?;
    client.write_all(b"S")?;
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut client = StreamOwned::new(session, client);
    let Stream::Tls(mut server) = server()? else { unreachable!("it is TLS") };
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    client.sock.set_nonblocking(true)?;
    server.sock.set_nonblocking(true)?;
    loop {
        let moved = carry(&mut client, &mut server)? | carry(&mut server, &mut client)?;
        if !moved {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Carries what is there; an error at the end of the stream.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<bool> {
    let mut chunk = [0; 4096];
    match from.read(&mut chunk) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => to.write_all(&chunk[..count]).and_then(|()| to.flush()).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("the port is known").port();
    (listener, port)
}
