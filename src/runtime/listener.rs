//! Listening sockets, those that systemd or another process has opened included, and the one task that accepts from each.
//!
//! That task is on a worker: what it accepts is often that worker's own, and then no thread has to be woken for it.

use crate::client::Context;
use crate::client::context::Process;
use crate::client::door::{Barred, Ticket};
use crate::config::General;
use crate::error::{Error, Kind};
use crate::net::connect::prepare_tcp;
use crate::net::stream::{Address, Detached};
use crate::net::unix::{for_system, from_system, is_abstract, socket_path};
use crate::runtime::worker::{self, Command, Handle};
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
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that are accepted before the worker's clients have a turn.
const MOST_IN_TURN: u32 = 16;

/// A socket that clients connect to, listening. Its connections are accepted by a [`Porter`] on a copy of the descriptor, so that accepting can stop and go on without a connection being refused.
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
        let path = socket_path(directory, port);
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
    if is_abstract(path) {
        return abstract_unix(path, general);
    }
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

/// A socket without a file: its name goes with its last descriptor.
fn abstract_unix(path: &Path, general: &General) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(for_system(path))?).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(error.kind(), "another process listens there"),
        _ => error,
    })?;
    socket.listen(backlog(general))?;
    Listener::of(socket)
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
        let path = from_system(local.as_pathname(), local.as_abstract_namespace());
        let address = match (local.as_socket(), path) {
            (Some(address), _) => Address::Tcp(address),
            (_, Some(path)) => Address::Unix(path),
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

    /// Somebody who accepts from it and hands out, on the worker that it is sent to, and what ends that.
    ///
    /// # Errors
    /// The system's, if it has no descriptor for that.
    pub fn porter(
        &self,
        workers: Vec<Handle>,
        process: Arc<Process>,
        general: &General,
    ) -> io::Result<(Porter, Shift)> {
        let socket = self.socket.try_clone()?;
        if let Address::Tcp(_) = &self.address {
            // Connections inherit the options of the socket that accepts them.
            prepare_tcp(&socket, &general.tcp)?;
        }
        let (dismiss, dismissed) = oneshot::channel();
        let (begun, has_begun) = oneshot::channel();
        let (gone, is_gone) = oneshot::channel();
        let socket = socket.into();
        let porter =
            Porter { socket, address: self.address.clone(), workers, process, dismissed, begun, _gone: gone };
        Ok((porter, Shift { dismiss, has_begun: Some(has_begun), is_gone }))
    }
}

/// Accepts from one listener.
#[derive(Debug)]
pub struct Porter {
    socket: OwnedFd,
    address: Address,
    workers: Vec<Handle>,
    process: Arc<Process>,
    /// Ends when nobody is to be accepted any more.
    dismissed: oneshot::Receiver<()>,
    /// Told whether it could begin.
    begun: oneshot::Sender<io::Result<()>>,
    /// Dropped when nobody is accepted any more.
    _gone: oneshot::Sender<()>,
}

/// The time for which a [`Porter`] accepts.
#[derive(Debug)]
pub struct Shift {
    dismiss: oneshot::Sender<()>,
    has_begun: Option<oneshot::Receiver<io::Result<()>>>,
    is_gone: oneshot::Receiver<()>,
}

impl Shift {
    /// Waits until it has begun.
    ///
    /// # Errors
    /// Why it has not.
    pub async fn has_begun(&mut self) -> io::Result<()> {
        match self.has_begun.take() {
            Some(begun) => begun.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())),
            None => Ok(()),
        }
    }

    /// Ends it. When this returns nobody is accepted any more.
    pub async fn end(self) {
        drop(self.dismiss);
        let _ = self.is_gone.await;
    }
}

impl Porter {
    /// Accepts until the shift ends. `context` is of the worker that it is on.
    pub async fn work(self, context: Rc<Context>) {
        let Porter { socket, address, workers, process, dismissed, begun, _gone } = self;
        let accepting = match readable(socket) {
            Ok(socket) => Accepting { socket, address, workers, process, context },
            Err(error) => return drop(begun.send(Err(error))),
        };
        let _ = begun.send(Ok(()));
        tokio::select! {
            biased;
            _ = dismissed => {}
            () = accepting.serve() => {}
        }
    }
}

/// A listener as it is served.
struct Accepting {
    socket: AsyncFd<OwnedFd>,
    address: Address,
    workers: Vec<Handle>,
    process: Arc<Process>,
    context: Rc<Context>,
}

impl Accepting {
    async fn serve(self) {
        let mut in_turn = 0;
        loop {
            match self.next().await {
                Ok((stream, peer)) => match self.process.door.enter(&peer).await {
                    Ok(ticket) => self.hand_out(stream, peer, Box::new(ticket)),
                    Err(barred) => turn_away(stream, &peer, barred),
                },
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again in a moment");
                    crate::alarm::sleep(PAUSE).await;
                }
            }
            in_turn += 1;
            if in_turn == MOST_IN_TURN {
                in_turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Gives a connection to a worker.
    fn hand_out(&self, stream: Detached, peer: Address, ticket: Box<Ticket>) {
        let chosen = choose(&self.workers);
        if chosen == self.context.worker {
            count_in(&self.workers[chosen], &self.process);
            worker::welcome(&self.context, stream, peer, ticket);
        } else {
            send(Command::Client(stream, peer, ticket), &self.workers[chosen], &self.process);
        }
    }

    async fn next(&self) -> io::Result<(Detached, Address)> {
        let accept =
            |listener: &OwnedFd| acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
        let (stream, peer) =
            self.socket.async_io(Interest::READABLE, |listener| Ok(accept(listener)?)).await?;
        match &self.address {
            Address::Tcp(_) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
                // A socket that systemd has opened may take IPv4 too, and then calls those addresses ::ffff:a.b.c.d: rules and
                // limits are about what they are.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok((Detached::Tcp(stream.into()), Address::Tcp(peer)))
            }
            Address::Unix(path) => Ok((Detached::Unix(stream.into()), Address::Unix(path.clone()))),
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

/// Gives a client that comes from another process to a worker.
pub(super) fn adopt(migrant: Command, workers: &[Handle], process: &Process) {
    send(migrant, &workers[choose(workers)], process);
}

/// The less loaded of two workers drawn at random.
fn choose(workers: &[Handle]) -> usize {
    if workers.len() == 1 {
        return 0;
    }
    let random = getrandom::u32().unwrap_or(0) as usize;
    let (one, other) = (random % workers.len(), (random >> 16) % workers.len());
    let load = |worker: usize| workers[worker].load.load(Ordering::Relaxed);
    if load(one) <= load(other) { one } else { other }
}

fn send(client: Command, to: &Handle, process: &Process) {
    count_in(to, process);
    if to.commands.send(client).is_err() {
        process.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a client in; its worker counts it out.
fn count_in(worker: &Handle, process: &Process) {
    process.clients.fetch_add(1, Ordering::Relaxed);
    worker.load.fetch_add(1, Ordering::Relaxed);
}
