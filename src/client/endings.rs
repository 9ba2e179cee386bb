//! How things end: a server that is lost, a query that is canceled, a client that leaves or is told to.
//!
//! Owns what becomes of the server, of what is owed, and of the last words. The turns themselves are in `relay`.

use crate::alarm::sleep;
use crate::client::cell::{Activity, CancelWish, ClientCell, Verdict};
use crate::client::greeting::notice;
use crate::client::relay::{Body, End, Leaving, LostTransaction, Relay};
use crate::config::PoolMode;
use crate::error::{Error, Kind};
use crate::moment::Moment;
use crate::pool::WaitingCancel;
use crate::protocol::{TxStatus, backend};
use crate::server::owed::Owed;
use crate::server::{ServerError, cancel};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a client is told that has waited `query_wait_notify`.
const WAITS: &str = "No server connection available in postgres backend, client being queued";

/// Pauses, in milliseconds, after which a cancel request that had to wait is sent once more.
const AGAIN: [u64; 5] = [50, 100, 200, 400, 800];

/// A server ignores a request that comes before it has read the query. Who asked long after the query was sent, and was made to
/// wait until it could be passed on, is not to lose by that: the request is repeated while the same query runs.
async fn insist(cell: &ClientCell, since: Moment) {
    for pause in AGAIN {
        sleep(Duration::from_millis(pause)).await;
        if cell.activity() != Activity::Active || cell.since() != since {
            return;
        }
        cell.request_cancel(oneshot::channel().0);
    }
}

impl Relay {
    /// The server has gone while the client had it: says so, and keeps the client if that can be done without telling
    /// it anything wrong.
    pub(super) fn server_lost(&mut self, error: ServerError) -> Result<(), End> {
        let Some(mut lease) = self.lease.take() else { return Ok(()) };
        self.shard.counters().lost_servers.add(1);
        tracing::warn!(
            peer = %self.cell.peer(),
            database = &*self.cell.database,
            user = &*self.cell.user,
            pid = lease.key.pid,
            reason = %error,
            "server lost"
        );
        let error: Error = error.into();
        let boundaries = lease.owed.boundaries();
        let in_transaction = lease.status != TxStatus::Idle;
        // What pgvalet asks on its own account is no batch of the client's.
        (self.confirming, self.resetting) = (None, None);
        let batch_open = boundaries == 0 && lease.owed.is_unsynced();
        let keepable = self.reply == Body::None
            && boundaries <= 1
            && self.pinned.take().is_none()
            // What the client has set, and was told is set, is lost with the answer.
            && self.survey.take().is_none()
            && !self.listens_here()
            && self.shard.with_policy(|policy| policy.mode) != PoolMode::Session;
        self.forget_facts_after_ddl();
        // Nothing is left to cancel on it. What it never came to, or never told of, has not changed the client's names.
        for owed in lease.owed.write_off() {
            match owed {
                Owed::Parse(naming) | Owed::Kept(naming) => {
                    self.statements.set(&naming.name, naming.previous);
                }
                Owed::Query(Some(unnamed)) => drop(self.statements.set(b"", Some(*unnamed))),
                _ => {}
            }
        }
        drop(lease);

        self.drop_unread_reply();
        self.to_server.discard(&mut self.from_client);
        if let Body::Forward(left) = self.request {
            self.request = Body::Discard(left);
        }
        if !keepable {
            return Err(End::Fatal(error));
        }
        self.set_activity(Activity::Idle, Moment::now());
        self.look_for_mail();
        if in_transaction {
            self.lost = Some(Box::new(LostTransaction { error: None }));
        }
        if boundaries == 1 || batch_open {
            let status = self.status_without_server();
            let out = self.to_client.insert(&mut self.from_server);
            error.write(out, "FATAL");
            if batch_open {
                self.skip_to_sync = true;
            } else {
                backend::ready_for_query(out, status);
            }
        } else if let Some(lost) = &mut self.lost {
            lost.error = Some(error);
        }
        Ok(())
    }

    /// Forgets what the lost server said and was not passed on; what was scanned still goes to the client.
    fn drop_unread_reply(&mut self) {
        let unread = self.from_server.len() - self.to_client.cursor();
        if unread > 0 {
            self.to_client.insert(&mut self.from_server);
            self.from_server.advance(unread);
        }
    }

    /// Listens to the worker: cancel requests, deadlines, the end of the process.
    pub(super) fn hear(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let (verdict, cancel) = self.cell.hear();
        if self.listening.is_some() && verdict.is_none() {
            self.hear_listener(cx)?;
        }
        if let Some(wish) = cancel {
            self.cancel(wish)?;
        }
        match verdict {
            None => Ok(()),
            // What it runs does not end by itself.
            Some(Verdict::Drain) if self.is_dedicated => Err(End::Fatal(shutdown())),
            Some(Verdict::Drain) => {
                if matches!(self.leaving, Leaving::No | Leaving::Moving) {
                    self.leaving = Leaving::Draining;
                }
                cx.waker().wake_by_ref();
                Ok(())
            }
            Some(Verdict::Waits) => {
                if self.cell.seat.is_waiting() && self.to_client.is_empty() {
                    notice(self.to_client.insert(&mut self.from_server), WAITS);
                }
                Ok(())
            }
            Some(Verdict::Move) if self.leaving == Leaving::No => {
                self.leaving = Leaving::Moving;
                cx.waker().wake_by_ref();
                Ok(())
            }
            Some(Verdict::Stay) if self.leaving == Leaving::Moving => {
                self.leaving = Leaving::No;
                Ok(())
            }
            Some(Verdict::Move | Verdict::Stay) => Ok(()),
            Some(Verdict::Vanished) => Err(End::Closed),
            Some(Verdict::End(error)) => Err(End::Fatal(error)),
        }
    }

    /// A cancel request for this client: stops the query that runs, takes a waiting one out of line, else does nothing.
    fn cancel(&mut self, wish: CancelWish) -> Result<(), End> {
        if let Some(lease) = &self.lease {
            // What pgvalet does on its own account is none of the client's.
            let has_request = lease.owed.boundaries() > 0 || lease.owed.is_unsynced();
            if lease.owed.is_at_own_query() && (has_request || self.confirming.is_some()) {
                // A query of the client's must not run without the settings that are being brought into force.
                let waiting = wish.waiting.unwrap_or_else(|| WaitingCancel::new(&self.shard.pool));
                self.cell.put_off(CancelWish { done: wish.done, waiting: Some(waiting) });
                return Ok(());
            }
            if has_request {
                // Of several requests that follow each other it could hit a later one.
                let is_missable = wish.waiting.is_some() && lease.owed.boundaries() <= 1;
                let done = wish.done;
                let since = self.cell.since();
                self.shard.counters().cancels.add(1);
                let pending = lease.cancels.enter();
                let (address, key, gate) = (lease.address.clone(), lease.key.clone(), lease.cancels.clone());
                let cell = self.cell.clone();
                let limit = self.context.config.borrow().general.cancel_wait_timeout;
                tokio::task::spawn_local(async move {
                    if let Err(error) = cancel::cancel(&address, &key, limit).await {
                        gate.doubt();
                        tracing::warn!(
                            peer = %cell.peer(),
                            database = &*cell.database,
                            user = &*cell.user,
                            %address,
                            pid = key.pid,
                            reason = %error,
                            "a cancel request could not be delivered"
                        );
                    }
                    drop(pending);
                    drop(done);
                    if is_missable {
                        insist(&cell, since).await;
                    }
                });
            }
            return Ok(());
        }
        if self.cell.seat.is_waiting() {
            let now = Moment::now();
            self.shard.give_up(&self.cell.seat, now);
            self.set_activity(Activity::Idle, now);
            self.fail_request(&Error::new(Kind::Canceled, "canceling statement due to user request"))?;
        }
        Ok(())
    }

    /// Ends the session if the client, or pgvalet, wants it to end and nothing is owed any more.
    pub(super) fn leave_if_done(&mut self) -> Result<(), End> {
        if self.leaving == Leaving::No {
            return Ok(());
        }
        let busy = self.lease.as_ref().is_some_and(|lease| !lease.owed.is_empty())
            || !self.to_server.is_empty()
            || !self.to_client.is_empty();
        let in_line = self.cell.seat.is_waiting();
        match self.leaving {
            Leaving::Terminated if !busy => Err(End::Terminated),
            // Nothing ends what is open any more. There may be replies that a Flush asked for: it is given a moment.
            Leaving::Terminated
                if self.cell.activity() != Activity::Closing
                    && self.lease.as_ref().is_some_and(|lease| lease.owed.waits_for_client()) =>
            {
                self.cell.set_activity(Activity::Closing, Moment::now());
                Ok(())
            }
            Leaving::HalfClosed if !busy && !in_line => Err(End::Closed),
            Leaving::Draining if !busy && !in_line && (self.lease.is_none() || self.may_leave_session()) => {
                Err(End::Fatal(shutdown()))
            }
            Leaving::Moving if self.can_move() => {
                self.leave_line();
                Err(End::Moved)
            }
            _ => Ok(()),
        }
    }

    /// Whether a session-pooled client is between transactions.
    fn may_leave_session(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_free()) && self.request == Body::None
    }

    /// The end of the session: last words, and the server into good hands.
    pub(super) fn finish(&mut self, end: &End) {
        let now = Moment::now();
        self.shard.give_up(&self.cell.seat, now);
        self.forget_facts_after_ddl();
        let is_whole = self.request == Body::None
            && self.to_server.is_empty()
            && self.reply == Body::None
            && self.from_server.len() == self.to_client.cursor()
            && !self.spoiled
            && !self.has_made_what_lasts();
        if let End::Fatal(error) = end {
            self.shard.stats().errors.count(error.sqlstate());
        }
        if let End::Fatal(error) = end
            && self.reply == Body::None
        {
            // A client that does not take all of it now will see its connection closed.
            error.write(self.to_client.insert(&mut self.from_server), "FATAL");
            let mut cx = Context::from_waker(Waker::noop());
            let _ = self.to_client.poll_flush(&mut cx, &mut self.from_server, &mut self.stream, &mut 0);
        }
        if self.lease.is_none() {
            return;
        }
        let plan = self.reset_plan();
        let Some(lease) = self.lease.take() else { return };
        if self.is_dedicated {
            if is_whole && lease.is_free() {
                lease.retire("its client has left");
            } else {
                lease.abandon("its client has left in the middle of something");
            }
            return;
        }
        if is_whole && lease.is_free() {
            lease.checkin(plan, now);
        } else if is_whole && lease.owed.at_rest() {
            lease.roll_back(plan);
        } else {
            lease.abandon(
                "its client has left in the middle of something, or has done to it what nothing undoes",
            );
        }
    }
}

/// What a client is told whom the end of the process interrupts.
pub(super) fn shutdown() -> Error {
    Error::new(Kind::Shutdown, "terminating connection due to administrator command")
}
