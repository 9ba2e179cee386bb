//! One byte stream to a peer, over TCP or a Unix socket.
//!
//! The relay reads with `poll_read`, which clears tokio's readiness after a short read and so spares the call that
//! would only return `EAGAIN`. TLS and other I/O engines become further variants.

use std::future::poll_fn;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream, registered with the runtime of one worker.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// On its way to another worker.
    Away(Detached),
    /// Given up.
    Closed,
}

/// A stream between two runtimes.
#[derive(Debug)]
pub enum Detached {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Where the other end of a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket; for a client's end it is our listening socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// The IP address, where there is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }
}

impl Stream {
    /// Reads into `into`; `Ok(0)` is the end of the stream.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::Away(_) | Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes some of `from`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, from),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, from),
            Stream::Away(_) | Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Whether a read could return something; makes no system call.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
            Stream::Away(_) | Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what the kernel takes at once, for last words before a close.
    pub fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_write(from),
            Stream::Unix(stream) => stream.try_write(from),
            Stream::Away(_) | Stream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there at once; `WouldBlock` if nothing is. A worker knows of what came since it last waited only if
    /// the stream is off its runtime.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_read(into),
            Stream::Unix(stream) => stream.try_read(into),
            Stream::Away(Detached::Tcp(stream)) => (&*stream).read(into),
            Stream::Away(Detached::Unix(stream)) => (&*stream).read(into),
            Stream::Closed => Err(io::ErrorKind::NotConnected.into()),
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
        *self = match std::mem::replace(self, Stream::Closed) {
            Stream::Tcp(stream) => Stream::Away(Detached::Tcp(stream.into_std()?)),
            Stream::Unix(stream) => Stream::Away(Detached::Unix(stream.into_std()?)),
            other => other,
        };
        Ok(())
    }

    /// Registers a detached stream with the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime's.
    pub fn attach(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Stream::Closed) {
            Stream::Away(detached) => detached.attach()?,
            other => other,
        };
        Ok(())
    }

    /// The address of the peer of a server connection.
    #[must_use]
    pub fn peer(&self) -> Option<Address> {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().ok().map(Address::Tcp),
            Stream::Unix(stream) => {
                let peer = stream.peer_addr().ok()?;
                peer.as_pathname().map(|path| Address::Unix(path.to_owned()))
            }
            Stream::Away(_) | Stream::Closed => None,
        }
    }
}

impl Detached {
    /// Registers the stream with the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime's, for instance when the process has no descriptor to spare.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Detached::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Stream::Tcp)
            }
            Detached::Unix(stream) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Stream::Unix)
            }
        }
    }
}
