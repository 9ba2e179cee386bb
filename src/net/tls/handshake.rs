//! A socket as tokio-rustls wants it for a handshake, with the bytes that were read before it began; and what went wrong in one.

use crate::net::socket::Socket;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket, and what comes before anything that it says.
#[derive(Debug)]
pub(super) struct Early {
    socket: Socket,
    bytes: Vec<u8>,
    read: usize,
}

impl Early {
    pub(super) fn new(socket: Socket, bytes: Vec<u8>) -> Early {
        Early { socket, bytes, read: 0 }
    }

    /// The socket. A handshake that has succeeded has read everything that came before.
    pub(super) fn into_socket(self) -> Socket {
        debug_assert_eq!(self.read, self.bytes.len());
        self.socket
    }
}

impl AsyncRead for Early {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let early = &this.bytes[this.read..];
        if !early.is_empty() {
            let count = early.len().min(into.remaining());
            into.put_slice(&early[..count]);
            this.read += count;
            return Poll::Ready(Ok(()));
        }
        let count = std::task::ready!(this.socket.poll_read(cx, into.initialize_unfilled()))?;
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().socket.poll_write(cx, from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of a connection is the end of its socket.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What went wrong in a handshake, with what would help where that is not plain.
pub(super) fn explained(error: io::Error) -> io::Error {
    let text = error.to_string();
    let hint = if text.contains("UnsupportedCertVersion") {
        "a certificate of the peer's is of X.509 version 1, which names no purpose and is not taken; issue it again as version 3 \
         (with openssl x509 -req: add -extfile)"
    } else if text.contains("UnknownRevocationStatus") {
        "the file of revoked certificates has no list of the authority that signed a certificate of the peer's; add it"
    } else if text.contains("ExpiredRevocationList") || text.contains("certificate revocation list expired") {
        "the list of revoked certificates has expired, so no certificate of its authority counts; replace it by the newest one"
    } else {
        return error;
    };
    io::Error::new(error.kind(), format!("{hint}: {text}"))
}
