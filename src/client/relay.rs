//! THE HOT PATH: one future a client polls both its sockets.
//!
//! A turn goes round: what the server has to say, what goes to the client, what the client asks. Each direction is
//! bounded by one buffer and independent of the other, so neither can block the other. `upstream` and `naming` hold what
//! happens to the client's messages, `downstream` what happens to the server's, `endings` how it all ends.
//!
//! Invariants: a server is given back only when it owes nothing, no batch is open, its last ReadyForQuery said idle, and
//! no byte is unsent or unread; a lease that is dropped on any other way closes its server.

use crate::client::cell::{Activity, ClientCell};
use crate::client::context::Context as WorkerContext;
use crate::client::listening::Listening;
use crate::client::outgoing::Outgoing;
use crate::client::reading::{Certainty, InForce, KnownReading};
use crate::client::sql_names::SqlNames;
use crate::client::survey::{Confirming, Survey};
use crate::config::{Config, PoolMode, Reset};
use crate::error::{Error, Kind};
use crate::moment::Moment;
use crate::net::buffer::{LARGE, SMALL};
use crate::net::{Buffer, Stream};
use crate::pool::{CheckoutError, Lease, Member, Pinned};
use crate::protocol::frame::FrameError;
use crate::protocol::{TxStatus, backend, frontend};
use crate::routing;
use crate::server::ServerError;
use crate::server::owed::Owed;
use crate::session::footprint::ResetPlan;
use crate::session::resets::Resets;
use crate::session::{Footprint, Reported, Settings, Statements};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Rounds of one turn before other clients of the worker get theirs.
const ROUNDS: u32 = 8;

/// Clients in line beyond which each keeps no more memory than its request needs.
const CROWD: usize = 128;

/// The statements that leave a server in a failed transaction, as the client left the one that was lost.
const FAIL_A_TRANSACTION: [&str; 2] = ["BEGIN", "ROLLBACK TO SAVEPOINT pgvalet_the_server_was_lost"];

/// Why a client's session ended.
#[derive(Debug)]
pub(super) enum End {
    /// It said goodbye.
    Terminated,
    /// It closed the connection.
    Closed,
    /// Its connection failed.
    Io(io::Error),
    /// pgvalet ends it, with a last word.
    Fatal(Error),
    /// It goes to another process.
    Moved,
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> End {
        End::Fatal(Error::new(Kind::ProtocolViolation, error.to_string()))
    }
}

/// What becomes of the rest of a message whose header was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Between messages.
    None,
    /// So many bytes still pass through.
    Forward(usize),
    /// So many bytes are still left out.
    Discard(usize),
}

/// How far the client has gone in taking its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// It sent Terminate: what is owed is delivered, then the session ends.
    Terminated,
    /// It closed its end without a word.
    HalfClosed,
    /// pgvalet shuts down: the session ends when it has no server.
    Draining,
    /// Another process takes over: the client goes there when it has no server.
    Moving,
}

/// A transaction whose server was lost.
#[derive(Debug)]
pub(super) struct LostTransaction {
    /// What the client is told at its next request; `None` once it was told.
    pub(super) error: Option<Error>,
}

/// A logged-in client and its dealings with servers.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) context: Rc<WorkerContext>,
    pub(super) cell: Rc<ClientCell>,
    pub(super) stream: Stream,
    pub(super) shard: Member,
    pub(super) lease: Option<Lease>,
    /// The server is this client's alone: a replication connection.
    pub(super) is_dedicated: bool,

    pub(super) from_client: Buffer,
    pub(super) to_server: Outgoing,
    pub(super) request: Body,
    pub(super) from_server: Buffer,
    pub(super) to_client: Outgoing,
    pub(super) reply: Body,

    /// The client's names for statements.
    pub(super) statements: Statements,
    /// Its settings, and those it logged in with.
    pub(super) settings: Arc<Settings>,
    pub(super) startup: Arc<Settings>,
    /// What servers report under the settings that it logged in with.
    pub(super) startup_reported: Arc<Reported>,
    /// What the last RESET took back; what is reported of it until the client's defaults hold again is not its own.
    pub(super) resetting: Option<Box<Resets>>,
    /// What statements take back that were bound in this lease.
    pub(super) bound_resets: Option<Box<Resets>>,
    /// How texts are read, once that was of interest.
    pub(super) reading: Option<Box<KnownReading>>,
    /// What it has been told by ParameterStatus.
    pub(super) told: Arc<Reported>,
    /// Whether its texts can be read.
    pub(super) certainty: Certainty,

    /// What it can have left behind in the server it has, since the server was last asked.
    pub(super) footprint: Footprint,
    /// What is known to be left there, or can be from before.
    pub(super) left: Footprint,
    /// The question that the server was asked, and has not answered.
    pub(super) survey: Option<Box<Survey>>,
    /// Nothing has run since the server was asked.
    pub(super) is_surveyed: bool,
    /// Custom settings that it may have set in this lease.
    pub(super) custom: Vec<Box<str>>,
    /// It keeps its server for itself.
    pub(super) pinned: Option<Box<Pinned>>,
    /// It listens, and holds no server for that.
    pub(super) listening: Option<Box<Listening>>,
    /// A ReadyForQuery waits until the client's own notifications have come.
    pub(super) is_holding: bool,
    /// It has asked for `currval` or `lastval`.
    pub(super) asks_currval: bool,
    /// The server was lent for a request that waits until the client's settings are confirmed.
    pub(super) is_unused: bool,
    /// Nothing may run until the server has taken the client's settings.
    pub(super) confirming: Option<Box<Confirming>>,
    /// Whether that server has its unnamed statement.
    pub(super) unnamed_here: bool,
    /// Names that were taken back because their Parse was never reached, by statement: a later batch may still be told
    /// about them.
    pub(super) undone_names: Vec<(u64, Box<[u8]>)>,
    /// The client's names under which the server has, or had, statements of SQL's.
    pub(super) sql_names: SqlNames,
    /// How a text is read now, where the server had to be asked: for the Parse that comes next.
    pub(super) in_force: Option<Box<InForce>>,
    /// The server is not to be used again, whatever state it seems to be in.
    pub(super) spoiled: bool,
    /// The client discarded all: reports until ReadyForQuery tell the pool's values, not its own.
    pub(super) discarding: bool,
    /// The server was asked for the replies that it holds back, because too many are unanswered.
    pub(super) asked_for_replies: bool,
    /// An error of ours stands in for a reply: everything up to Sync is skipped.
    pub(super) skip_to_sync: bool,
    pub(super) leaving: Leaving,
    pub(super) lost: Option<Box<LostTransaction>>,
    /// Nothing more can be read in this turn: the socket will wake the task.
    pub(super) client_dry: bool,
    pub(super) server_dry: bool,
    /// Reads in a row that filled the buffer, from client and server.
    pub(super) full_reads: (u8, u8),
}

impl Relay {
    /// One turn. Ready when the session has ended; the caller then drops the relay.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let outcome = self.turn(cx);
        self.to_server.relax();
        self.to_client.relax();
        let buffers = &self.context.buffers;
        buffers.reclaim(&mut self.from_client);
        buffers.reclaim(&mut self.from_server);
        match outcome {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        (self.client_dry, self.server_dry) = (false, self.is_holding);
        if self.cell.is_summoned() {
            self.hear(cx)?;
        }
        for _ in 0..ROUNDS {
            let mut progress = false;
            if self.lease.is_some() {
                progress |= self.serve_server(cx)?;
            }
            progress |= self.flush_client(cx)?;
            progress |= self.serve_client(cx)?;
            if !progress {
                return self.leave_if_done();
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes to the server and reads what it says.
    #[inline]
    fn serve_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(lease) = self.lease.as_mut() else { return Ok(false) };
        let mut progress = false;
        if !self.to_server.is_empty() {
            let mut sent = 0;
            match self.to_server.poll_flush(cx, &mut self.from_client, &mut lease.stream, &mut sent) {
                Poll::Ready(Ok(())) => progress = true,
                // Its last words may still be there to read.
                Poll::Ready(Err(_)) => self.to_server.discard(&mut self.from_client),
                Poll::Pending => progress = sent > 0,
            }
        }
        if self.server_dry || !self.to_client.is_empty() {
            return Ok(progress);
        }
        let size = if self.full_reads.1 >= 2 { LARGE } else { SMALL };
        match lease.stream.poll_fill(cx, &mut self.from_server, &self.context.buffers, size) {
            Poll::Pending => {
                self.server_dry = true;
                self.full_reads.1 = 0;
                Ok(progress)
            }
            Poll::Ready(Ok(0)) => self.server_lost(ServerError::Closed).map(|()| true),
            Poll::Ready(Err(error)) => self.server_lost(error.into()).map(|()| true),
            Poll::Ready(Ok(_)) => {
                self.full_reads.1 =
                    if self.from_server.is_full() { self.full_reads.1.saturating_add(1) } else { 0 };
                self.scan_server()?;
                Ok(true)
            }
        }
    }

    /// Notes what the client is doing. One that has closed its end is given a moment for whatever it still waits for.
    #[inline]
    pub(super) fn set_activity(&self, activity: Activity, now: Moment) {
        let activity = match activity {
            Activity::Active | Activity::Waiting if self.leaving == Leaving::HalfClosed => Activity::Closing,
            activity => activity,
        };
        self.shard.stats().note(self.cell.set_activity(activity, now));
        if matches!(activity, Activity::Idle | Activity::Pinned) {
            self.cell.note(self.statements.len(), &self.told);
        }
    }

    #[inline]
    pub(super) fn flush_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.to_client.is_empty() {
            return Ok(false);
        }
        let mut sent = 0;
        let outcome = self.to_client.poll_flush(cx, &mut self.from_server, &mut self.stream, &mut sent);
        self.shard.counters().sent.add(sent);
        match outcome {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Pending => Ok(false),
        }
    }

    /// Deals with what the client has sent, and reads more.
    #[inline]
    fn serve_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        if !self.from_client.is_empty() && self.to_server.is_empty() {
            progress |= self.scan_client(cx)?;
        }
        let in_line = self.cell.seat.is_waiting();
        if self.client_dry || !self.to_server.is_empty() || self.leaving == Leaving::HalfClosed {
            return Ok(progress);
        }
        if self.leaving == Leaving::Terminated {
            return self.see_off(cx).map(|more| progress | more);
        }
        if in_line {
            // Only to notice when the client leaves: most of those in line hold just what they sent.
            if self.stream.poll_read_ready(cx).is_pending() {
                self.client_dry = true;
                return Ok(progress);
            }
        }
        let size = if self.full_reads.0 >= 2 { LARGE } else { SMALL };
        if self.from_client.is_allocated() {
            self.context.buffers.equip(&mut self.from_client, size);
            if self.from_client.space().is_empty() {
                return Ok(progress);
            }
        }
        match self.stream.poll_fill(cx, &mut self.from_client, &self.context.buffers, size) {
            Poll::Pending => {
                self.client_dry = true;
                self.full_reads.0 = 0;
                Ok(progress)
            }
            Poll::Ready(Ok(0)) => {
                self.leaving = Leaving::HalfClosed;
                self.set_activity(self.cell.activity(), Moment::now());
                Ok(progress)
            }
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Ready(Ok(count)) => {
                self.full_reads.0 =
                    if self.from_client.is_full() { self.full_reads.0.saturating_add(1) } else { 0 };
                self.shard.counters().received.add(count as u64);
                if !in_line {
                    self.scan_client(cx)?;
                }
                Ok(true)
            }
        }
    }

    /// The client said goodbye: nothing that it sends counts any more, but whether it is still there to read does.
    fn see_off(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.stream.poll_read(cx, &mut [0; 64]) {
            Poll::Ready(Ok(0)) => {
                self.leaving = Leaving::HalfClosed;
                self.set_activity(self.cell.activity(), Moment::now());
                Ok(false)
            }
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Pending => Ok(false),
        }
    }

    /// Gets a server for what the client asks; `false` while it waits. An error may have answered in place of a server.
    pub(super) fn check_out(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.to_client.is_empty() {
            // Who does not take what it got is not given more.
            return Ok(false);
        }
        if let Some(error) = self.lost.as_mut().and_then(|lost| lost.error.take()) {
            self.fail_request(&error)?;
            return Ok(true);
        }
        let now = Moment::recent();
        let waited = self.cell.seat.is_waiting();
        let limit = self.cell.query_wait_timeout();
        loop {
            match self.shard.checkout(cx, &self.cell.seat, now, limit) {
                Poll::Ready(Ok(lease)) => {
                    if waited || self.cell.activity() == Activity::Waiting {
                        let wait = now.micros_since(self.cell.seat.arrival());
                        self.shard.counters().waits.add(1);
                        self.shard.stats().wait_times.observe(wait);
                    }
                    self.begin_lease(lease, now);
                    return Ok(true);
                }
                Poll::Ready(Err(CheckoutError::Moved)) => {
                    let plan = |config: &Config| routing::route(config, &self.cell.database, &self.cell.user);
                    match self.context.shards.shard(plan) {
                        Some(shard) => self.shard = shard.into(),
                        None => {
                            let gone = format!(
                                "database \"{}\" was removed from the configuration",
                                self.cell.database
                            );
                            return Err(End::Fatal(Error::new(Kind::UnknownDatabase, gone)));
                        }
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.set_activity(Activity::Idle, now);
                    self.fail_request(&error.into())?;
                    return Ok(true);
                }
                Poll::Pending => {
                    if !matches!(self.cell.activity(), Activity::Waiting | Activity::Closing) {
                        self.set_activity(Activity::Waiting, now);
                        if self.shard.waiting() > CROWD {
                            self.from_client.shrink(&self.context.buffers);
                        }
                    }
                    return Ok(false);
                }
            }
        }
    }

    /// Takes the server on: what it lacks goes in front of the client's bytes.
    fn begin_lease(&mut self, lease: Lease, now: Moment) {
        self.shard.counters().leases.add(1);
        self.set_activity(Activity::Active, now);
        self.footprint = Footprint::NOTHING;
        self.unnamed_here = false;
        self.spoiled = false;
        self.server_dry = false;
        self.undone_names.clear();
        self.sql_names.clear();
        self.in_force = None;
        self.resetting = None;
        self.bound_resets = None;
        self.left = Footprint::NOTHING;
        self.is_unused = false;
        self.lease = Some(lease);
        self.bring_channels();
        self.put_settings_in_force();
        if let Some(lost) = self.lost.take() {
            debug_assert!(lost.error.is_none());
            for sql in FAIL_A_TRANSACTION {
                frontend::query(self.to_server.insert(&mut self.from_client), sql);
                self.owe(Owed::Failing);
            }
        }
        if self.lease.as_ref().is_some_and(|lease| lease.owed.is_empty()) {
            self.tell_news();
        }
    }

    /// Tells the client what the server reports and it has not been told.
    pub(super) fn tell_news(&mut self) {
        let Some(lease) = self.lease.as_mut() else { return };
        if Arc::ptr_eq(&lease.reported, &self.told) {
            return;
        }
        if *lease.reported == *self.told {
            lease.reported = self.told.clone();
            return;
        }
        let told = std::mem::replace(&mut self.told, lease.reported.clone());
        for (name, value) in self.told.news(&told) {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            backend::parameter_status(self.to_client.insert(&mut self.from_server), &name, &value);
        }
        let changed = |name: &[u8]| told.get(name) != self.told.get(name);
        // Until all is answered that it has sent.
        if changed(b"client_encoding") || changed(b"standard_conforming_strings") {
            self.doubt_reading();
        }
    }

    /// Whether the server can be given back now; does it if so.
    #[inline]
    pub(super) fn settle(&mut self) -> Result<(), End> {
        let Some(lease) = self.lease.as_ref() else { return Ok(()) };
        if !lease.owed.at_rest() || self.request != Body::None || !self.to_server.is_empty() {
            return Ok(());
        }
        debug_assert_eq!(self.reply, Body::None);
        if self.is_unused && !self.input().is_empty() {
            return Ok(());
        }
        if lease.status != TxStatus::Idle {
            if self.shard.with_policy(|policy| policy.mode) == PoolMode::Statement {
                let error = Error::new(
                    Kind::NoTransactions,
                    "transaction blocks not allowed in statement pooling mode",
                )
                .hint("Use pool_mode = \"transaction\" for this database.");
                return Err(End::Fatal(error));
            }
            self.set_activity(Activity::IdleInTransaction, Moment::recent());
            return Ok(());
        }
        if let Some(tag) = self.from_server.bytes().get(self.to_client.cursor()) {
            // Part of a message. For the rest of one that may come at any time it waits; nothing else can be meant.
            return match tag {
                b'S' | b'N' | b'A' | b'E' => Ok(()),
                _ => self.server_lost(ServerError::Protocol("bytes after ReadyForQuery")),
            };
        }
        if self.is_session_pooled() {
            self.forget_facts_after_ddl();
            self.set_activity(Activity::Idle, Moment::now());
            self.shard.counters().transactions.add(1);
            return Ok(());
        }
        if !self.footprint.union(self.left).is_empty() && self.lingers()? {
            return Ok(());
        }
        let now = Moment::recent();
        self.set_activity(Activity::Idle, now);
        self.release(now);
        Ok(())
    }

    /// Whether the server does not go to others yet: it is asked something first, or the client keeps it.
    fn lingers(&mut self) -> Result<bool, End> {
        if self.sql_names.is_to_be_asked() {
            // What the client has prepared by SQL is asked of the server before it goes to others.
            self.ask_names();
            return Ok(true);
        }
        if self.survey_is_due() {
            self.forget_facts_after_ddl();
            self.send_survey();
            return Ok(true);
        }
        self.forget_facts_after_ddl();
        let stays = self.stays()?;
        self.look_for_mail();
        if stays {
            let is_pinned = self.pinned.is_some();
            self.shard.counters().transactions.add(u64::from(is_pinned));
            self.set_activity(if is_pinned { Activity::Pinned } else { Activity::Idle }, Moment::now());
        }
        Ok(stays)
    }

    pub(super) fn is_session_pooled(&self) -> bool {
        self.shard.with_policy(|policy| policy.mode) == PoolMode::Session
    }

    /// Forgets what was known of the catalog if the client may have changed it.
    pub(super) fn forget_facts_after_ddl(&mut self) {
        if self.footprint.contains(Footprint::DDL) {
            self.shard.pool.catalog.forget();
            self.footprint = self.footprint.without(Footprint::DDL);
        }
    }

    /// Gives the server back; it is free.
    fn release(&mut self, now: Moment) {
        let plan = self.reset_plan();
        let Some(lease) = self.lease.take() else { return };
        self.shard.counters().transactions.add(1);
        self.custom = Vec::new();
        if self.undone_names.capacity() > 0 {
            self.undone_names = Vec::new();
        }
        self.sql_names.clear();
        self.in_force = None;
        if self.spoiled {
            lease.retire("its client has done to it what nothing undoes");
        } else {
            lease.checkin(plan, now);
        }
    }

    /// What the server has to go through before the next client.
    pub(super) fn reset_plan(&self) -> ResetPlan {
        match self.shard.with_policy(|policy| policy.reset) {
            Reset::Never => ResetPlan::Nothing,
            Reset::Always => {
                // Code that nobody read may have made statements too.
                let unread = Footprint::EVERYTHING.union(Footprint::EXECUTES);
                if self.sql_names.is_uncertain() || self.footprint.union(self.left).intersects(unread) {
                    return ResetPlan::Full;
                }
                self.sql_names.reset(ResetPlan::sparing())
            }
            Reset::Auto => {
                let footprint = self.footprint.union(self.left);
                // A server that nobody has would end by it.
                if self.lease.as_ref().is_some_and(|lease| lease.in_force.ends_idle()) {
                    return ResetPlan::Full;
                }
                if footprint.is_stateless() {
                    return ResetPlan::Nothing;
                }
                self.shard.count_reset(footprint);
                if self.sql_names.is_uncertain() {
                    return ResetPlan::Full;
                }
                let plan = footprint.without(Footprint::STATEMENTS).reset_plan();
                self.sql_names.reset(plan)
            }
        }
    }

    /// Answers the client's request, or what is left of it, with an error of ours. No server is involved.
    pub(super) fn fail_request(&mut self, error: &Error) -> Result<(), End> {
        self.shard.counters().pooler_errors.add(1);
        self.shard.stats().errors.count(error.sqlstate());
        if self.context.config.borrow().general.log.pooler_errors {
            tracing::warn!(
                peer = %self.cell.peer(),
                database = &*self.cell.database,
                user = &*self.cell.user,
                reason = %error,
                "request refused"
            );
        }
        let status = self.status_without_server();
        let header = crate::protocol::Header::parse(self.from_client.bytes())?;
        let out = self.to_client.insert(&mut self.from_server);
        error.write(out, "ERROR");
        match header {
            Some(header) if matches!(header.tag, b'Q' | b'F') => {
                self.request = Body::Discard(header.total());
                backend::ready_for_query(out, status);
            }
            _ => self.skip_to_sync = true,
        }
        Ok(())
    }

    /// The transaction status of a client that has no server.
    pub(super) fn status_without_server(&self) -> TxStatus {
        if self.lost.is_some() { TxStatus::Failed } else { TxStatus::Idle }
    }
}
