//! Listening sockets, and the one task that accepts from each.

use crate::client::context::Process;
use crate::client::door::{Barred, Ticket};
use crate::config::{General, Tcp};
use crate::error::{Error, Kind};
use crate::net::connect::prepare_tcp;
use crate::net::stream::{Address, Detached};
use crate::runtime::worker::{Command, Handle};
use bytes::BytesMut;
use rustix::fs::{Gid, Mode, chmod, chown};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UnixListener};

/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket; removed when dropped.
    Unix(UnixListener, SocketFile),
}

/// A socket's file.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens all listeners of the configuration.
///
/// # Errors
/// What cannot be listened on, and why.
pub fn open(general: &General) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    let mut port = general.listen_port;
    for ip in &general.listen_addr {
        let address = SocketAddr::new(*ip, port);
        let listener = tcp(address, general).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "cannot listen on {address}: the port is taken; stop what uses it, or change listen_port"
                )
            }
            _ => format!("cannot listen on {address}: {error}"),
        })?;
        // With port 0 all addresses share the port that the first one got.
        port = listener.local_addr().map_or(port, |address| address.port());
        listeners.push(Listener::Tcp(listener));
    }
    if let Some(directory) = &general.unix_socket_dir {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let listener =
            unix(&path, general).map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn tcp(address: SocketAddr, general: &General) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(general.so_reuseport)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(general.listen_backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

fn unix(path: &Path, general: &General) -> io::Result<Listener> {
    if StdUnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    // What nobody answers on was left behind by a process that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    chmod(path, Mode::from_raw_mode(general.unix_socket_mode))?;
    if let Some(group) = &general.unix_socket_group {
        chown(path, None, Some(group_id(group)?))?;
    }
    socket.listen(i32::try_from(general.listen_backlog).unwrap_or(i32::MAX))?;
    Ok(Listener::Unix(UnixListener::from_std(socket.into())?, file))
}

/// The number of a group, from `/etc/group`.
fn group_id(name: &str) -> io::Result<Gid> {
    let groups = fs::read_to_string("/etc/group")?;
    let entry = groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|entry| entry.first() == Some(&name));
    entry.and_then(|entry| entry.get(2)?.parse().ok()).map(Gid::from_raw).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("unix_socket_group: there is no group \"{name}\""))
    })
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
        }
    }

    /// Accepts and hands out, for ever.
    pub async fn serve(self, workers: Vec<Handle>, process: Arc<Process>, general: General) {
        let accepting = match Accepting::new(self, &general.tcp) {
            Ok(accepting) => accepting,
            Err(error) => return tracing::error!(%error, "a listener cannot be served"),
        };
        loop {
            match accepting.next().await {
                Ok((stream, peer)) => match process.door.enter(&peer).await {
                    Ok(ticket) => hand_out(stream, peer, Box::new(ticket), &workers, &process),
                    Err(barred) => turn_away(stream, &peer, barred),
                },
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again in a moment");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A listener as it is served: what it accepts is no business of this thread's runtime, so it is never registered there.
enum Accepting {
    Tcp(AsyncFd<OwnedFd>),
    Unix(AsyncFd<OwnedFd>, SocketFile),
}

impl Accepting {
    /// Connections inherit the options of the socket that accepts them.
    fn new(listener: Listener, options: &Tcp) -> io::Result<Accepting> {
        match listener {
            Listener::Tcp(listener) => {
                prepare_tcp(&listener, options)?;
                readable(listener.into_std()?.into()).map(Accepting::Tcp)
            }
            Listener::Unix(listener, file) => {
                let listener = readable(listener.into_std()?.into())?;
                Ok(Accepting::Unix(listener, file))
            }
        }
    }

    async fn next(&self) -> io::Result<(Detached, Address)> {
        let (Accepting::Tcp(listener) | Accepting::Unix(listener, _)) = self;
        let accept =
            |listener: &OwnedFd| acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
        let (stream, peer) = listener.async_io(Interest::READABLE, |listener| Ok(accept(listener)?)).await?;
        match self {
            Accepting::Tcp(_) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
                Ok((Detached::Tcp(stream.into()), Address::Tcp(peer)))
            }
            Accepting::Unix(_, file) => Ok((Detached::Unix(stream.into()), Address::Unix(file.0.clone()))),
        }
    }
}

/// A listener whose connections are told of.
#[expect(
    deprecated,
    reason = "what takes its place is unsafe, for types that tell of a descriptor that is not theirs"
)]
fn readable(listener: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(listener, Interest::READABLE)
}

/// Errors of accept that concern the connection and not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Tells a client whose address has failed too often, at the least cost: nothing is read, and nothing waits.
fn turn_away(stream: Detached, peer: &Address, barred: Barred) {
    if barred.is_news {
        tracing::warn!(%peer, "too many logins from this address have failed; it is turned away for a while (max_failed_logins)");
    }
    let error = Error::new(Kind::TooManyClients, "too many logins from this address have failed").hint(
        "Mend what logs in from there in vain; the log of pgvalet says why. Then try again in a moment.",
    );
    let mut out = BytesMut::new();
    error.write(&mut out, "FATAL");
    // A socket that has just been accepted takes that much; if not, the end of the connection says enough.
    let _ = match stream {
        Detached::Tcp(stream) => (&stream).write(&out),
        Detached::Unix(stream) => (&stream).write(&out),
    };
}

/// Gives the connection to the less loaded of two workers drawn at random.
fn hand_out(stream: Detached, peer: Address, ticket: Box<Ticket>, workers: &[Handle], process: &Process) {
    let chosen = match workers {
        [only] => only,
        workers => {
            let random = getrandom::u32().unwrap_or(0) as usize;
            let one = &workers[random % workers.len()];
            let other = &workers[(random >> 16) % workers.len()];
            if one.load.load(Ordering::Relaxed) <= other.load.load(Ordering::Relaxed) { one } else { other }
        }
    };
    process.clients.fetch_add(1, Ordering::Relaxed);
    chosen.load.fetch_add(1, Ordering::Relaxed);
    if chosen.commands.send(Command::Client(stream, peer, ticket)).is_err() {
        process.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
