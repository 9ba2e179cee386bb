//! Listening sockets, those that systemd or another process has opened included, and the one task that accepts from each.

use crate::client::context::Process;
use crate::client::door::Barred;
use crate::config::{General, Tcp};
use crate::error::{Error, Kind};
use crate::net::connect::prepare_tcp;
use crate::net::stream::{Address, Detached};
use crate::runtime::worker::{Command, Handle};
use bytes::BytesMut;
use listenfd::ListenFd;
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

/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that clients connect to, listening. Its connections are accepted by [`Listener::serve`] on copies of the
/// descriptor, so that accepting can stop and go on without a connection being refused.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    /// Whether it is a Unix socket whose file is to be removed when nobody listens any more.
    has_file: bool,
    /// That file, while it is this listener's to remove.
    file: Option<SocketFile>,
}

/// A socket's file, removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl SocketFile {
    /// Lets go of the file without removing it.
    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens all listeners of the configuration; `inherited` ones that are of it are taken and not opened again.
///
/// # Errors
/// What cannot be listened on, and why.
pub fn open(general: &General, inherited: &mut Vec<Listener>) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    let mut port = general.listen_port;
    for ip in &general.listen_addr {
        let address = SocketAddr::new(*ip, port);
        let listener = match take(inherited, |other| is_same(other, address)) {
            Some(listener) => listener,
            None => tcp(address, general).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!(
                        "cannot listen on {address}: the port is taken; stop what uses it, or change listen_port"
                    )
                }
                _ => format!("cannot listen on {address}: {error}"),
            })?,
        };
        // With port 0 all addresses share the port that the first one got.
        if let Address::Tcp(address) = &listener.address {
            port = address.port();
        }
        listeners.push(listener);
    }
    if let Some(directory) = &general.unix_socket_dir {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let listener = match take(inherited, |other| *other == Address::Unix(path.clone())) {
            Some(listener) => listener,
            None => unix(&path, general)
                .map_err(|error| format!("cannot listen on {}: {error}", path.display()))?,
        };
        listeners.push(listener);
    }
    Ok(listeners)
}

fn take(listeners: &mut Vec<Listener>, is_meant: impl Fn(&Address) -> bool) -> Option<Listener> {
    let at = listeners.iter().position(|listener| is_meant(&listener.address))?;
    Some(listeners.swap_remove(at))
}

/// Whether what listens at `there` is what the configuration calls `wanted`; port 0 is any port.
fn is_same(there: &Address, wanted: SocketAddr) -> bool {
    match there {
        Address::Tcp(there) => there.ip() == wanted.ip() && [there.port(), 0].contains(&wanted.port()),
        Address::Unix(_) => false,
    }
}

/// The listeners that systemd has opened (`LISTEN_FDS`). Called before there are threads: it clears the environment.
///
/// # Errors
/// What was passed that cannot be listened on.
pub fn activated() -> Result<Vec<Listener>, String> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for number in 0..passed.len() {
        let of_unix = passed.take_unix_listener(number).ok().flatten().map(Socket::from);
        let socket = match of_unix {
            Some(socket) => Some(socket),
            None => passed
                .take_tcp_listener(number)
                .map_err(|error| format!("systemd passed what is no stream socket: {error}"))?
                .map(Socket::from),
        };
        if let Some(socket) = socket {
            let listener = Listener::of(socket).map_err(|error| {
                format!("systemd passed a socket that cannot be used: {error}; see examples/systemd")
            })?;
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

fn tcp(address: SocketAddr, general: &General) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(general.so_reuseport)?;
    socket.bind(&address.into())?;
    socket.listen(backlog(general))?;
    Listener::of(socket)
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
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    chmod(path, Mode::from_raw_mode(general.unix_socket_mode))?;
    if let Some(group) = &general.unix_socket_group {
        chown(path, None, Some(group_id(group)?))?;
    }
    socket.listen(backlog(general))?;
    Ok(Listener { has_file: true, file: Some(file), ..Listener::of(socket)? })
}

fn backlog(general: &General) -> i32 {
    i32::try_from(general.listen_backlog).unwrap_or(i32::MAX)
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
    /// A socket that listens already; its file, if it has one, belongs to somebody else.
    ///
    /// # Errors
    /// The system's, or that it listens on nothing that clients connect to.
    pub fn of(socket: Socket) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let address = match (local.as_socket(), local.as_pathname()) {
            (Some(address), _) => Address::Tcp(address),
            (_, Some(path)) => Address::Unix(path.to_owned()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has neither address nor path")),
        };
        Ok(Listener { socket, address, has_file: false, file: None })
    }

    /// One that another process has opened. Its file, if it has one, is that process' own until [`Listener::claim_file`].
    ///
    /// # Errors
    /// As [`Listener::of`].
    pub fn taken_over(socket: OwnedFd, has_file: bool) -> io::Result<Listener> {
        Ok(Listener { has_file, ..Listener::of(socket.into())? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A copy of the socket for another process, and whether a file goes with it.
    ///
    /// # Errors
    /// The system's, if it has no descriptor for that.
    pub fn copy(&self) -> io::Result<(OwnedFd, bool)> {
        Ok((self.socket.try_clone()?.into(), self.has_file))
    }

    /// Leaves the file to the process that has taken the socket over.
    pub fn give_up_file(&mut self) {
        if let Some(file) = self.file.take() {
            file.keep();
        }
    }

    /// Makes the file this listener's own, if there is one.
    pub fn claim_file(&mut self) {
        if let (Address::Unix(path), true, None) = (&self.address, self.has_file, &self.file) {
            self.file = Some(SocketFile(path.clone()));
        }
    }

    /// Accepts and hands out, until the future is dropped. To be polled on the runtime that accepts.
    ///
    /// # Errors
    /// The system's, if it has no descriptor for that.
    pub fn serve(
        &self,
        workers: Vec<Handle>,
        process: Arc<Process>,
        general: &General,
    ) -> io::Result<impl Future<Output = ()> + use<>> {
        Ok(Accepting::new(self, &general.tcp)?.serve(workers, process))
    }
}

impl Accepting {
    async fn serve(self, workers: Vec<Handle>, process: Arc<Process>) {
        loop {
            match self.next().await {
                Ok((stream, peer)) => match process.door.enter(&peer).await {
                    Ok(ticket) => {
                        hand_out(Command::Client(stream, peer, Box::new(ticket)), &workers, &process);
                    }
                    Err(barred) => turn_away(stream, &peer, barred),
                },
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again in a moment");
                    crate::alarm::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A listener as it is served: what it accepts is no business of this thread's runtime, so it is never registered there.
enum Accepting {
    Tcp(AsyncFd<OwnedFd>),
    Unix(AsyncFd<OwnedFd>, PathBuf),
}

impl Accepting {
    /// Connections inherit the options of the socket that accepts them.
    fn new(listener: &Listener, options: &Tcp) -> io::Result<Accepting> {
        let socket = listener.socket.try_clone()?;
        match &listener.address {
            Address::Tcp(_) => {
                prepare_tcp(&socket, options)?;
                readable(socket.into()).map(Accepting::Tcp)
            }
            Address::Unix(path) => Ok(Accepting::Unix(readable(socket.into())?, path.clone())),
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
            Accepting::Unix(_, path) => Ok((Detached::Unix(stream.into()), Address::Unix(path.clone()))),
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

/// Gives a connection to the less loaded of two workers drawn at random.
pub(super) fn hand_out(connection: Command, workers: &[Handle], process: &Process) {
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
    if chosen.commands.send(connection).is_err() {
        process.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
