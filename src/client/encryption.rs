//! What comes before the startup message: requests for encryption, the TLS handshake, cancel requests.
//!
//! Invariant: nothing that came in the clear counts as having come encrypted.

use crate::alarm::timeout;
use crate::client::connection::Connection;
use crate::client::context::{CancelRequest, Context, Messenger};
use crate::client::login::{Refusal, too_many_clients};
use crate::client::peers::{Way, way};
use crate::error::{Error, Kind};
use crate::net::Stream;
use crate::net::stream::Address;
use crate::net::tls::accept::Offer;
use crate::protocol::startup::{MAX_STARTUP, Packet, Startup, StartupError, packet_length};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a cancel request may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// First byte of a TLS handshake. As the length of a packet it would mean 369 million bytes.
const CLIENT_HELLO: u8 = 0x16;

/// What a client sends before it has logged in.
enum First {
    /// A whole packet.
    Packet(Packet),
    /// The beginning of a TLS handshake.
    ClientHello,
}

/// Answers requests for encryption and cancel requests; ends with the one startup message.
pub(super) async fn first_packets(
    context: &Rc<Context>,
    connection: &mut Connection,
    peer: &Address,
) -> Result<Startup, Refusal> {
    // A Unix socket has nobody to hide from, and libpq does not ask there.
    let offer = match peer {
        Address::Tcp(_) => context.process.client_tls.get(),
        Address::Unix(_) => None,
    };
    let (mut asked_tls, mut asked_gss) = (false, false);
    loop {
        match first(connection).await? {
            First::ClientHello => {
                let Some(offer) = offer.as_ref().filter(|_| !asked_tls && !asked_gss) else {
                    // No text would be understood.
                    return Err(Refusal::Done);
                };
                asked_tls = true;
                let Some(_leave) = context.process.door.handshake() else { return Err(Refusal::Done) };
                encrypt(connection, offer).await?;
                if !connection.shown.as_ref().is_some_and(|shown| shown.named_protocol) {
                    let text = "the client did not name its protocol (ALPN), which direct TLS demands";
                    return Err(Refusal::Tls(std::io::Error::other(text)));
                }
            }
            First::Packet(Packet::SslRequest) if !asked_tls => {
                asked_tls = true;
                match &offer {
                    Some(offer) => {
                        if !connection.buffer.is_empty() {
                            return Err(injected());
                        }
                        let Some(_leave) = context.process.door.handshake() else {
                            return Err(too_many_clients().into());
                        };
                        connection.write(b"S").await?;
                        encrypt(connection, offer).await?;
                    }
                    None => connection.write(b"N").await?,
                }
            }
            First::Packet(Packet::GssEncRequest) if !asked_gss && connection.shown.is_none() => {
                asked_gss = true;
                connection.write(b"N").await?;
            }
            First::Packet(Packet::SslRequest | Packet::GssEncRequest) => {
                return Err(Error::new(Kind::ProtocolViolation, "encryption was requested twice").into());
            }
            First::Packet(Packet::Cancel { pid, secret }) => {
                // The client sees the end of the connection when the request has been dealt with, as with PostgreSQL.
                cancel(context, peer, pid, secret).await;
                return Err(Refusal::Done);
            }
            First::Packet(Packet::Startup(startup)) => {
                if connection.shown.is_none() && offer.is_some_and(|offer| offer.is_required) {
                    return Err(Error::new(
                        Kind::InvalidAuthorization,
                        "connections without TLS are refused",
                    )
                    .hint("Connect with sslmode=require, or let client_tls_sslmode be \"prefer\".")
                    .into());
                }
                return Ok(startup);
            }
        }
    }
}

/// Has a cancel request dealt with, here or by the peer whose client it means.
async fn cancel(context: &Rc<Context>, from: &Address, pid: i32, secret: Vec<u8>) {
    let config = context.config();
    let outcome = match way(&config, pid, secret) {
        Way::Here(secret) => {
            let (done, finished) = oneshot::channel();
            context.route_cancel(CancelRequest { pid, place: pid, secret, done, from: Messenger::Client });
            let _ = timeout(CANCEL_LIMIT, finished).await;
            return;
        }
        Way::Nowhere(reason) => Err(reason.to_owned()),
        Way::Peer(id, secret) => match config.peers.get(&id) {
            Some(peer) => {
                let passed = context.process.peers.pass(&config, id, peer, pid, &secret).await;
                passed.map_err(|error| format!("peer {id} could not be told: {error}"))
            }
            None => return,
        },
    };
    if let Err(reason) = outcome
        && config.general.log.pooler_errors
    {
        tracing::warn!(peer = %from, reason, "a cancel request came to nothing");
    }
}

/// The handshake: from here on the connection is encrypted.
async fn encrypt(connection: &mut Connection, offer: &Offer) -> Result<(), Refusal> {
    let early = connection.buffer.bytes().to_vec();
    connection.buffer.advance(early.len());
    let socket = connection.stream.take_plain();
    let (stream, shown) = offer.accept(socket, early).await.map_err(Refusal::Tls)?;
    connection.stream = Stream::Tls(Box::new(stream));
    connection.shown = Some(Box::new(shown));
    Ok(())
}

/// What a client is told whose SSLRequest had something behind it; PostgreSQL's words.
fn injected() -> Refusal {
    let detail =
        "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.";
    let error = Error::new(Kind::ProtocolViolation, "received unencrypted data after SSL request");
    Refusal::Error(Error { detail: Some(detail.into()), ..error })
}

async fn first(connection: &mut Connection) -> Result<First, Refusal> {
    let violation = |error: StartupError| {
        let kind = match error {
            StartupError::Version { .. } => Kind::Unsupported,
            StartupError::NoUser => Kind::InvalidAuthorization,
            _ => Kind::ProtocolViolation,
        };
        Refusal::Error(Error::new(kind, error.to_string()))
    };
    loop {
        let received = connection.buffer.bytes();
        if received.first() == Some(&CLIENT_HELLO) {
            return Ok(First::ClientHello);
        }
        if let Some(length) = packet_length(received).map_err(violation)?
            && received.len() >= length
        {
            let packet = Packet::parse(&received[..length]).map_err(violation)?;
            connection.buffer.advance(length);
            return Ok(First::Packet(packet));
        }
        connection.read_more(MAX_STARTUP).await?;
    }
}
