//! A server lent to a client, and what becomes of it afterwards.
//!
//! Dropping a [`Lease`] closes its server; only [`Lease::checkin`] gives it back. So whatever goes wrong between, a
//! panic included, no server in an unknown state is lent again.

use crate::moment::Moment;
use crate::pool::budget::Permit;
use crate::pool::keeper::Job;
use crate::pool::roster::{Duty, Enrolled, Entry};
use crate::pool::{Shard, random, shortened};
use crate::server::Server;
use crate::session::footprint::ResetPlan;
use deadpool::unmanaged::Object;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A server and its place in the budget.
#[derive(Debug)]
pub struct Pooled {
    pub(crate) server: Server,
    pub(crate) permit: Permit,
    /// By how much sooner than its time it is closed; see [`shortened`].
    haste: u16,
    pub(crate) enrolled: Enrolled,
}

impl Pooled {
    /// A server that has logged in, of this generation of its pool's.
    pub(crate) fn new(server: Server, permit: Permit, generation: u32) -> Box<Pooled> {
        let enrolled = Enrolled::new(permit.pool(), &server, generation);
        Box::new(Pooled { server, permit, haste: random(), enrolled })
    }
}

/// A server lent out.
#[derive(Debug)]
pub struct Lease {
    /// `None` only after it was given away.
    object: Option<Object<Box<Pooled>>>,
    shard: Rc<Shard>,
}

impl Lease {
    pub(crate) fn new(object: Object<Box<Pooled>>, shard: Rc<Shard>) -> Lease {
        Lease { object: Some(object), shard }
    }

    /// The shard it belongs to.
    #[must_use]
    pub fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// Gives the server back, after the reset that `plan` demands. It must be free ([`Server::is_free`]).
    #[inline]
    pub fn checkin(mut self, plan: ResetPlan, now: Moment) {
        debug_assert!(self.is_free());
        self.idle_since = now;
        if let Some(object) = &self.object {
            object.enrolled.set_prepared(object.server.prepared.len());
        }
        let shard = self.shard.clone();
        if !matches!(plan, ResetPlan::Nothing) {
            shard.keep(Job::Reset(self, plan));
        } else if self.cancels.is_busy() || self.cancels.is_doubtful() {
            shard.keep(Job::Settle(self));
        } else {
            shard.offer(self, now);
        }
    }

    /// Gives a server back whose client left in a transaction; it must owe nothing.
    pub fn roll_back(self, plan: ResetPlan) {
        let shard = self.shard.clone();
        shard.keep(Job::RollBack(self, plan));
    }

    /// Puts the server down among the idle ones, whoever waits.
    pub(crate) fn put_down(mut self) {
        let object = self.object.take();
        if let Some(object) = &object {
            object.enrolled.set_duty(Duty::Idle);
        }
        drop(object);
    }

    /// Notes that the client of this number has it.
    #[inline]
    pub(crate) fn lend(&self, client: u32, now: Moment) {
        if let Some(object) = &self.object {
            object.enrolled.lend(client, now);
        }
    }

    /// What those who look see of it.
    pub(crate) fn entry(&self) -> Option<Arc<Entry>> {
        self.object.as_ref().map(|object| object.enrolled.entry().clone())
    }

    /// Notes that pgvalet itself is at work on it.
    pub(crate) fn take_in_hand(&self) {
        if let Some(object) = &self.object {
            object.enrolled.set_duty(Duty::Tested);
        }
    }

    /// Whether the pool wants it replaced.
    #[inline]
    pub(crate) fn is_outdated(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.enrolled.is_outdated())
    }

    /// Takes the server out of its pool for good.
    pub(crate) fn take(mut self) -> Option<Box<Pooled>> {
        self.object.take().map(Object::take)
    }

    /// Whether the server is to be closed because the pool keeps at least `minimum` without it.
    pub(crate) fn is_dispensable(&mut self, minimum: u32) -> bool {
        self.object.as_mut().is_some_and(|object| object.permit.give_up_above(minimum))
    }

    /// Whether the server is to be closed because there are more than there may be; see [`Permit::give_up_surplus`].
    #[inline]
    pub(crate) fn is_surplus(&mut self, extra: u32) -> bool {
        self.object.as_mut().is_some_and(|object| object.permit.give_up_surplus(extra))
    }

    /// The time that this server may be idle where `limit` is what all may, so that not all are closed at once.
    pub(crate) fn idle_limit(&self, limit: Duration) -> Duration {
        shortened(limit, self.object.as_ref().map_or(0, |object| object.haste))
    }

    /// Ends the server's life in good order: it is idle. The log says why.
    pub(crate) fn retire(mut self, reason: &str) {
        self.shard.log_retired(reason);
        self.farewell();
    }

    /// Ends the server's life in the middle of something: what it does is cancelled. The log says why.
    pub(crate) fn abandon(self, reason: &str) {
        self.shard.log_retired(reason);
    }
}

impl Deref for Lease {
    type Target = Server;

    #[inline]
    fn deref(&self) -> &Server {
        match &self.object {
            Some(object) => &object.server,
            None => unreachable!("a lease that was given away cannot be named any more"),
        }
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut Server {
        match &mut self.object {
            Some(object) => &mut object.server,
            None => unreachable!("a lease that was given away cannot be named any more"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let pooled = Object::take(object);
        self.shard.counters().closes.add(1);
        if pooled.server.owed.is_empty() {
            drop(pooled);
        } else {
            // It may be busy with a query that nobody wants any more.
            self.shard.keep(Job::Abandon(pooled));
        }
        self.shard.server_gone();
    }
}
