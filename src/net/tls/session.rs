//! An encrypted stream after its handshake: rustls between the caller and the socket.
//!
//! Invariants: [`TlsStream::poll_write`] reports bytes as written only when their ciphertext is with the kernel, so the
//! caller's own backpressure holds and nothing is left behind that nobody would be woken for. Plaintext that rustls has
//! decrypted counts as readable, whatever the socket says. Memory is bounded: a few records in each direction.

use crate::net::socket::Socket;
use rustls::Connection;
use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll};

/// Most bytes of a caller that are encrypted at once: two records.
const MOST_SENT: usize = 32 * 1024;
/// Most bytes of ciphertext that are read at once.
const MOST_RECEIVED: usize = 64 * 1024;
/// What the caller's room is exceeded by, because ciphertext is longer than its plaintext.
const OVERHEAD: usize = 512;
/// Reads of the socket in one turn that may bring nothing for the caller.
const ROUNDS: u32 = 8;
/// Decrypted bytes beyond which rustls takes no more ciphertext.
const MOST_BUFFERED: usize = 16 * 1024;

thread_local! {
    /// Where a worker's sockets put ciphertext, for the moment until rustls has it.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::default();
}

/// A TLS connection.
pub struct TlsStream {
    socket: Socket,
    session: Connection,
    /// Bytes of the caller that are encrypted, but whose ciphertext may still wait for the kernel.
    accepted: usize,
    /// Decrypted bytes that the caller has not read.
    readable: usize,
    /// The peer has said that it sends nothing more.
    ended: bool,
    /// Ciphertext that was received while too much plaintext was unread.
    backlog: Vec<u8>,
}

/// Whether a call may leave its task to be woken.
enum Patience<'a, 'b> {
    /// The task is woken when it makes sense to try again.
    Wake(&'a mut Context<'b>),
    /// Now or never.
    Now,
}

impl TlsStream {
    /// A stream whose handshake is done, perhaps with bytes that came right behind it.
    ///
    /// # Errors
    /// What is wrong with those bytes.
    pub(super) fn new(socket: Socket, session: Connection) -> io::Result<TlsStream> {
        let mut stream =
            TlsStream { socket, session, accepted: 0, readable: 0, ended: false, backlog: Vec::new() };
        stream.process()?;
        Ok(stream)
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket below, to be moved between workers.
    pub(in crate::net) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// What rustls knows of the connection.
    #[must_use]
    pub fn session(&self) -> &Connection {
        &self.session
    }

    /// See [`crate::net::Stream::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        pending_or(self.read(&mut Patience::Wake(cx), into))
    }

    /// See [`crate::net::Stream::try_read`].
    ///
    /// # Errors
    /// The socket's or the peer's; `WouldBlock`.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read(&mut Patience::Now, into)
    }

    /// See [`crate::net::Stream::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        pending_or(self.write(&mut Patience::Wake(cx), from))
    }

    /// See [`crate::net::Stream::try_write`].
    ///
    /// # Errors
    /// The socket's; `WouldBlock`.
    pub fn try_write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write(&mut Patience::Now, from)
    }

    /// See [`crate::net::Stream::poll_read_ready`].
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.readable > 0 || self.ended || !self.backlog.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    fn read(&mut self, patience: &mut Patience<'_, '_>, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        for _ in 0..ROUNDS {
            match self.session.reader().read(into) {
                Ok(count) => {
                    self.readable = self.readable.saturating_sub(count);
                    return Ok(count);
                }
                // Without a word of goodbye. Messages of PostgreSQL say themselves where they end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // Tickets, answers to key updates: nobody waits for them, and what fails here is seen by reading.
            let _ = self.flush(patience);
            if self.backlog.is_empty() {
                self.receive(patience, into.len())?;
            } else {
                let backlog = std::mem::take(&mut self.backlog);
                self.feed(&backlog)?;
            }
        }
        // A peer that sends records with nothing in them gets no more of the worker's time than others.
        if let Patience::Wake(cx) = patience {
            cx.waker().wake_by_ref();
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Reads ciphertext for a caller with room for `wanted` bytes.
    fn receive(&mut self, patience: &mut Patience<'_, '_>, wanted: usize) -> io::Result<()> {
        RECEIVED.with_borrow_mut(|chunk| {
            if chunk.is_empty() {
                *chunk = vec![0; MOST_RECEIVED].into();
            }
            let chunk = &mut chunk[..(wanted + OVERHEAD).min(MOST_RECEIVED)];
            let count = match patience {
                Patience::Wake(cx) => or_would_block(self.socket.poll_read(cx, chunk))?,
                Patience::Now => self.socket.try_read(chunk)?,
            };
            if count == 0 {
                // So that rustls tells the end from a pause.
                self.session.read_tls(&mut io::empty())?;
                return self.process();
            }
            self.feed(&chunk[..count])
        })
    }

    /// Decrypts, as far as what was decrypted before leaves room.
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.readable >= MOST_BUFFERED {
                self.backlog = bytes.to_vec();
                return Ok(());
            }
            if self.session.read_tls(&mut bytes)? == 0 {
                // Nothing counts behind the peer's goodbye.
                return Ok(());
            }
            self.process()?;
        }
        Ok(())
    }

    fn process(&mut self) -> io::Result<()> {
        match self.session.process_new_packets() {
            Ok(state) => {
                self.readable = state.plaintext_bytes_to_read();
                self.ended = state.peer_has_closed();
                Ok(())
            }
            Err(error) => {
                // The peer is told, if it listens.
                let _ = self.flush(&mut Patience::Now);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    fn write(&mut self, patience: &mut Patience<'_, '_>, from: &[u8]) -> io::Result<usize> {
        if self.accepted == 0 {
            self.accepted = self.session.writer().write(&from[..from.len().min(MOST_SENT)])?;
        }
        self.flush(patience)?;
        // The caller may have less now than it began with only if it has given up on the rest.
        Ok(std::mem::take(&mut self.accepted).min(from.len()))
    }

    /// Hands ciphertext to the kernel until none is left.
    fn flush(&mut self, patience: &mut Patience<'_, '_>) -> io::Result<()> {
        while self.session.wants_write() {
            let mut sink = Sink { socket: &mut self.socket, patience };
            if self.session.write_tls(&mut sink)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

impl Drop for TlsStream {
    /// Says goodbye, so that the peer can tell this end from one that somebody else has made.
    fn drop(&mut self) {
        self.session.send_close_notify();
        let _ = self.flush(&mut Patience::Now);
    }
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// The socket as rustls writes to it.
struct Sink<'s, 'p, 'a, 'b> {
    socket: &'s mut Socket,
    patience: &'p mut Patience<'a, 'b>,
}

impl Write for Sink<'_, '_, '_, '_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.patience {
            Patience::Wake(cx) => or_would_block(self.socket.poll_write_vectored(cx, from)),
            Patience::Now => self.socket.try_write_vectored(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// rustls knows no `Poll`.
fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// The way back. Only calls that wake their task are turned into `Pending`.
fn pending_or<T>(outcome: io::Result<T>) -> Poll<io::Result<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        outcome => Poll::Ready(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::{ClientTls, ServerTls, SslMode};
    use crate::net::Stream;
    use crate::net::tls::connect::Outcome;
    use crate::net::tls::current::Source;
    use std::future::poll_fn;
    use std::task::Waker;
    use tokio::net::UnixStream;

    /// Both ends of a connection after its handshake; the second is pgvalet's towards a client.
    async fn pair() -> (Stream, Stream) {
        let files = tempfile::tempdir().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let file = |name: &str, text: String| {
            std::fs::write(files.path().join(name), text).unwrap();
            Some(files.path().join(name))
        };
        let accepting = ClientTls {
            sslmode: SslMode::Require,
            cert_file: file("crt", cert.pem()),
            key_file: file("key", signing_key.serialize_pem()),
            ..ClientTls::default()
        };
        let offer = accepting.make().unwrap().unwrap();
        let demand = ServerTls::default().make().unwrap().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let (near, mut far) = (Socket::try_from(near).unwrap(), Socket::try_from(far).unwrap());
        let accepted = async {
            let mut request = [0; 8];
            assert_eq!(poll_fn(|cx| far.poll_read(cx, &mut request)).await.unwrap(), 8);
            poll_fn(|cx| far.poll_write(cx, b"S")).await.unwrap();
            offer.accept(far, Vec::new()).await.unwrap()
        };
        let name = demand.name("localhost").unwrap();
        let (outcome, (accepted, _)) = tokio::join!(demand.secure(near, name), accepted);
        let Outcome::Tls(connected) = outcome.unwrap() else { panic!("TLS was declined") };
        (Stream::Tls(connected), Stream::Tls(Box::new(accepted)))
    }

    fn is_ready(stream: &mut Stream) -> bool {
        stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Has the first end read what is no data (tickets) along with some.
    async fn at_rest(near: &mut Stream, far: &mut Stream) {
        far.write_all(b".").await.unwrap();
        assert_eq!(near.read(&mut [0; 64]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn plaintext_that_rustls_holds_is_ready_though_the_socket_is_empty() {
        let (mut near, mut far) = pair().await;
        near.write_all(&[7; 1000]).await.unwrap();
        let mut some = [0; 10];
        assert_eq!(far.read(&mut some).await.unwrap(), 10);
        let mut rest = Vec::new();
        while is_ready(&mut far) {
            let mut chunk = [0; 300];
            match far.try_read(&mut chunk) {
                Ok(count) => rest.extend_from_slice(&chunk[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(rest, [7; 990]);
    }

    #[tokio::test]
    async fn what_a_write_has_taken_is_with_the_kernel() {
        let (mut near, mut far) = pair().await;
        let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n as u8).collect();
        let (mut taken, mut received) = (0, Vec::new());
        while received.len() < sent.len() {
            // As much as goes at once; then exactly that much is there to read, without any help of the writer.
            while taken < sent.len() {
                let mut cx = Context::from_waker(Waker::noop());
                match near.poll_write(&mut cx, &sent[taken..]) {
                    Poll::Ready(count) => taken += count.unwrap(),
                    Poll::Pending => break,
                }
            }
            while received.len() < taken {
                let mut chunk = [0; 10_000];
                let count = far.read(&mut chunk).await.unwrap();
                received.extend_from_slice(&chunk[..count]);
            }
            tokio::task::yield_now().await;
        }
        assert!(received == sent);
    }

    #[tokio::test]
    async fn the_end_is_read_whether_it_was_announced_or_not() {
        let (mut near, mut far) = pair().await;
        at_rest(&mut near, &mut far).await;
        drop(near);
        assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0);
        assert!(is_ready(&mut far));
        assert_eq!(far.try_read(&mut [0; 10]).unwrap(), 0);

        let (mut near, mut far) = pair().await;
        at_rest(&mut near, &mut far).await;
        let Stream::Tls(stream) = &mut near else { unreachable!("it is TLS") };
        *stream.socket_mut() = Socket::CLOSED;
        assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn bytes_that_are_no_tls_are_an_error() {
        let (mut near, mut far) = pair().await;
        let Stream::Tls(stream) = &mut near else { unreachable!("it is TLS") };
        poll_fn(|cx| stream.socket_mut().poll_write(cx, b"Q\0\0\0\x0dSELECT 1\0")).await.unwrap();
        assert_eq!(far.read(&mut [0; 10]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_stream_goes_on_with_another_runtime() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        let (mut near, mut far) = first.block_on(async {
            let (mut near, mut far) = pair().await;
            at_rest(&mut near, &mut far).await;
            // Half of this is decrypted and unread when the stream moves.
            near.write_all(b"before").await.unwrap();
            assert_eq!(far.read(&mut [0; 3]).await.unwrap(), 3);
            (near, far)
        });
        for stream in [&mut near, &mut far] {
            stream.detach().unwrap();
        }
        drop(first);
        std::thread::spawn(move || {
            runtime().block_on(async {
                near.attach().unwrap();
                far.attach().unwrap();
                near.write_all(b" and after").await.unwrap();
                let mut read = Vec::new();
                while read.len() < 13 {
                    let mut chunk = [0; 64];
                    let count = far.read(&mut chunk).await.unwrap();
                    read.extend_from_slice(&chunk[..count]);
                }
                assert_eq!(read, b"ore and after");
            });
        })
        .join()
        .unwrap();
    }
}
