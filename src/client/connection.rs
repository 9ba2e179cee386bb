//! A client's connection before it is a session: what is read of it and written to it while it logs in.

use crate::alarm::timeout;
use crate::auth::transport::{Certificate, Tls, Transport};
use crate::client::context::Context;
use crate::client::login::Refusal;
use crate::config::{Config, names};
use crate::error::{Error, Kind};
use crate::net::stream::Address;
use crate::net::tls::accept::Shown;
use crate::net::{Buffer, Stream};
use crate::protocol::Header;
use crate::protocol::frame::HEADER;
use crate::protocol::startup::Startup;
use crate::routing::ADMIN_DATABASES;
use bytes::BytesMut;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest message during authentication (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub(super) const MAX_AUTH_MESSAGE: usize = 65_535;

/// A connection that is not a session yet.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) context: Rc<Context>,
    pub(super) stream: Stream,
    /// What was received and not yet dealt with.
    pub(super) buffer: Buffer,
    pub(super) held: BytesMut,
    /// What the TLS handshake has shown; `None` without TLS.
    pub(super) shown: Option<Box<Shown>>,
    /// Database and user, once the client has named them.
    pub(super) asked_for: Option<(String, String)>,
}

impl Connection {
    /// One that nobody has said anything on.
    pub(super) fn new(context: Rc<Context>, stream: Stream) -> Connection {
        let (buffer, held) = (Buffer::default(), BytesMut::new());
        Connection { context, stream, buffer, held, shown: None, asked_for: None }
    }

    /// Writes `bytes`, behind what was held back.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        self.stream.write_all(&held).await
    }

    /// How the client came here.
    pub(super) fn transport(&self, peer: &Address) -> Transport {
        let Address::Tcp(address) = peer else { return Transport::Unix };
        let certificate = |shown: &Shown| {
            shown.certificate.as_ref().map(|subject| Certificate {
                common_name: subject.common_name.clone(),
                distinguished_name: subject.distinguished_name.clone(),
            })
        };
        let tls = self.shown.as_ref().map(|shown| Tls { certificate: certificate(shown) });
        Transport::Tcp { address: address.ip(), tls }
    }

    /// The database that the client gets: the one that it asks for, unless the name it connects to stands for another.
    pub(super) fn database(&self, config: &Config, startup: &Startup) -> String {
        let asked = startup.database();
        let name = self.shown.as_ref().and_then(|shown| shown.server_name.as_deref());
        let other = name.and_then(|name| names::database(&config.general.client_tls.names, name));
        match other {
            Some(other) if !ADMIN_DATABASES.contains(&asked) => other,
            _ => asked.to_owned(),
        }
    }

    /// The operating system's user at the other end of a Unix socket.
    pub(super) fn peer_uid(&self) -> Option<u32> {
        self.stream.peer_uid()
    }

    /// Keeps `bytes` for the next write.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Receives more, with room for messages of up to `most` bytes.
    pub(super) async fn read_more(&mut self, most: usize) -> io::Result<()> {
        // Who says nothing takes no room.
        self.context.buffers.reclaim(&mut self.buffer);
        poll_fn(|cx| self.stream.poll_read_ready(cx)).await?;
        self.context.buffers.equip_for_secrets(&mut self.buffer, most);
        let space = self.buffer.space();
        let count = self.stream.read(space).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.filled(count);
        Ok(())
    }

    /// The body of the next message, which must be one of authentication; `expected` names it for the error.
    pub(super) async fn password_message(&mut self, expected: &str) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        loop {
            let violation = |text: &str| Refusal::Error(Error::new(Kind::ProtocolViolation, text));
            match Header::parse(self.buffer.bytes()) {
                Err(error) => return Err(violation(&error.to_string())),
                Ok(Some(header)) if header.tag != b'p' => {
                    return Err(violation(&format!(
                        "expected {expected} response, got message type {}",
                        header.tag
                    )));
                }
                Ok(Some(header)) if header.total() > MAX_AUTH_MESSAGE => {
                    return Err(violation("invalid message length"));
                }
                Ok(Some(header)) if self.buffer.len() >= header.total() => {
                    let body = Zeroizing::new(self.buffer.bytes()[HEADER..header.total()].to_vec());
                    self.buffer.wipe(header.total());
                    return Ok(body);
                }
                Ok(Some(header)) => self.read_more(header.total()).await?,
                Ok(None) => self.read_more(1024).await?,
            }
        }
    }

    /// Wipes what was received and not dealt with: it may be a part of a password.
    pub(super) fn forget(&mut self) {
        self.buffer.wipe(self.buffer.len());
    }

    /// Tells the client why, and closes in a way that lets it read that.
    pub(super) async fn last_words(&mut self, error: &Error) {
        let mut out = BytesMut::new();
        error.write(&mut out, "FATAL");
        let farewell = async {
            self.write(&out).await?;
            // Bytes that were not read would turn the close into a reset, which could overtake the message.
            let mut rest = [0; 1024];
            self.stream.try_read(&mut rest)
        };
        let _ = timeout(Duration::from_secs(1), farewell).await;
    }
}
