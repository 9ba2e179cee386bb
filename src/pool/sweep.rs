//! What happens by the clock: a worker sweeps its shards a few times a second.
//!
//! Deadlines live here and not in timers of their own, so that a transaction arms none.

use crate::moment::Moment;
use crate::pool::keeper::Job;
use crate::pool::{CheckoutError, Lease, Shard};
use std::rc::Rc;
use std::task::{Context, Waker};

/// Looks after one shard.
pub fn sweep(shard: &Rc<Shard>, now: Moment) {
    refuse_late(shard, now);
    look_at_idle(shard, now);
    shard.demand(now);
    call_reserve(shard, now);
    keep_minimum(shard, now);
    if !shard.line.borrow().is_empty() {
        shard.publish();
    }
}

/// Refuses those in line whose time is up.
fn refuse_late(shard: &Rc<Shard>, now: Moment) {
    if shard.line.borrow().is_empty() {
        return;
    }
    let mut late = Vec::new();
    shard.line.borrow_mut().retain(|seat| {
        let is_late = seat.deadline().is_some_and(|at| at <= now);
        if is_late {
            late.push(seat.clone());
        }
        !is_late
    });
    if shard.pool.is_retired() {
        shard.refuse_all(&CheckoutError::Moved);
    }
    if !late.is_empty() {
        shard.publish();
        let cause = shard.pool.last_failure();
        late.into_iter().for_each(|seat| seat.refuse(CheckoutError::Timeout(cause.clone())));
    }
}

/// Takes each idle server in hand: closes the dead, the old and the superfluous, checks those that were long idle.
fn look_at_idle(shard: &Rc<Shard>, now: Moment) {
    let policy = shard.policy();
    let idle = &shard.pool.branches[shard.worker].idle;
    let mut leases: Vec<Lease> =
        std::iter::from_fn(|| idle.try_get().ok()).map(|object| Lease::new(object, shard.clone())).collect();
    let mut probe =
        shard.take_busy() && !leases.is_empty() && shard.pool.catalog.claim_probe(now, policy.probe_interval);
    let mut cx = Context::from_waker(Waker::noop());
    // The one used last came first and has to go back last.
    while let Some(mut lease) = leases.pop() {
        if lease.stream.poll_read_ready(&mut cx).is_ready()
            && let Err(error) = lease.take_news()
        {
            shard.log_closed(&error, "it ended while idle");
            continue;
        }
        let idle_for = now.saturating_duration_since(lease.idle_since);
        let too_old = lease.expires_at.is_some_and(|at| at <= now);
        let too_idle = policy.idle_timeout.is_some_and(|limit| idle_for >= lease.idle_limit(limit));
        if too_old
            || lease.is_outdated()
            || shard.pool.is_paused()
            || shard.pool.is_retired()
            || shard.pool.is_deserted()
            || lease.is_surplus(policy.reserve)
            || too_idle && lease.is_dispensable(policy.min_size)
        {
            shard.retire(lease, now);
        } else if probe {
            probe = false;
            shard.keep(Job::Probe(lease));
        } else if policy.check_query.is_some()
            && now.saturating_duration_since(lease.checked_at.max(lease.idle_since)) >= policy.check_delay
        {
            shard.keep(Job::Check(lease));
        } else {
            lease.put_down();
        }
    }
    if probe {
        shard.pool.catalog.probed(None);
    }
}

/// Opens the reserve for a line that has stood too long.
fn call_reserve(shard: &Rc<Shard>, now: Moment) {
    let policy = shard.policy();
    let (Some(limit), true) = (policy.reserve_timeout, policy.reserve > 0) else { return };
    let overdue = shard
        .line
        .borrow()
        .iter()
        .filter(|seat| now.saturating_duration_since(seat.arrival()) >= limit)
        .count();
    if overdue > 0 {
        shard.connect_for(overdue as u32, policy.reserve, now);
    }
}

/// Keeps `min_pool_size` servers open. One worker does it, so that no two do it at once.
fn keep_minimum(shard: &Rc<Shard>, now: Moment) {
    let minimum = shard.with_policy(|policy| policy.min_size);
    if minimum > 0
        && !shard.pool.is_deserted()
        && shard.pool.is_kept_by(shard.worker)
        && !shard.pool.is_retired()
    {
        let missing = minimum.saturating_sub(shard.pool.size.count());
        if missing > 0 {
            shard.connect_for(shard.connecting.get() + missing, 0, now);
        }
    }
}
