//! A client that goes to another process: what its session comes to when it is at rest, and how it goes on from there.
//!
//! Invariants: a client goes only when nothing is under way in either direction and no server is its own; what it has sent and
//! nobody has looked at goes with it; a client that comes is not greeted again.

use crate::client::cancel_keys::CancelKey;
use crate::client::cell::{Activity, ClientCell, Origin};
use crate::client::context::Context;
use crate::client::login::{Counted, live, session};
use crate::client::relay::{Body, Leaving, Relay};
use crate::config::Config;
use crate::handover::Migrant;
use crate::handover::message::{ClientState, StatementState};
use crate::handover::wire::LONGEST;
use crate::moment::Moment;
use crate::net::stream::{Address, Detached};
use crate::net::{Buffer, Socket, Stream};
use crate::pool::Shard;
use crate::pool::greetings::{pairs, reported, reports, settings};
use crate::protocol::TxStatus;
use crate::routing;
use crate::session::statements::stamp;
use crate::session::{Named, ResultShape, Statement};
use serde_bytes::ByteBuf;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

impl Relay {
    /// Whether the client can go as it stands. One that is in line can: it will stand in line there.
    pub(super) fn can_move(&self) -> bool {
        let is_quiet = self.lease.is_none()
            && self.request == Body::None
            && self.reply == Body::None
            && self.to_server.is_empty()
            && self.to_client.is_empty()
            && self.from_server.is_empty();
        let is_plain = matches!(self.stream, Stream::Plain(_));
        let owes_nothing = !self.skip_to_sync
            && self.lost.is_none()
            && self.pinned.is_none()
            && self.listening.is_none()
            && !self.is_holding
            && self.survey.is_none()
            && self.confirming.is_none();
        // Longer than a message may be it stays.
        let unnamed = self.statements.get(b"").map_or(0, |named| named.statement.rest().len());
        let is_short = self.statements.bytes() + unnamed + self.from_client.len() < LONGEST / 2;
        is_short && is_quiet && is_plain && owes_nothing && !self.is_dedicated
    }

    /// Takes the client out of line, if it is in line: it goes.
    pub(super) fn leave_line(&mut self) {
        if self.cell.seat.is_waiting() {
            let now = Moment::now();
            self.shard.give_up(&self.cell.seat, now);
            self.set_activity(Activity::Idle, now);
        }
    }

    /// The client as it goes.
    ///
    /// # Errors
    /// The system's, in which case its connection is lost.
    pub(super) fn emigrate(&mut self) -> io::Result<Migrant> {
        let state = self.state();
        let socket = self.stream.take_plain().into_descriptor()?;
        Ok(Migrant { socket, state: Box::new(state) })
    }

    fn state(&self) -> ClientState {
        let cell = &self.cell;
        let origin = cell.origin();
        let unnamed = self.statements.get(b"").map(|named| (&b""[..], named));
        let statement = |(name, named): (&[u8], &Named)| StatementState {
            name: bytes(name),
            rest: bytes(named.statement.rest()),
            sql: named.statement.sql().map(bytes),
            scope: pairs(named.statement.scope()),
            shape: named.shape.map(ResultShape::sum),
        };
        ClientState {
            database: cell.database.to_string(),
            user: cell.user.to_string(),
            pid: cell.key.pid,
            secret: bytes(&cell.key.secret),
            peer: origin.peer.to_string(),
            application_name: origin.application_name.to_string(),
            connected_at: Some(origin.connected_at),
            startup: pairs(&self.startup),
            settings: (self.settings != self.startup).then(|| pairs(&self.settings)),
            takes_rights: self.settings.takes_rights(),
            startup_reported: reports(&self.startup_reported),
            told: (self.told != self.startup_reported).then(|| reports(&self.told)),
            statements: unnamed.into_iter().chain(self.statements.iter()).map(statement).collect(),
            asks_currval: self.asks_currval,
            input: bytes(self.from_client.bytes()),
        }
    }
}

/// How a client arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// From another process. `shapes`: what it says of the columns of its statements means the same here.
    New {
        /// See there.
        shapes: bool,
    },
    /// It was on its way to another process and has come back: it stays.
    Back,
}

/// Serves a client that was with another process, from where it left off to its last byte.
pub async fn adopt(context: Rc<Context>, migrant: Migrant, arrival: Arrival) {
    // It was let in by the other process, whatever limits hold here.
    let _counted = Counted { context: context.clone(), place: context.process.door.seat() };
    let Migrant { socket, state } = migrant;
    let peer = address(&state.peer);
    let (database, user) = (state.database.clone(), state.user.clone());
    let stream = match attach(socket) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%peer, database, user, %error, "a client could not be taken over");
            return;
        }
    };
    let plan = |config: &Config| routing::route(config, &database, &user);
    let Some(shard) = context.shards.shard(plan) else {
        super::login::say_gone(stream, &database).await;
        return;
    };
    tracing::debug!(%peer, database, user, "client taken over");
    let shapes = arrival != (Arrival::New { shapes: false });
    let (slot, mut relay) = restore(&context, stream, shard, &state, &peer, shapes);
    if arrival == Arrival::Back && relay.leaving == Leaving::Moving {
        relay.leaving = Leaving::No;
    }
    drop(state);
    live(&context, slot, relay, &peer).await;
}

fn attach(socket: OwnedFd) -> io::Result<Stream> {
    // What the kernel says of the socket counts, not what the other process calls the client's address.
    let domain = socket2::SockRef::from(&socket).domain()?;
    let detached = match domain {
        socket2::Domain::UNIX => Detached::Unix(socket.into()),
        _ => Detached::Tcp(socket.into()),
    };
    let mut stream = Stream::Plain(Socket::from(detached));
    stream.attach()?;
    Ok(stream)
}

fn restore(
    context: &Rc<Context>,
    stream: Stream,
    shard: Rc<Shard>,
    state: &ClientState,
    peer: &Address,
    shapes: bool,
) -> (usize, Box<Relay>) {
    let startup = Arc::new(settings(&state.startup));
    let startup_reported = Arc::new(reported(&state.startup_reported));
    let limits = context.limits(&state.database, &state.user);
    let origin = Origin {
        peer: peer.clone(),
        local: stream.local(),
        fd: stream.fd(),
        replication: "none",
        application_name: (*state.application_name).into(),
        cipher: stream.cipher(),
        connected_at: state.connected_at.unwrap_or_else(SystemTime::now),
    };
    let key = CancelKey { pid: state.pid, secret: state.secret.as_slice().into() };
    let (slot, cell) = context
        .register_with(|_| key, |key| ClientCell::new(&state.database, &state.user, key, limits, origin));
    context.process.census.admit(&state.database, &state.user);
    cell.set_activity(Activity::Idle, Moment::now());
    // Where others have the same, all share one.
    let (startup, startup_reported) = shard.accepted(&startup).unwrap_or((startup, startup_reported));
    let input = buffer(&state.input);
    let mut relay = session(context, cell, stream, shard, None, input, startup, startup_reported);
    if let Some(own) = &state.settings {
        let mut own = settings(own);
        if state.takes_rights {
            own.note_rights();
        }
        relay.settings = Arc::new(own);
    }
    // What servers say may have changed since the client was told.
    let told = reported(state.told.as_ref().unwrap_or(&state.startup_reported));
    if told != *relay.told {
        relay.told = Arc::new(told);
    }
    relay.asks_currval = state.asks_currval;
    for statement in &state.statements {
        relay.restore_statement(statement, shapes);
    }
    relay.note_reading(TxStatus::Idle);
    (slot, relay)
}

impl Relay {
    fn restore_statement(&mut self, state: &StatementState, shapes: bool) {
        let scope = self.shard.share_reading(settings(&state.scope));
        let statement = match &state.sql {
            Some(prepare) => {
                let text = state.rest.split(|byte| *byte == 0).next().unwrap_or_default();
                Statement::by_sql(prepare, text, scope)
            }
            None => {
                let shared = self.shard.interner.borrow_mut().intern(&state.rest, &scope);
                // Each of a client's names has a statement of its own.
                let is_taken = !state.name.is_empty() && self.statements.has_id(shared.id());
                if is_taken { Statement::unshared(&state.rest, scope) } else { shared }
            }
        };
        let shape = state.shape.filter(|_| shapes).map(ResultShape::of_sum);
        self.statements.set(&state.name, Some(Named { statement, stamp: stamp(), shape }));
    }
}

fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::default();
    if !bytes.is_empty() {
        buffer.grow(bytes.len());
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }
    buffer
}

fn address(text: &str) -> Address {
    text.parse().map_or_else(|_| Address::Unix(PathBuf::from(text)), Address::Tcp)
}

fn bytes(bytes: &[u8]) -> ByteBuf {
    ByteBuf::from(bytes)
}
