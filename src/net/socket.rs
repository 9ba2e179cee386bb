//! One socket to a peer: TCP or Unix, with a worker or between two.
//!
//! Owns what the kernel offers and nothing on top of it; `stream` adds TLS. A transaction reads and writes four times, so
//! what is done here for each of them is the least: a look at the readiness that the runtime knows, the system call, and
//! no second entry into the list of those who wait for the socket. Short reads and writes clear the readiness, which spares
//! the call that would only return `EAGAIN`.
//!
//! A Unix socket tells that it can be written to each time that its peer has read something, which wakes a worker for
//! nothing. So it is asked to tell only where a write was short, and for a while after that.

use crate::net::{Buffer, Buffers, unix};
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::task::coop;

/// A connected socket, registered with the runtime of one worker.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    /// The task that is woken when there is something to read, as its waker's address. As long as a waker is with the
    /// runtime its task is in memory, so no other task can have the same address. [`UNKNOWN`] and [`DRAINED`]: none.
    awaited_by: usize,
    /// Whole writes to go until a Unix socket tells no more when it can be written to; 0: it does not tell.
    tells_writable: u8,
}

/// [`Socket::tells_writable`] after a short write.
const WHOLE_WRITES: u8 = 64;

/// Nobody is known to wait for something to read.
const UNKNOWN: usize = 0;
/// Nobody waits since the last read, which took all that there was. No waker has this address.
const DRAINED: usize = 1;

/// What a system call came to.
struct Attempt {
    /// `None`: nothing could be done.
    outcome: Option<Result<usize, Errno>>,
    /// Whether there was less than was wanted; `None` if no call was made.
    is_exhausted: Option<bool>,
}

#[derive(Debug)]
enum Kind {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(AsyncFd<UnixStream>),
    /// On its way to another worker.
    Away(Detached),
    /// Given up.
    Closed,
}

/// A socket between two runtimes; it does not block.
#[derive(Debug)]
pub enum Detached {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
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
    /// A socket that is given up.
    pub const CLOSED: Socket = Socket { kind: Kind::Closed, awaited_by: UNKNOWN, tells_writable: 0 };

    /// Reads into `into`; `Ok(0)` is the end of the stream.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_receive(cx, |fd| {
            let (count, _) = rustix::net::recv(fd, &mut *into, RecvFlags::empty())?;
            Ok((count, into.len()))
        })
    }

    /// Reads into the free space of `buffer`, which is given at least `size` bytes when there is something to read; returns
    /// how many bytes came.
    #[inline]
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        buffers: &Buffers,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        self.poll_receive(cx, |fd| {
            buffers.equip(buffer, size);
            let space = buffer.space();
            let wanted = space.len();
            let (count, _) = rustix::net::recv(fd, space, RecvFlags::empty())?;
            buffer.filled(count);
            Ok((count, wanted))
        })
    }

    #[inline]
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<(usize, usize), Errno>,
    ) -> Poll<io::Result<usize>> {
        // Emptied and not waited for since: what is to be done first is to wait.
        if self.awaited_by == DRAINED {
            ready!(self.await_readable(cx))?;
        }
        loop {
            if let Some(outcome) = self.receive(&mut call) {
                return Poll::Ready(outcome.map_err(io::Error::from));
            }
            ready!(self.await_readable(cx))?;
        }
    }

    /// Writes some of `from`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(outcome) = self.transmit(from) {
                if self.tells_writable > 0 && outcome == Ok(from.len()) {
                    self.written_whole(cx);
                }
                return Poll::Ready(outcome.map_err(io::Error::from));
            }
            ready!(self.poll_writable(cx))?;
        }
    }

    #[cold]
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.kind, Kind::Unix(_)) && self.tells_writable == 0 {
            self.register_anew(cx, Interest::READABLE | Interest::WRITABLE)?;
        }
        match &self.kind {
            Kind::Tcp(stream) => stream.poll_write_ready(cx),
            Kind::Unix(stream) => {
                self.tells_writable = WHOLE_WRITES;
                stream.poll_write_ready(cx).map_ok(drop)
            }
            Kind::Away(_) | Kind::Closed => Poll::Ready(Err(not_connected())),
        }
    }

    /// A Unix socket has taken all of a write, although it has not lately.
    #[cold]
    fn written_whole(&mut self, cx: &mut Context<'_>) {
        self.tells_writable -= 1;
        if self.tells_writable == 0 {
            // What was written is written; whoever uses the socket next learns that it is closed.
            let _ = self.register_anew(cx, Interest::READABLE);
        }
    }

    /// Has a Unix socket tell of other things than before. Who waited for it is polled once more, to wait anew.
    fn register_anew(&mut self, cx: &mut Context<'_>, interest: Interest) -> io::Result<()> {
        self.awaited_by = UNKNOWN;
        cx.waker().wake_by_ref();
        if let Kind::Unix(stream) = std::mem::replace(&mut self.kind, Kind::Closed) {
            self.kind = Kind::Unix(register(stream.into_inner(), interest)?);
        }
        Ok(())
    }

    /// Whether a read could return something; makes no system call.
    #[inline]
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.awaited_by = UNKNOWN;
        self.await_readable(cx)
    }

    /// Has the task woken when there is something to read, if it does not wait for that already.
    #[inline]
    fn await_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let task = cx.waker().data().addr();
        if self.awaited_by == task && task > DRAINED {
            return Poll::Pending;
        }
        let outcome = match &self.kind {
            Kind::Tcp(stream) => stream.poll_read_ready(cx),
            Kind::Unix(stream) => stream.poll_read_ready(cx).map_ok(drop),
            Kind::Away(_) | Kind::Closed => Poll::Ready(Err(not_connected())),
        };
        // A task that has used up its budget is to yield: the runtime has woken it again, and let nobody wait here.
        let is_awaited = outcome.is_pending() && coop::has_budget_remaining();
        self.awaited_by = if is_awaited { task } else { UNKNOWN };
        outcome
    }

    /// Reads what is there, if the runtime knows that something is; `None` if not.
    #[inline]
    fn receive(
        &mut self,
        call: impl FnMut(BorrowedFd<'_>) -> Result<(usize, usize), Errno>,
    ) -> Option<Result<usize, Errno>> {
        let Attempt { outcome, is_exhausted } = self.attempt(Interest::READABLE, call);
        match is_exhausted {
            None => {}
            // Whoever waited has been woken, and has to wait anew.
            Some(true) => self.awaited_by = DRAINED,
            Some(false) => self.awaited_by = UNKNOWN,
        }
        outcome
    }

    /// Writes what the kernel takes, if the runtime knows that it takes something; `None` if not.
    #[inline]
    fn transmit(&self, from: &[u8]) -> Option<Result<usize, Errno>> {
        let call = |fd: BorrowedFd<'_>| Ok((rustix::net::send(fd, from, SendFlags::NOSIGNAL)?, from.len()));
        self.attempt(Interest::WRITABLE, call).outcome
    }

    /// Makes a system call, which tells how many bytes it moved of how many it could have, if the runtime knows that it can
    /// do something. When the kernel had, or took, less, the runtime is told that there is no more, without the call that
    /// would only return `EAGAIN`.
    #[inline]
    fn attempt(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<(usize, usize), Errno>,
    ) -> Attempt {
        let mut attempt = Attempt { outcome: None, is_exhausted: None };
        let mut work = |fd: BorrowedFd<'_>| {
            let outcome = loop {
                match call(fd) {
                    Err(Errno::INTR) => {}
                    outcome => break outcome,
                }
            };
            let is_exhausted = match outcome {
                Ok((count, wanted)) => count > 0 && count < wanted,
                Err(error) => error == Errno::AGAIN,
            };
            attempt.is_exhausted = Some(is_exhausted);
            attempt.outcome = (outcome != Err(Errno::AGAIN)).then_some(outcome.map(|(count, _)| count));
            if is_exhausted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        // What is not told by the attempt is only that nothing can be done now.
        let _ = match &self.kind {
            Kind::Tcp(stream) => stream.try_io(interest, || work(stream.as_fd())),
            // It is not registered for that: the call itself tells.
            Kind::Unix(stream) if interest.is_writable() && self.tells_writable == 0 => work(stream.as_fd()),
            Kind::Unix(stream) => stream.try_io(interest, |stream| work(stream.as_fd())),
            Kind::Away(_) | Kind::Closed => {
                attempt.outcome = Some(Err(Errno::NOTCONN));
                Ok(())
            }
        };
        attempt
    }

    /// Writes what the kernel takes at once, for last words before a close.
    pub fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        self.transmit(from).map_or_else(would_block, |outcome| outcome.map_err(io::Error::from))
    }

    /// Reads what is there at once; `WouldBlock` if nothing is. A worker knows of what came since it last waited only if
    /// the socket is off its runtime.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Away(Detached::Tcp(stream)) => stream.read(into),
            Kind::Away(Detached::Unix(stream)) => stream.read(into),
            _ => self
                .receive(|fd| {
                    let (count, _) = rustix::net::recv(fd, &mut *into, RecvFlags::empty())?;
                    Ok((count, into.len()))
                })
                .map_or_else(would_block, |outcome| outcome.map_err(io::Error::from)),
        }
    }

    /// Writes some of `from`, piece after piece.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match &mut self.kind {
                Kind::Tcp(stream) => return Pin::new(stream).poll_write_vectored(cx, from),
                Kind::Unix(_) => match self.try_write_vectored(from) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => {
                        let whole = from.iter().map(|piece| piece.len()).sum();
                        if self.tells_writable > 0 && outcome.as_ref().ok() == Some(&whole) {
                            self.written_whole(cx);
                        }
                        return Poll::Ready(outcome);
                    }
                },
                Kind::Away(_) | Kind::Closed => return Poll::Ready(Err(not_connected())),
            }
            ready!(self.poll_writable(cx))?;
        }
    }

    /// Writes some of what the kernel takes at once of `from`, piece after piece.
    pub fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Tcp(stream) => stream.try_write_vectored(from),
            Kind::Unix(stream) if self.tells_writable == 0 => stream.get_ref().write_vectored(from),
            Kind::Unix(stream) => stream.try_io(Interest::WRITABLE, |mut stream| stream.write_vectored(from)),
            Kind::Away(_) | Kind::Closed => Err(not_connected()),
        }
    }

    /// Takes the socket off its worker's runtime; any thread may do it.
    ///
    /// # Errors
    /// The runtime's.
    pub fn detach(&mut self) -> io::Result<()> {
        let socket = std::mem::replace(self, Socket::CLOSED);
        self.kind = match socket.kind {
            Kind::Tcp(stream) => Kind::Away(Detached::Tcp(stream.into_std()?)),
            Kind::Unix(stream) => Kind::Away(Detached::Unix(stream.into_inner())),
            other => other,
        };
        Ok(())
    }

    /// Takes the socket off its worker's runtime, for another process.
    ///
    /// # Errors
    /// The runtime's; `NotConnected` if it was given up.
    pub fn into_descriptor(mut self) -> io::Result<OwnedFd> {
        self.detach()?;
        match self.kind {
            Kind::Away(Detached::Tcp(stream)) => Ok(stream.into()),
            Kind::Away(Detached::Unix(stream)) => Ok(stream.into()),
            _ => Err(not_connected()),
        }
    }

    /// Registers a detached socket with the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime's.
    pub fn attach(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Socket::CLOSED) {
            Socket { kind: Kind::Away(detached), .. } => detached.attach()?,
            other => other,
        };
        Ok(())
    }

    /// The address of the peer of a server connection.
    #[must_use]
    pub fn peer(&self) -> Option<Address> {
        match &self.kind {
            Kind::Tcp(stream) => stream.peer_addr().ok().map(Address::Tcp),
            Kind::Unix(stream) => {
                let peer = stream.get_ref().peer_addr().ok()?;
                unix::from_system(peer.as_pathname(), peer.as_abstract_name()).map(Address::Unix)
            }
            Kind::Away(_) | Kind::Closed => None,
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket { kind: Kind::Tcp(stream), ..Socket::CLOSED }
    }
}

impl TryFrom<tokio::net::UnixStream> for Socket {
    type Error = io::Error;

    fn try_from(stream: tokio::net::UnixStream) -> io::Result<Socket> {
        Detached::Unix(stream.into_std()?).attach()
    }
}

impl From<Detached> for Socket {
    fn from(detached: Detached) -> Socket {
        Socket { kind: Kind::Away(detached), ..Socket::CLOSED }
    }
}

impl Socket {
    /// The operating system's user at the other end of a Unix socket (`SO_PEERCRED`).
    #[must_use]
    pub fn peer_uid(&self) -> Option<u32> {
        match &self.kind {
            Kind::Unix(stream) => {
                // Also of a process whose number cannot be told here, as it is in another container.
                let peer = nix::sys::socket::getsockopt(stream.get_ref(), PeerCredentials);
                peer.ok().map(|peer| peer.uid())
            }
            _ => None,
        }
    }

    /// The address of this end.
    #[must_use]
    pub fn local(&self) -> Option<Address> {
        match &self.kind {
            Kind::Tcp(stream) => stream.local_addr().ok().map(Address::Tcp),
            Kind::Unix(stream) => {
                let local = stream.get_ref().local_addr().ok()?;
                unix::from_system(local.as_pathname(), local.as_abstract_name()).map(Address::Unix)
            }
            Kind::Away(_) | Kind::Closed => None,
        }
    }

    /// The number of the descriptor, for those who look; -1 if there is none.
    #[must_use]
    pub fn fd(&self) -> i32 {
        match &self.kind {
            Kind::Tcp(stream) => stream.as_raw_fd(),
            Kind::Unix(stream) => stream.as_raw_fd(),
            Kind::Away(Detached::Tcp(stream)) => stream.as_raw_fd(),
            Kind::Away(Detached::Unix(stream)) => stream.as_raw_fd(),
            Kind::Closed => -1,
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
            Detached::Tcp(stream) => TcpStream::from_std(stream).map(Socket::from),
            Detached::Unix(stream) => {
                let stream = register(stream, Interest::READABLE)?;
                Ok(Socket { kind: Kind::Unix(stream), ..Socket::CLOSED })
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; a std socket keeps its descriptor for as long as it lives"
)]
fn register(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}

fn would_block() -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::yield_now;

    /// What is told when a socket is to be written to and read at once, as both become possible one after the other.
    async fn next(socket: &mut Socket, unsent: &mut usize, has_read: &mut bool) -> &'static str {
        let step = poll_fn(|cx| {
            let mut chunk = [0; 8];
            if !*has_read && socket.poll_read(cx, &mut chunk).is_ready() {
                *has_read = true;
                return Poll::Ready("read");
            }
            while *unsent > 0 {
                let written = ready!(socket.poll_write(cx, &vec![0; *unsent])).unwrap();
                *unsent -= written;
            }
            Poll::Ready("written")
        });
        woken(step).await
    }

    /// The outcome of what is woken when there is something to do, and not only when it is given up.
    async fn woken<T>(step: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = crate::alarm::sleep(std::time::Duration::from_secs(10)) => panic!("it is not woken"),
            outcome = step => outcome,
        }
    }

    #[tokio::test]
    async fn a_unix_socket_that_takes_no_more_is_still_read_and_goes_on_when_it_does() {
        let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let mut socket = Socket::try_from(near).unwrap();
        for round in 0..2 {
            let (mut unsent, mut has_read) = (4 << 20, false);
            let total = unsent;
            let drained = tokio::spawn(async move {
                // The socket is full by the time that this is read, and stays so until then.
                far.write_all(b"abc").await.unwrap();
                far
            });
            assert_eq!(next(&mut socket, &mut unsent, &mut has_read).await, "read", "round {round}");
            assert!(unsent > 0 && socket.tells_writable > 0, "round {round}");
            far = drained.await.unwrap();
            let drained = tokio::spawn(async move {
                far.read_exact(&mut vec![0; total]).await.unwrap();
                far
            });
            assert_eq!(next(&mut socket, &mut unsent, &mut has_read).await, "written", "round {round}");
            far = drained.await.unwrap();
            // Whoever reads goes on being told while the socket tells less and less.
            for number in 0..WHOLE_WRITES {
                let (mut unsent, mut has_read) = (1, true);
                assert_eq!(next(&mut socket, &mut unsent, &mut has_read).await, "written");
                let _ = far.read_exact(&mut [0]).await.unwrap();
                far.write_all(&[number]).await.unwrap();
                let read = poll_fn(|cx| socket.poll_read(cx, &mut [0; 8]));
                assert_eq!(woken(read).await.unwrap(), 1);
            }
            assert_eq!(socket.tells_writable, 0);
        }
    }

    #[tokio::test]
    async fn a_task_without_budget_is_woken_all_the_same() {
        let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let mut socket = Socket::try_from(near).unwrap();
        let mut polls = 0;
        let reader = tokio::spawn(async move {
            let mut chunk = [0; 8];
            poll_fn(|cx| {
                polls += 1;
                while polls == 1 && coop::has_budget_remaining() {
                    let _ = pin!(coop::consume_budget()).poll(cx);
                }
                socket.poll_read(cx, &mut chunk)
            })
            .await
        });
        // It has yielded, has been polled again, and waits.
        for _ in 0..10 {
            yield_now().await;
        }
        far.write_all(b"abc").await.unwrap();
        let read = crate::alarm::timeout(std::time::Duration::from_secs(10), reader).await;
        assert_eq!(read.expect("it is woken").unwrap().unwrap(), 3);
    }
}
