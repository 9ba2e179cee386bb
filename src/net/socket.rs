//! One socket to a peer: TCP or Unix, with a worker or between two.
//!
//! Owns what the kernel offers and nothing on top of it; `stream` adds TLS. It is read with `poll_read`, which clears
//! tokio's readiness after a short read and so spares the call that would only return `EAGAIN`.

use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket, registered with the runtime of one worker.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// On its way to another worker.
    Away(Detached),
    /// Given up.
    Closed,
}

/// A socket between two runtimes.
#[derive(Debug)]
pub enum Detached {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Where the other end of a connection is.
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

impl Socket {
    /// Reads into `into`; `Ok(0)` is the end of the stream.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Socket::Away(_) | Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes some of `from`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, from),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, from),
            Socket::Away(_) | Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Whether a read could return something; makes no system call.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_read_ready(cx),
            Socket::Unix(stream) => stream.poll_read_ready(cx),
            Socket::Away(_) | Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what the kernel takes at once, for last words before a close.
    pub fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write(from),
            Socket::Unix(stream) => stream.try_write(from),
            Socket::Away(_) | Socket::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there at once; `WouldBlock` if nothing is. A worker knows of what came since it last waited only if
    /// the socket is off its runtime.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_read(into),
            Socket::Unix(stream) => stream.try_read(into),
            Socket::Away(Detached::Tcp(stream)) => (&*stream).read(into),
            Socket::Away(Detached::Unix(stream)) => (&*stream).read(into),
            Socket::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Writes some of `from`, piece after piece.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            Socket::Away(_) | Socket::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes some of what the kernel takes at once of `from`, piece after piece.
    pub fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write_vectored(from),
            Socket::Unix(stream) => stream.try_write_vectored(from),
            Socket::Away(_) | Socket::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Takes the socket off its worker's runtime; any thread may do it.
    ///
    /// # Errors
    /// The runtime's.
    pub fn detach(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Socket::Closed) {
            Socket::Tcp(stream) => Socket::Away(Detached::Tcp(stream.into_std()?)),
            Socket::Unix(stream) => Socket::Away(Detached::Unix(stream.into_std()?)),
            other => other,
        };
        Ok(())
    }

    /// Registers a detached socket with the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime's.
    pub fn attach(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Socket::Closed) {
            Socket::Away(detached) => detached.attach()?,
            other => other,
        };
        Ok(())
    }

    /// The address of the peer of a server connection.
    #[must_use]
    pub fn peer(&self) -> Option<Address> {
        match self {
            Socket::Tcp(stream) => stream.peer_addr().ok().map(Address::Tcp),
            Socket::Unix(stream) => {
                let peer = stream.peer_addr().ok()?;
                peer.as_pathname().map(|path| Address::Unix(path.to_owned()))
            }
            Socket::Away(_) | Socket::Closed => None,
        }
    }
}

impl Socket {
    /// The address of this end.
    #[must_use]
    pub fn local(&self) -> Option<Address> {
        match self {
            Socket::Tcp(stream) => stream.local_addr().ok().map(Address::Tcp),
            Socket::Unix(stream) => {
                let local = stream.local_addr().ok()?;
                local.as_pathname().map(|path| Address::Unix(path.to_owned()))
            }
            Socket::Away(_) | Socket::Closed => None,
        }
    }

    /// The number of the descriptor, for those who look; -1 if there is none.
    #[must_use]
    pub fn fd(&self) -> i32 {
        match self {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
            Socket::Away(Detached::Tcp(stream)) => stream.as_raw_fd(),
            Socket::Away(Detached::Unix(stream)) => stream.as_raw_fd(),
            Socket::Closed => -1,
        }
    }
}

impl Detached {
    /// Registers the socket with the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime's, for instance when the process has no descriptor to spare.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Detached::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Socket::Tcp)
            }
            Detached::Unix(stream) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Socket::Unix)
            }
        }
    }
}
