//! A pool as one worker has it: its line, its idle servers, and what it knows.

use crate::metrics::{PoolCounters, WorkerStats};
use crate::moment::Moment;
use crate::pool::keeper::Job;
use crate::pool::line::{Line, Outcome};
use crate::pool::moves::Moves;
use crate::pool::registry::Parcel;
use crate::pool::{CheckoutError, ConnectState, Lease, Policy, Pool, Pooled, Seat, lock};
use crate::server::open::Means;
use crate::server::{ServerError, login};
use crate::session::{CatalogFacts, Footprint, Interner, Reported, Settings, Shapes};
use foldhash::fast::RandomState;
use lru::LruCache;
use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Connects that one worker has under way for one pool.
const PARALLEL_CONNECTS: u32 = 8;
/// Bytes of statement texts kept by a shard for the next client that prepares the same.
const INTERNER_BUDGET: usize = 16 << 20;
/// Ways to read texts that a shard keeps.
const READINGS: usize = 256;
/// Settings that a shard remembers to have been taken by a server.
const TAKEN: usize = 8192;

/// One worker's part of a pool.
#[derive(Debug)]
pub struct Shard {
    /// The whole.
    pub pool: Arc<Pool>,
    pub(crate) worker: usize,
    stats: Arc<[WorkerStats]>,
    policy: RefCell<Arc<Policy>>,
    pub(crate) line: RefCell<Line>,
    pub(crate) connecting: Cell<u32>,
    jobs: UnboundedSender<(Rc<Shard>, Job)>,
    siblings: Rc<[UnboundedSender<Parcel>]>,
    /// Statements that clients prepare.
    pub interner: RefCell<Interner>,
    /// Ways to read texts, each held once.
    readings: RefCell<LruCache<Settings, Arc<Settings>>>,
    /// Settings that a server has taken: hashes of name and value.
    taken: RefCell<LruCache<u64, ()>>,
    hasher: RandomState,
    /// What simple queries were judged to leave behind.
    pub shapes: RefCell<Shapes>,
    facts: RefCell<(u32, Arc<CatalogFacts>)>,
    busy_since_probe: Cell<bool>,
    /// Whether the keeper will look again whether another worker has a server to spare.
    pub(crate) looking_again: Cell<bool>,
    pub(crate) moves: Moves,
}

impl Shard {
    pub(crate) fn new(
        pool: Arc<Pool>,
        worker: usize,
        jobs: UnboundedSender<(Rc<Shard>, Job)>,
        siblings: Rc<[UnboundedSender<Parcel>]>,
    ) -> Rc<Shard> {
        Rc::new(Shard {
            policy: RefCell::new(pool.policy()),
            facts: RefCell::new(pool.catalog.facts()),
            stats: pool.stats.clone(),
            pool,
            worker,
            line: RefCell::default(),
            connecting: Cell::new(0),
            jobs,
            siblings,
            interner: RefCell::new(Interner::new(INTERNER_BUDGET)),
            readings: RefCell::new(LruCache::unbounded()),
            taken: RefCell::new(LruCache::unbounded()),
            hasher: RandomState::default(),
            shapes: RefCell::new(Shapes::new(getrandom::u64().unwrap_or(0))),
            busy_since_probe: Cell::new(false),
            looking_again: Cell::new(false),
            moves: Moves::default(),
        })
    }

    /// The policy in force here.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.borrow().clone()
    }

    /// Looks at the policy without taking hold of it.
    #[inline]
    pub fn with_policy<T>(&self, look: impl FnOnce(&Policy) -> T) -> T {
        look(&self.policy.borrow())
    }

    pub(crate) fn refresh_policy(&self) {
        *self.policy.borrow_mut() = self.pool.policy();
    }

    /// What this worker counts for the pool.
    #[inline]
    #[must_use]
    pub fn stats(&self) -> &WorkerStats {
        &self.stats[self.worker]
    }

    /// This worker's counters for the pool.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> &PoolCounters {
        &self.stats().counters
    }

    /// Counts why a reset was needed.
    pub fn count_reset(&self, footprint: Footprint) {
        let reasons = &self.stats().reset_reasons;
        for (index, name) in Footprint::ALL_REASONS.iter().enumerate() {
            if footprint.reasons().any(|reason| reason == *name) {
                reasons.count(index);
            }
        }
    }

    /// Counts a client that keeps its server, and why.
    pub(crate) fn count_pin(&self, kinds: Footprint) {
        self.counters().pins.add(1);
        let reasons = &self.stats().pin_reasons;
        for (index, name) in Footprint::ALL_REASONS.iter().enumerate() {
            if kinds.reasons().any(|reason| reason == *name) {
                reasons.count(index);
            }
        }
    }

    /// What is known of the catalog, and the generation of that knowledge.
    #[inline]
    pub fn with_facts<T>(&self, look: impl FnOnce(u32, &CatalogFacts) -> T) -> T {
        let generation = self.pool.catalog.generation();
        if self.facts.borrow().0 != generation {
            *self.facts.borrow_mut() = self.pool.catalog.facts();
        }
        let facts = self.facts.borrow();
        look(facts.0, &facts.1)
    }

    /// The one copy of a way to read texts.
    #[must_use]
    pub fn share_reading(&self, reading: Settings) -> Arc<Settings> {
        let mut readings = self.readings.borrow_mut();
        if let Some(known) = readings.get(&reading) {
            return known.clone();
        }
        let shared = Arc::new(reading.clone());
        readings.put(reading, shared.clone());
        if readings.len() > READINGS {
            readings.pop_lru();
        }
        shared
    }

    /// Whether a server of this pool has taken this value before, so that the next one can be expected to.
    #[must_use]
    pub fn was_taken(&self, name: &str, value: &str) -> bool {
        self.taken.borrow_mut().get(&self.hasher.hash_one((name, value))).is_some()
    }

    /// Notes that a server has taken these settings.
    pub fn note_taken(&self, settings: &Settings) {
        let mut taken = self.taken.borrow_mut();
        for entry in settings.iter() {
            taken.put(self.hasher.hash_one(entry), ());
            if taken.len() > TAKEN {
                taken.pop_lru();
            }
        }
    }

    /// What a server reports under these settings, if a client logged in with them before, or with them and another name.
    #[must_use]
    pub fn accepted(&self, settings: &Arc<Settings>) -> Option<(Arc<Settings>, Arc<Reported>)> {
        let mut accepted = lock(&self.pool.accepted);
        if let Some((known, _)) = accepted.get_key_value(settings) {
            return Some((known.clone(), accepted.get(settings)?.clone()));
        }
        let (nameless, name) = settings.without_plain_name()?;
        let reported = accepted.get(&nameless)?.renamed(name);
        accepted.put(settings.clone(), reported.clone());
        drop(accepted);
        self.note_taken(settings);
        Some((settings.clone(), reported))
    }

    /// Remembers what a server reported under these settings.
    pub fn accept(&self, settings: &Arc<Settings>, reported: &Arc<Reported>) {
        self.note_taken(settings);
        let mut accepted = lock(&self.pool.accepted);
        if let Some((nameless, _)) = settings.without_plain_name() {
            accepted.put(Arc::new(nameless), reported.renamed(""));
        }
        accepted.put(settings.clone(), reported.clone());
    }

    /// Forgets what servers reported: it is not so any more.
    pub fn forget_accepted(&self) {
        lock(&self.pool.accepted).clear();
    }

    /// Clients in line here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.borrow().len()
    }

    /// Gives a job to this worker's keeper.
    pub(crate) fn keep(self: &Rc<Shard>, job: Job) {
        if let Job::Reset(lease, _)
        | Job::Settle(lease)
        | Job::Check(lease)
        | Job::Probe(lease)
        | Job::RollBack(lease, _) = &job
        {
            lease.take_in_hand();
        }
        // The keeper lives as long as the worker; without it the job, and the server in it, simply end.
        let _ = self.jobs.send((self.clone(), job));
    }

    /// Gets a server for the client in `seat`: an idle one at once, or the next that is there for it, in order of
    /// arrival. To be polled again when woken, until it is ready or given up by [`Shard::give_up`].
    ///
    /// # Errors
    /// [`CheckoutError`]; the client is then out of line.
    #[inline]
    pub fn checkout(
        self: &Rc<Shard>,
        cx: &mut Context<'_>,
        seat: &Rc<Seat>,
        now: Moment,
        limit: Option<Duration>,
    ) -> Poll<Result<Lease, CheckoutError>> {
        let outcome = self.seek(cx, seat, now, limit);
        if let Poll::Ready(Ok(lease)) = &outcome {
            lease.lend(seat.client(), now);
        }
        outcome
    }

    #[inline]
    fn seek(
        self: &Rc<Shard>,
        cx: &mut Context<'_>,
        seat: &Rc<Seat>,
        now: Moment,
        limit: Option<Duration>,
    ) -> Poll<Result<Lease, CheckoutError>> {
        match seat.look(cx) {
            Outcome::Granted(lease) => return Poll::Ready(Ok(lease)),
            Outcome::Refused(error) => return Poll::Ready(Err(error)),
            Outcome::Waiting => return Poll::Pending,
            Outcome::Away => {}
        }
        if self.pool.is_retired() {
            return Poll::Ready(Err(CheckoutError::Moved));
        }
        // Whoever waits comes first.
        if !self.pool.is_paused()
            && self.line.borrow().is_empty()
            && let Some(lease) = self.take_idle(cx)
        {
            return Poll::Ready(Ok(lease));
        }
        seat.sit(cx, now, limit.map(|limit| now + limit));
        self.line.borrow_mut().push_back(seat.clone());
        self.publish();
        self.demand(now);
        match seat.look(cx) {
            Outcome::Granted(lease) => Poll::Ready(Ok(lease)),
            Outcome::Refused(error) => Poll::Ready(Err(error)),
            Outcome::Waiting | Outcome::Away => Poll::Pending,
        }
    }

    /// Opens a server in the caller's own future, for a client that will never give it back. `None` if the database or
    /// the user may have no more servers.
    ///
    /// # Errors
    /// Why there is no server.
    pub async fn open_own(self: &Rc<Shard>, means: &Means) -> Result<Option<Lease>, ServerError> {
        let Some(permit) = self.pool.try_permit(0, Moment::now()) else { return Ok(None) };
        let generation = self.pool.generation();
        let server = login::login(&self.pool.target, means).await?;
        self.counters().connects.add(1);
        let idle = &self.pool.branches[self.worker].idle;
        let added = idle.try_add(Pooled::new(server, permit, generation));
        Ok(added.ok().and_then(|()| idle.try_get().ok()).map(|object| Lease::new(object, self.clone())))
    }

    /// Takes the client out of line, because it left or was cancelled.
    pub fn give_up(self: &Rc<Shard>, seat: &Rc<Seat>, now: Moment) {
        let at = self.line.borrow().iter().position(|other| Rc::ptr_eq(other, seat));
        if let Some(at) = at {
            self.line.borrow_mut().remove(at);
            self.publish();
        }
        if let Some(lease) = seat.leave() {
            self.offer(lease, now);
        }
    }

    /// An idle server of this worker that is alive as far as can be known without a system call.
    fn take_idle(self: &Rc<Shard>, cx: &mut Context<'_>) -> Option<Lease> {
        let idle = &self.pool.branches[self.worker].idle;
        while let Ok(object) = idle.try_get() {
            let mut lease = Lease::new(object, self.clone());
            if lease.stream.poll_read_ready(cx).is_pending() {
                return Some(lease);
            }
            match lease.take_news() {
                Ok(()) => return Some(lease),
                Err(error) => self.log_closed(&error, "it ended while idle"),
            }
        }
        None
    }

    pub(crate) fn log_closed(&self, error: &dyn std::fmt::Display, reason: &str) {
        tracing::info!(
            database = &*self.pool.key.database,
            user = &*self.pool.key.user,
            reason,
            %error,
            "server closed"
        );
    }

    /// Sees to it that those in line get servers: from siblings, or new ones.
    pub(crate) fn demand(self: &Rc<Shard>, now: Moment) {
        let wanted = self.line.borrow().len() as u32;
        if wanted == 0 || self.pool.is_paused() {
            return;
        }
        // Another worker that puts a server down now sees our line, or we see the server.
        fence(Ordering::SeqCst);
        self.connect_for(wanted, 0, now);
        let servers = self.pool.branches[self.worker].idle.status().size;
        while self.has_impatient(now, servers == 0) && self.take_over(now) {
            self.moves.note(now);
        }
        // One that is put down later is shared by its own worker.
        if !self.line.borrow().is_empty() && self.others_have_idle() {
            self.look_again();
        }
    }

    /// Looks once more when the first in line, here or elsewhere, has been patient for a moment.
    fn look_again(self: &Rc<Shard>) {
        if !self.looking_again.replace(true) {
            self.keep(Job::LookAgain);
        }
    }

    fn others_have_idle(&self) -> bool {
        let mut others = self.pool.branches.iter().enumerate().filter(|(other, _)| *other != self.worker);
        others.any(|(_, branch)| branch.idle.status().available > 0)
    }

    /// Whether somebody in line is to have a server of another worker: one who waited for long enough, or anybody if
    /// no server can come back to this worker.
    fn has_impatient(&self, now: Moment, none_here: bool) -> bool {
        let line = self.line.borrow();
        let arrival = line.front().map(|first| first.arrival());
        arrival.is_some_and(|arrival| {
            none_here || self.moves.is_due(now.saturating_duration_since(arrival), now)
        })
    }

    /// Closes a free server that time, an order or a limit has come for.
    #[cold]
    pub(crate) fn retire(&self, lease: Lease, now: Moment) {
        let reason = match () {
            () if lease.expires_at.is_some_and(|at| at <= now) => "its lifetime is over",
            () if lease.is_outdated() => "it was to be replaced",
            () if self.pool.is_paused() => "its database is paused",
            () if self.pool.is_retired() || self.pool.is_deserted() => "its pool is used no more",
            () => "there are more servers than are needed or allowed",
        };
        lease.retire(reason);
    }

    /// The same as [`log_closed`](Shard::log_closed) where nothing went wrong with the server itself.
    pub(crate) fn log_retired(&self, reason: &str) {
        tracing::info!(
            database = &*self.pool.key.database,
            user = &*self.pool.key.user,
            reason,
            "server closed"
        );
    }

    /// Starts connects until `wanted` are under way or no more are allowed.
    pub(crate) fn connect_for(self: &Rc<Shard>, wanted: u32, extra: u32, now: Moment) {
        if self.pool.is_paused() {
            return;
        }
        while self.connecting.get() < wanted.min(PARALLEL_CONNECTS) {
            if self.pool.size.is_full() && extra == 0 {
                return;
            }
            match self.pool.connect_state(now) {
                ConnectState::Fine => {}
                ConnectState::Probing if self.connecting.get() == 0 => {}
                ConnectState::Probing => return,
                ConnectState::Pausing(error) => {
                    if !error.is_transient() {
                        self.refuse_all(&CheckoutError::Server(error));
                    }
                    return;
                }
            }
            let Some(permit) = self.pool.try_permit(extra, now) else { return };
            self.keep(Job::Connect(permit, crate::pool::keeper::Connecting::new(self)));
        }
    }

    /// Takes an idle server of another worker over for the first in line.
    fn take_over(self: &Rc<Shard>, now: Moment) -> bool {
        let others = self.pool.branches.iter().enumerate().filter(|(other, _)| *other != self.worker);
        for (_, branch) in others {
            while let Ok(pooled) = branch.idle.try_remove() {
                if let Some(pooled) = self.moved(pooled) {
                    self.counters().takeovers.add(1);
                    self.admit(pooled, now);
                    return true;
                }
                // The place of the one that had ended is free, and nobody else knows.
                self.connect_for(self.line.borrow().len() as u32, 0, now);
            }
        }
        false
    }

    /// A server of another worker, on this one's runtime if it is alive. It is asked off any runtime: what a runtime knows
    /// of a stream may be old.
    pub(crate) fn moved(&self, mut pooled: Box<Pooled>) -> Option<Box<Pooled>> {
        let server = &mut pooled.server;
        if let Err(error) = server.stream.detach() {
            self.log_closed(&error, "it could not be moved between workers");
        } else if let Err(error) = server.take_news() {
            self.log_closed(&error, "it ended while idle");
        } else if let Err(error) = server.stream.attach() {
            self.log_closed(&error, "it could not be moved between workers");
        } else {
            return Some(pooled);
        }
        self.counters().closes.add(1);
        None
    }

    /// Takes a server in that came from a connect or from another worker.
    pub(crate) fn admit(self: &Rc<Shard>, pooled: Box<Pooled>, now: Moment) {
        let idle = &self.pool.branches[self.worker].idle;
        if idle.try_add(pooled).is_err() {
            tracing::error!(database = &*self.pool.key.database, "a pool has more servers than it can hold");
            return;
        }
        match idle.try_get() {
            Ok(object) => self.offer(Lease::new(object, self.clone()), now),
            // Another worker took it over in this very moment.
            Err(_) => self.demand(now),
        }
    }

    /// Puts a server down so that it is lent after all others that are idle here.
    #[cold]
    fn put_last(self: &Rc<Shard>, lease: Lease) {
        let idle = &self.pool.branches[self.worker].idle;
        let mut others: Vec<_> = std::iter::from_fn(|| idle.try_get().ok()).collect();
        lease.put_down();
        // They came in the order in which they are to be lent: the first goes on top again.
        others.reverse();
        drop(others);
    }

    /// Gives a free server to whoever has waited longest, or puts it down.
    #[inline]
    pub(crate) fn offer(self: &Rc<Shard>, mut lease: Lease, now: Moment) {
        self.busy_since_probe.set(true);
        if lease.expires_at.is_some_and(|at| at <= now)
            || lease.is_outdated()
            || self.is_left()
            || lease.is_surplus(self.policy.borrow().reserve)
            || self.pool.owes_a_place(now)
        {
            self.retire(lease, now);
            self.demand(now);
            return;
        }
        let own = self.line.borrow().front().map(|seat| seat.arrival().micros());
        if let Some(own) = own {
            if self.pool.others_waiting(self.worker) != 0
                && let Some((other, arrival)) = self.pool.oldest_elsewhere(self.worker)
                && self.should_give(other, arrival, own, now)
            {
                self.hand_over(lease, other);
                return;
            }
            let first = self.line.borrow_mut().pop_front();
            self.publish();
            if let Some(seat) = first {
                seat.grant(lease);
            }
            return;
        }
        if self.policy.borrow().round_robin {
            self.put_last(lease);
        } else {
            lease.put_down();
        }
        fence(Ordering::SeqCst);
        if self.pool.others_waiting(self.worker) != 0 {
            self.share(now);
        }
    }

    /// Whether the pool is paused, or was replaced and serves nobody here any more.
    fn is_left(&self) -> bool {
        // Those in line for a replaced pool are sent to the new one by the next sweep; until then it serves them.
        if self.pool.is_in_order() {
            return false;
        }
        self.pool.is_paused()
            || (self.pool.is_retired() || self.pool.is_deserted()) && self.line.borrow().is_empty()
    }

    /// Whether another worker's first in line has waited so much longer than ours that it is to have the server.
    fn should_give(&self, other: usize, arrival: u64, own: u64, now: Moment) -> bool {
        let (now_us, own_wait) = (now.micros(), now.micros().saturating_sub(own));
        let wait = now_us.saturating_sub(arrival);
        if self.pool.branches[other].idle.status().size == 0 {
            return wait > own_wait + own_wait / 4 + 1_000;
        }
        let give = self.moves.pause(now).is_zero() && wait > own_wait + own_wait / 4 + 2_000;
        if give {
            self.moves.note(now);
        }
        give
    }

    /// Hands an idle server of this worker to another's first in line, if it cannot count on one of its own. Else it
    /// takes one over itself when it has waited for long enough.
    pub(crate) fn share(self: &Rc<Shard>, now: Moment) {
        let Some((other, arrival)) = self.pool.oldest_elsewhere(self.worker) else { return };
        let idle = &self.pool.branches[self.worker].idle;
        let waited = Duration::from_micros(now.micros().saturating_sub(arrival));
        let is_due = self.pool.branches[other].idle.status().size == 0 || self.moves.is_due(waited, now);
        if !is_due && idle.status().available > 0 {
            self.look_again();
        } else if is_due && let Ok(object) = idle.try_get() {
            self.moves.note(now);
            self.hand_over(Lease::new(object, self.clone()), other);
        }
    }

    fn hand_over(self: &Rc<Shard>, lease: Lease, other: usize) {
        let Some(mut pooled) = lease.take() else { return };
        if let Err(error) = pooled.server.stream.detach() {
            self.log_closed(&error, "it could not be moved between workers");
            return;
        }
        self.counters().handovers.add(1);
        // A worker that has ended takes the server with it.
        let _ = self.siblings[other].send(Parcel { pool: self.pool.clone(), server: pooled });
    }

    /// A server of this worker ended: there is room for another.
    pub(crate) fn server_gone(self: &Rc<Shard>) {
        if !self.line.borrow().is_empty() {
            self.keep(Job::Demand);
        }
    }

    /// Refuses everybody in line.
    pub(crate) fn refuse_all(&self, error: &CheckoutError) {
        let refused = std::mem::take(&mut *self.line.borrow_mut());
        self.publish();
        refused.into_iter().for_each(|seat| seat.refuse(error.clone()));
    }

    pub(crate) fn publish(&self) {
        let line = self.line.borrow();
        let oldest = line.front().map(|seat| seat.arrival().micros());
        self.pool.publish_line(self.worker, oldest, line.len());
    }

    /// Whether clients used the pool here since this was last asked.
    pub(crate) fn take_busy(&self) -> bool {
        self.busy_since_probe.replace(false)
    }
}
