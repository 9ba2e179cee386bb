//! One byte stream to a peer: a plain socket, or TLS on one.
//!
//! What is said here of reading and writing holds for both, so that the relay need not know which it has: a read is ready
//! when bytes for the caller are there, wherever they are; what a write has taken is with the kernel.

use crate::net::socket::Socket;
use crate::net::tls::TlsStream;
use crate::net::tls::certificate::end_point;
use crate::net::tls::cipher::Cipher;
use crate::net::{Buffer, Buffers};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

pub use crate::net::socket::{Address, Detached};

/// A connected stream, registered with the runtime of one worker.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(Socket),
    /// Encrypted. Boxed, because it is many times as large.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Reads into `into`; `Ok(0)` is the end of the stream.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_read(cx, into),
            Stream::Tls(stream) => stream.poll_read(cx, into),
        }
    }

    /// Reads into the free space of `buffer`, which is given at least `size` bytes when there is something to read; returns
    /// how many bytes came. `Ok(0)` is the end of the stream, if the buffer had space.
    #[inline]
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        buffers: &Buffers,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_fill(cx, buffer, buffers, size),
            Stream::Tls(stream) => {
                buffers.equip(buffer, size);
                let count = ready!(stream.poll_read(cx, buffer.space()))?;
                buffer.filled(count);
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Writes some of `from`. After `Pending`, the next write has to begin with the same bytes: a part of them may be on
    /// its way.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_write(cx, from),
            Stream::Tls(stream) => stream.poll_write(cx, from),
        }
    }

    /// Whether a read could return something; makes no system call.
    #[inline]
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => socket.poll_read_ready(cx),
            Stream::Tls(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Writes what the kernel takes at once, for last words before a close.
    pub fn try_write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_write(from),
            Stream::Tls(stream) => stream.try_write(from),
        }
    }

    /// Reads what is there at once; `WouldBlock` if nothing is. A worker knows of what came since it last waited only if
    /// the stream is off its runtime.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.try_read(into),
            Stream::Tls(stream) => stream.try_read(into),
        }
    }

    /// Writes all of `from`.
    ///
    /// # Errors
    /// The socket's; `WriteZero` if it takes nothing.
    pub async fn write_all(&mut self, mut from: &[u8]) -> io::Result<()> {
        while !from.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, from)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            from = &from[written..];
        }
        Ok(())
    }

    /// Reads some bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// The socket's.
    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, into)).await
    }

    /// Takes the stream off its worker's runtime; any thread may do it.
    ///
    /// # Errors
    /// The runtime's.
    pub fn detach(&mut self) -> io::Result<()> {
        self.socket_mut().detach()
    }

    /// Registers a detached stream with the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime's.
    pub fn attach(&mut self) -> io::Result<()> {
        self.socket_mut().attach()
    }

    /// The operating system's user at the other end of a Unix socket (`SO_PEERCRED`).
    #[must_use]
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Stream::Plain(socket) => socket.peer_uid(),
            Stream::Tls(_) => None,
        }
    }

    /// The address of the peer of a server connection.
    #[must_use]
    pub fn peer(&self) -> Option<Address> {
        match self {
            Stream::Plain(socket) => socket.peer(),
            Stream::Tls(stream) => stream.socket().peer(),
        }
    }

    /// The address of this end.
    #[must_use]
    pub fn local(&self) -> Option<Address> {
        self.socket().local()
    }

    /// The number of the descriptor, for those who look; -1 if there is none.
    #[must_use]
    pub fn fd(&self) -> i32 {
        self.socket().fd()
    }

    /// What it is encrypted with.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        match self {
            Stream::Plain(_) => Cipher::default(),
            Stream::Tls(stream) => Cipher::of(stream.session()),
        }
    }

    fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.socket(),
        }
    }

    /// Takes a plain socket out, to put TLS on it. What stays is closed.
    pub fn take_plain(&mut self) -> Socket {
        match self {
            Stream::Plain(socket) => std::mem::replace(socket, Socket::CLOSED),
            Stream::Tls(_) => Socket::CLOSED,
        }
    }

    /// With TLS to a server: the hash of its certificate, for channel binding by `tls-server-end-point`.
    #[must_use]
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => end_point(stream.session().peer_certificates()?.first()?),
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.socket_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_costs_a_plain_stream_no_memory() {
        assert_eq!(size_of::<Stream>(), size_of::<Socket>());
    }
}
