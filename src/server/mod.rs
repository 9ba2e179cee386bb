//! One connection to PostgreSQL: its protocol state, and the few things pgvalet says to a server on its own account.
//!
//! The relay drives a leased server itself, by its public fields; the functions here serve a server that no client has:
//! [`login`] opens it, [`Server::run`] runs a statement of ours on it, [`Server::take_news`] reads what an idle server
//! says unasked.

pub mod ask;
pub mod cancel;
pub mod error;
pub mod login;
pub mod open;
pub mod owed;
mod password;
pub mod turns;

pub use error::ServerError;

use crate::moment::Moment;
use crate::net::Stream;
use crate::protocol::frame::HEADER;
use crate::protocol::{ErrorFields, Header, TxStatus, backend, frontend};
use crate::server::cancel::CancelGate;
use crate::server::open::Route;
use crate::server::owed::OwedQueue;
use crate::session::settings::followed;
use crate::session::{Reported, ResultShape, Settings};
use bytes::{Buf, BytesMut};
use lru::LruCache;
use std::io;
use std::sync::Arc;
use zeroize::Zeroize;

/// Longest reply, in bytes, to a statement of pgvalet's own.
const MAX_OWN_REPLY: usize = 256 << 20;
/// Most that is read at once of a server that no client has.
const CHUNK: usize = 4096;

/// The credentials of a CancelRequest, as the server gave them.
#[derive(Debug, Clone, Default)]
pub struct BackendKey {
    /// Process id of the backend; 0 if the server sent no key.
    pub pid: i32,
    /// The secret; empty if the server sent no key.
    pub secret: Box<[u8]>,
}

/// A logged-in connection to PostgreSQL.
#[derive(Debug)]
pub struct Server {
    /// The connection.
    pub stream: Stream,
    /// What it has yet to answer.
    pub owed: OwedQueue,
    /// What its last ReadyForQuery said.
    pub status: TxStatus,
    /// Statements prepared on it, by last use.
    pub prepared: Prepared,
    /// How many they may be.
    pub max_prepared: usize,
    /// The settings in force on top of its pool's.
    pub in_force: Arc<Settings>,
    /// What it has reported of itself.
    pub reported: Arc<Reported>,
    /// For cancel requests.
    pub key: BackendKey,
    /// For cancel requests: where exactly it is, and how it was reached.
    pub address: Route,
    /// Cancel requests on their way to it.
    pub cancels: Arc<CancelGate>,
    /// When it logged in.
    pub connected_at: Moment,
    /// When it is to be closed for its age.
    pub expires_at: Option<Moment>,
    /// When it last came back from a client, or was last checked.
    pub idle_since: Moment,
    /// When it was last seen alive.
    pub checked_at: Moment,
}

/// The statements prepared on a server, by id.
pub type Prepared = LruCache<u64, Preparation>;

/// A statement as one server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparation {
    /// `None` if the server has confirmed it, else the number of the batch that is to prepare it.
    batch: Option<u32>,
    /// When it was prepared (`session::statements::stamp`).
    pub stamp: u64,
    /// The columns it had then, once the server has told.
    pub shape: Option<ResultShape>,
}

/// Whether a server has a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// It does, or the message that needs it will fail together with the one that prepares it.
    Yes(Preparation),
    /// An earlier batch is to prepare it, and may fail before it comes to that.
    Perhaps,
    /// It does not.
    No,
}

/// What [`Server::run`] brought back.
#[derive(Debug, Default)]
pub struct Reply {
    /// Rows of text values; NULL reads as an empty text.
    pub rows: Vec<Vec<String>>,
}

impl Server {
    /// Whether it has as many statements as it may have. It has more when evictions were undone by an error.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.prepared.len() >= self.max_prepared.max(1)
    }

    /// Whether it has the statement of this id; that counts as a use.
    #[inline]
    pub fn has(&mut self, id: u64) -> Has {
        match self.prepared.get(&id) {
            None => Has::No,
            Some(known) if known.batch.is_none_or(|batch| batch == self.owed.batch()) => Has::Yes(*known),
            Some(_) => Has::Perhaps,
        }
    }

    /// Notes that the batch being sent prepares the statement of this id, at the moment `stamp`.
    pub fn will_have(&mut self, id: u64, stamp: u64) {
        let batch = Some(self.owed.batch());
        self.prepared.put(id, Preparation { batch, stamp, shape: None });
    }

    /// Notes that something was sent which may close prepared statements; whether it did is not known yet.
    pub fn doubt_prepared(&mut self) {
        self.prepared.iter_mut().for_each(|(_, known)| known.batch = Some(0));
    }

    /// Notes that what the server has for this id, if anything, is not to be relied on.
    pub fn doubt(&mut self, id: u64) {
        self.prepared.put(id, Preparation { batch: Some(0), stamp: 0, shape: None });
    }

    /// Forgets all statements but those of these ids, which the batch being sent prepares.
    pub fn keep_only(&mut self, ids: &[u64]) {
        let batch = Some(self.owed.batch());
        let kept: Vec<_> = ids.iter().filter_map(|id| Some((*id, *self.prepared.peek(id)?))).collect();
        self.prepared.clear();
        for (id, known) in kept {
            self.prepared.put(id, Preparation { batch, ..known });
        }
    }

    /// Notes the columns of what was prepared for this id at the moment `stamp`.
    pub fn note_shape(&mut self, id: u64, stamp: u64, shape: ResultShape) {
        if let Some(known) = self.prepared.peek_mut(&id).filter(|known| known.stamp == stamp) {
            known.shape = Some(shape);
        }
    }

    /// Notes that a ParseComplete has come.
    #[inline]
    pub fn confirm_prepared(&mut self) {
        // One that is closed again behind it is not known to be there.
        let confirmed = self.owed.confirming().filter(|id| !self.owed.evicts(*id));
        if let Some(known) = confirmed.and_then(|id| self.prepared.peek_mut(&id)) {
            known.batch = None;
        }
    }

    /// Whether it may be lent out: everything answered, no transaction open.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.owed.at_rest() && self.status == TxStatus::Idle
    }

    /// Runs `sql` as one simple Query, on a server that no client has.
    ///
    /// # Errors
    /// [`ServerError::Refused`] for an ErrorResponse, after which the server can still be used; any other error means
    /// that it must be closed.
    pub async fn run(&mut self, sql: &str) -> Result<Reply, ServerError> {
        let mut out = BytesMut::new();
        frontend::query(&mut out, sql);
        self.stream.write_all(&out).await?;
        let mut reader = Reader::default();
        let mut reply = Reply::default();
        let mut refused = None;
        let mut received = 0;
        loop {
            let (tag, body) = reader.next(&mut self.stream).await?;
            received += body.len();
            if received > MAX_OWN_REPLY {
                return Err(ServerError::Protocol("the reply is too long"));
            }
            match tag {
                b'D' => {
                    let row =
                        backend::read_data_row(&body).ok_or(ServerError::Protocol("malformed DataRow"))?;
                    reply
                        .rows
                        .push(row.into_iter().map(|value| String::from_utf8_lossy(value).into()).collect());
                }
                b'E' => {
                    let fatal = ErrorFields::new(&body).is_fatal();
                    refused = Some(ServerError::Refused(body.to_vec().into()));
                    if fatal {
                        return Err(ServerError::Lost(refused.map(Box::new)));
                    }
                }
                b'Z' => {
                    self.status = ready_status(&body)?;
                    if !reader.is_empty() {
                        return Err(ServerError::Protocol("bytes after ReadyForQuery"));
                    }
                    return refused.map_or(Ok(reply), Err);
                }
                b'S' => self.report_change(&body)?,
                b'T' | b'C' | b'I' | b'N' | b'A' => {}
                _ => return Err(ServerError::Protocol("unexpected reply to a simple query")),
            }
        }
    }

    /// Reads what the server sent while nobody asked it anything. The caller knows that the stream is readable.
    ///
    /// # Errors
    /// Any error means that the server has gone or must be closed.
    pub fn take_news(&mut self) -> Result<(), ServerError> {
        let mut chunk = [0; 4096];
        let mut pending = BytesMut::new();
        loop {
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err(ServerError::Closed),
                Ok(count) => pending.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            while let Some((tag, body)) = split_message(&mut pending)? {
                match tag {
                    b'S' => self.report_change(&body)?,
                    b'N' | b'A' => {}
                    b'E' => {
                        return Err(ServerError::Lost(Some(Box::new(ServerError::Refused(
                            body.to_vec().into(),
                        )))));
                    }
                    _ => return Err(ServerError::Protocol("a message that nobody asked for")),
                }
            }
        }
        // A message cut in two here is so rare that the server is not worth keeping.
        if pending.is_empty() {
            Ok(())
        } else {
            Err(ServerError::Protocol("part of a message that nobody asked for"))
        }
    }

    /// Says goodbye, if the connection is where a message may start and the kernel takes it at once.
    pub fn farewell(&mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        let _ = self.stream.try_write(&out);
    }

    /// A report from a server that no client has. Whatever changed the value, a rollback or a new configuration, it is now
    /// in force, and no client's settings may be taken to be.
    fn report_change(&mut self, body: &[u8]) -> Result<(), ServerError> {
        let (name, value) =
            backend::read_parameter_status(body).ok_or(ServerError::Protocol("malformed ParameterStatus"))?;
        if Reported::record(&mut self.reported, name, value)
            && let Some(name) = std::str::from_utf8(name).ok().and_then(followed)
        {
            Arc::make_mut(&mut self.in_force).set(name, &String::from_utf8_lossy(value));
        }
        Ok(())
    }

    fn report(&mut self, body: &[u8]) -> Result<(), ServerError> {
        let (name, value) =
            backend::read_parameter_status(body).ok_or(ServerError::Protocol("malformed ParameterStatus"))?;
        Reported::record(&mut self.reported, name, value);
        Ok(())
    }
}

/// Reads the body of a ReadyForQuery.
pub(crate) fn ready_status(body: &[u8]) -> Result<TxStatus, ServerError> {
    match body {
        &[status] => TxStatus::from_byte(status),
        _ => None,
    }
    .ok_or(ServerError::Protocol("malformed ReadyForQuery"))
}

/// Takes one whole message off the front of `buffer`.
fn split_message(buffer: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, ServerError> {
    let Some(header) = Header::parse(buffer)? else { return Ok(None) };
    if header.total() > MAX_OWN_REPLY {
        return Err(ServerError::Protocol("the message is too long"));
    }
    if buffer.len() < header.total() {
        return Ok(None);
    }
    let mut message = buffer.split_to(header.total());
    message.advance(HEADER);
    Ok(Some((header.tag, message)))
}

/// Reads whole messages from a server outside the relay.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: BytesMut,
}

impl Reader {
    /// The next message.
    pub(crate) async fn next(&mut self, stream: &mut Stream) -> Result<(u8, BytesMut), ServerError> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(message) = split_message(&mut self.buffer)? {
                return Ok(message);
            }
            // Not in place: whoever asks may stop to wait, and what was made room for would stay.
            match stream.read(&mut chunk).await? {
                0 => return Err(ServerError::Closed),
                count => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    // It may have been a secret.
                    chunk[..count].zeroize();
                }
            }
        }
    }

    /// The next message, if it has come already.
    pub(crate) fn at_hand(&mut self) -> Result<Option<(u8, BytesMut)>, ServerError> {
        split_message(&mut self.buffer)
    }

    /// Whether everything received was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}
