//! The new process' side of the start: takes what the old one offers, and says when it could serve.

use crate::handover::message::{Greeting, Lessons, Offer, PROTOCOL};
use crate::handover::{Message, wire};
use crate::runtime::listener::Listener;
use crate::session::ResultShape;
use rustix::stdio::dup2_stdin;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::time::Duration;

pub use super::giver::ARGUMENT;

/// Set for a process that is nobody's child but the service manager's.
pub(super) const DETACHED: &str = "PGVALET_DETACHED";

/// Under systemd, starts this program again, for the other one to take over, and tells how to end.
///
/// systemd waits for the end of a process only if that was its own child when it was told of it. Else `systemctl stop` would
/// kill what it has just asked to end. What this process has started becomes systemd's child when this one ends.
#[must_use]
pub fn detach() -> Option<ExitCode> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() || std::env::var_os(DETACHED).is_some() {
        return None;
    }
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program).args(std::env::args_os().skip(1)).env(DETACHED, "1").spawn()
    });
    match started {
        Ok(_) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("cannot start in the place of another process: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// How long the old process may take for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What is taken over, and from whom.
#[derive(Debug)]
pub struct Takeover {
    /// The connection to the old process.
    pub(in crate::runtime) stream: UnixStream,
    /// Its listeners.
    pub(in crate::runtime) listeners: Vec<Listener>,
    /// Where it serves metrics.
    pub(in crate::runtime) metrics: Option<TcpListener>,
    /// What its logins have taught.
    pub(in crate::runtime) lessons: Lessons,
    /// What it greets clients with.
    pub(in crate::runtime) greetings: Vec<Greeting>,
    /// What else it offers.
    pub(in crate::runtime) offer: Offer,
}

impl Takeover {
    /// Takes what the process at the other end of standard input offers.
    ///
    /// # Errors
    /// Why nothing can be taken over; it was told to the other side, if there is one.
    pub fn begin() -> Result<Takeover, String> {
        let stream = standard_input().map_err(|error| {
            format!("{ARGUMENT}: {error}; it is for pgvalet's own use: give UPGRADE on the admin console")
        })?;
        let greeting = Message::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
        };
        wire::send(&stream, &greeting, &[]).map_err(broken)?;
        let (offer, sockets) = match wire::receive(&stream).map_err(broken)? {
            Some((Message::Offer(offer), sockets)) => (offer, sockets),
            Some((Message::Refused(reason), _)) => return Err(reason),
            _ => return Err(unexpected()),
        };
        let Some((Message::Learnt(lessons), _)) = wire::receive(&stream).map_err(broken)? else {
            return Err(unexpected());
        };
        let Some((Message::Greetings(greetings), _)) = wire::receive(&stream).map_err(broken)? else {
            return Err(unexpected());
        };
        let mut sockets = sockets.into_iter();
        let listeners = take_listeners(&offer, &mut sockets);
        let metrics = sockets.next().map(TcpListener::from).filter(|_| offer.metrics);
        let mut takeover = Takeover { stream, listeners: Vec::new(), metrics, lessons, greetings, offer };
        match listeners {
            Ok(listeners) => takeover.listeners = listeners,
            Err(error) => {
                let reason = format!("a listening socket cannot be taken over: {error}");
                takeover.fail(&reason);
                return Err(reason);
            }
        }
        Ok(takeover)
    }

    /// Tells the old process that there will be no new one.
    pub fn fail(&self, reason: &str) {
        let _ = wire::send(&self.stream, &Message::Failed(reason.to_owned()), &[]);
    }

    /// Whether what the old process says of columns means the same here.
    pub(in crate::runtime) fn has_same_shapes(&self) -> bool {
        self.offer.shapes == ResultShape::example()
    }

    /// Says that this process could serve, and waits for the word.
    pub(in crate::runtime) fn ready(&self) -> Result<(), String> {
        let outcome =
            wire::send(&self.stream, &Message::Ready, &[]).and_then(|()| wire::receive(&self.stream));
        match outcome.map_err(broken)? {
            Some((Message::Go, _)) => Ok(()),
            Some(_) => Err(unexpected()),
            None => {
                // It is gone, and this process has all that is needed to serve.
                tracing::warn!("the process to be replaced has ended by itself");
                Ok(())
            }
        }
    }
}

fn broken(error: io::Error) -> String {
    format!("the process to be replaced is not understood: {error}")
}

fn unexpected() -> String {
    "the process to be replaced said something else than expected".into()
}

/// The connection at standard input, in whose place nothing is left.
fn standard_input() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if !wire::is_of_same_user(&stream) {
        let text = "standard input is no connection to a process of the same user";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    stream.set_read_timeout(Some(LIMIT))?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(stream)
}

fn take_listeners(offer: &Offer, sockets: &mut impl Iterator<Item = OwnedFd>) -> io::Result<Vec<Listener>> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "it did not come");
    let take = |has_file: &bool| Listener::taken_over(sockets.next().ok_or_else(missing)?, *has_file);
    offer.listeners.iter().map(take).collect()
}
