//! The conversation of two processes once both serve: clients go over, cancel requests go both ways.
//!
//! Two threads, one that reads and one that writes, so that neither waits for the other process on anybody's behalf. What
//! is heard is given to a function; what is said waits in a queue. Invariant: a client that could not be sent comes back
//! ([`Event::Returned`]), unless some of it was written already.

use crate::handover::{Message, Migrant, wire};
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the last word may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is heard of the other process.
#[derive(Debug)]
pub enum Event {
    /// A client.
    Client(Migrant),
    /// A cancel request of this number, for a client of this process or of one that it can reach.
    Cancel {
        /// Number of the request; it is answered with it.
        id: u64,
        /// Process id that it names.
        pid: i32,
        /// Secret that it shows.
        secret: Vec<u8>,
    },
    /// Anything else that it said.
    Said(Message),
    /// A client that could not be sent.
    Returned(Migrant),
    /// The other process is gone, or not to be understood.
    Closed,
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Link {
    out: Sender<Out>,
    requests: Arc<Mutex<Requests>>,
}

/// Cancel requests that the other process has not answered.
#[derive(Debug, Default)]
struct Requests {
    last: u64,
    open: HashMap<u64, oneshot::Sender<()>>,
    closed: bool,
}

#[derive(Debug)]
enum Out {
    Farewell(Sender<()>),
    Mark(oneshot::Sender<()>),
    Message(Message),
    Client(Migrant),
}

impl Link {
    /// Begins the conversation on a connected socket.
    ///
    /// # Errors
    /// The system's, if it gives no thread or descriptor.
    pub fn start(stream: UnixStream, hear: impl Fn(Event) + Send + Clone + 'static) -> io::Result<Link> {
        stream.set_read_timeout(None)?;
        let (out, queue) = channel();
        let requests = Arc::new(Mutex::new(Requests::default()));
        let (reading, heard, open) = (stream.try_clone()?, hear.clone(), requests.clone());
        thread::Builder::new().name("handover-in".into()).spawn(move || {
            read(&reading, &open, &heard);
            let _ = reading.shutdown(Shutdown::Both);
            let mut requests = lock(&open);
            requests.closed = true;
            requests.open.clear();
            drop(requests);
            heard(Event::Closed);
        })?;
        thread::Builder::new().name("handover-out".into()).spawn(move || write(&stream, &queue, &hear))?;
        Ok(Link { out, requests })
    }

    /// Says something.
    pub fn say(&self, message: Message) {
        // If nobody takes it, the end of the conversation is told as an event.
        let _ = self.out.send(Out::Message(message));
    }

    /// Says that this process ends because it is to, and waits until that is on its way.
    pub fn farewell(&self) {
        let (sent, gone) = channel();
        let _ = self.out.send(Out::Farewell(sent));
        let _ = gone.recv_timeout(FAREWELL);
    }

    /// Ends when all that was said before is on its way, or has come back.
    pub fn flush(&self) -> oneshot::Receiver<()> {
        let (done, flushed) = oneshot::channel();
        let _ = self.out.send(Out::Mark(done));
        flushed
    }

    /// Sends a client.
    pub fn send(&self, migrant: Migrant) {
        let _ = self.out.send(Out::Client(migrant));
    }

    /// Passes a cancel request on; `done` is dropped when it has been dealt with.
    pub fn cancel(&self, pid: i32, secret: Vec<u8>, done: oneshot::Sender<()>) {
        let mut requests = lock(&self.requests);
        if requests.closed {
            return;
        }
        requests.last += 1;
        let id = requests.last;
        requests.open.retain(|_, done| !done.is_closed());
        requests.open.insert(id, done);
        drop(requests);
        self.say(Message::Cancel { id, pid, secret: secret.into() });
    }
}

fn lock(requests: &Mutex<Requests>) -> std::sync::MutexGuard<'_, Requests> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(stream: &UnixStream, requests: &Mutex<Requests>, hear: &impl Fn(Event)) {
    loop {
        match wire::receive(stream) {
            Ok(Some((Message::Client(state), descriptors))) => match descriptors.into_iter().next() {
                Some(socket) => hear(Event::Client(Migrant { socket, state })),
                None => tracing::error!("a client came without its connection"),
            },
            Ok(Some((Message::Cancel { id, pid, secret }, _))) => {
                hear(Event::Cancel { id, pid, secret: secret.into_vec() });
            }
            Ok(Some((Message::Canceled(id), _))) => drop(lock(requests).open.remove(&id)),
            Ok(Some((message, _))) => hear(Event::Said(message)),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the other process is not understood any more");
                return;
            }
        }
    }
}

fn write(stream: &UnixStream, queue: &Receiver<Out>, hear: &impl Fn(Event)) {
    let mut is_broken = false;
    // To the end of the queue, which is when nobody has the link any more: whoever is put into it is sent or comes back.
    while let Ok(out) = queue.recv() {
        let outcome = match out {
            Out::Client(migrant) if is_broken => Err((None, Some(migrant))),
            Out::Mark(_done) => Ok(()),
            Out::Message(_) if is_broken => Ok(()),
            Out::Farewell(_sent) => {
                wire::send(stream, &Message::Farewell, &[]).map_err(|error| (Some(error), None))
            }
            Out::Message(message) => wire::send(stream, &message, &[]).map_err(|error| (Some(error), None)),
            Out::Client(Migrant { socket, state }) => {
                let message = Message::Client(state);
                match (wire::send(stream, &message, &[socket.as_fd()]), message) {
                    (Err(error), Message::Client(state)) => {
                        Err((Some(error), Some(Migrant { socket, state })))
                    }
                    _ => Ok(()),
                }
            }
        };
        let Err((error, migrant)) = outcome else { continue };
        if let Some(error) = error {
            tracing::warn!(%error, "the other process could not be told");
            // What is too long was not begun.
            if error.kind() != io::ErrorKind::InvalidInput {
                is_broken = true;
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        if let Some(migrant) = migrant {
            hear(Event::Returned(migrant));
        }
    }
}
