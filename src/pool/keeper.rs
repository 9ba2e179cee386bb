//! Work on servers that no client has: opening, resetting, checking, probing the catalog, and decent endings.
//!
//! Each worker has one keeper (`run`); every job becomes a task of that worker. No job runs in a client's future, so a
//! client that leaves takes nothing down with it.

use crate::alarm::{sleep, timeout};
use crate::moment::Moment;
use crate::pool::budget::Permit;
use crate::pool::{CheckoutError, Lease, Pooled, Shard, jitter};
use crate::protocol::TxStatus;
use crate::server::open::Means;
use crate::server::{Reply, Server, ServerError, cancel, login};
use crate::session::catalog::PROBE_SQL;
use crate::session::footprint::ResetPlan;
use crate::session::{CatalogFacts, Settings};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// How long each cancel request for a server that nobody wants any more has to take effect.
const ABANDONED: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_millis(2_000)];
/// How long a statement of pgvalet's own may take before its server is given up.
const OWN_QUERY_LIMIT: Duration = Duration::from_secs(30);
/// The same for a check: it does nothing, and a server that does not answer soon is as good as gone.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// How long a server gets to take a cancel request of pgvalet's own.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// What makes a session as new. It cannot be part of a longer query.
const DISCARD_ALL: &str = "DISCARD ALL";

/// A job for the keeper.
#[derive(Debug)]
pub(crate) enum Job {
    /// Open a server.
    Connect(Permit, Connecting),
    /// Reset a server that comes back from a client.
    Reset(Lease, ResetPlan),
    /// Wait until no cancel request can hit the next client.
    Settle(Lease),
    /// See whether an idle server still answers.
    Check(Lease),
    /// Read the catalog.
    Probe(Lease),
    /// Bring a server whose client left in a transaction back to rest.
    RollBack(Lease, ResetPlan),
    /// Close a server that may still be busy.
    Abandon(Box<Pooled>),
    /// Look whether clients in line can get servers now.
    Demand,
    /// The same when the first in line has been patient for a moment, and whether a server here is to go to another worker's.
    LookAgain,
}

/// Counts a connect under way in its shard.
#[derive(Debug)]
pub(crate) struct Connecting(Rc<Shard>);

impl Connecting {
    pub(crate) fn new(shard: &Rc<Shard>) -> Connecting {
        shard.connecting.set(shard.connecting.get() + 1);
        Connecting(shard.clone())
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
    }
}

/// Does the jobs of one worker, until the worker ends.
pub(crate) async fn run(mut jobs: UnboundedReceiver<(Rc<Shard>, Job)>, means: Arc<Means>) {
    while let Some((shard, job)) = jobs.recv().await {
        let means = means.clone();
        tokio::task::spawn_local(async move {
            match job {
                Job::Connect(permit, connecting) => connect(&shard, permit, connecting, &means).await,
                Job::Reset(lease, plan) => reset(lease, &plan).await,
                Job::Settle(lease) => settle(lease).await,
                Job::Check(lease) => check(lease).await,
                Job::Probe(lease) => probe_idle(lease).await,
                Job::RollBack(lease, plan) => roll_back(lease, &plan).await,
                Job::Abandon(pooled) => {
                    abandon(&shard, pooled).await;
                    shard.demand(Moment::now());
                }
                Job::Demand => shard.demand(Moment::now()),
                Job::LookAgain => {
                    sleep(shard.moves.patience(Moment::now())).await;
                    shard.looking_again.set(false);
                    let now = Moment::now();
                    shard.demand(now);
                    shard.share(now);
                }
            }
        });
    }
}

async fn connect(shard: &Rc<Shard>, permit: Permit, connecting: Connecting, means: &Means) {
    let generation = shard.pool.generation();
    let outcome = login::login(&shard.pool.target, means).await;
    let now = Moment::now();
    let (database, user) = (&*shard.pool.key.database, &*shard.pool.key.user);
    match outcome {
        Ok(mut server) => {
            shard.pool.connect_succeeded();
            shard.counters().connects.add(1);
            server.expires_at =
                shard.with_policy(|policy| policy.lifetime).map(|lifetime| now + jitter(lifetime));
            tracing::debug!(database, user, address = %server.address, pid = server.key.pid, "server connected");
            shard.accept(&Arc::new(Settings::default()), &server.reported);
            let mut pooled = Pooled::new(server, permit, generation);
            // The first server reads the catalog before its first client comes, so that `auto` knows what it judges.
            if shard.pool.catalog.claim_probe(now, shard.with_policy(|policy| policy.probe_interval)) {
                let outcome = probe(&mut pooled.server, shard).await;
                if let Err(error) = outcome {
                    shard.log_closed(&error, "the catalog could not be read");
                    drop(connecting);
                    shard.demand(Moment::now());
                    return;
                }
            }
            drop(connecting);
            shard.admit(pooled, Moment::now());
        }
        Err(error) => {
            shard.counters().failed_connects.add(1);
            tracing::warn!(database, user, %error, "cannot open a server");
            drop((permit, connecting));
            shard.pool.connect_failed(error.clone(), now);
            if !error.is_transient() {
                shard.refuse_all(&CheckoutError::Server(error));
            }
        }
    }
    shard.demand(Moment::now());
}

/// Runs a statement of ours under a time limit.
async fn own_query(lease: &mut Lease, sql: &str) -> Result<crate::server::Reply, ServerError> {
    timeout(OWN_QUERY_LIMIT, lease.run(sql)).await.unwrap_or(Err(ServerError::Timeout))
}

async fn reset(mut lease: Lease, plan: &ResetPlan) {
    let shard = lease.shard().clone();
    // A cancel request that comes late must not hit the reset.
    lease.cancels.clone().wait_quiet().await;
    let outcome = match plan {
        ResetPlan::Nothing => Ok(()),
        ResetPlan::Components(statements) => own_query(&mut lease, &statements.join(";")).await.map(drop),
        ResetPlan::Sparing(_) | ResetPlan::Full => {
            let query = shard.policy().reset_query.clone();
            shard.counters().full_resets.add(1);
            let outcome = full_reset(&mut lease, plan, &query).await;
            lease.in_force = Arc::new(Settings::default());
            outcome
        }
    };
    match outcome {
        Ok(()) => {
            shard.counters().resets.add(1);
            settle(lease).await;
        }
        Err(error) => {
            shard.counters().failed_resets.add(1);
            shard.log_closed(&error, "its reset failed");
        }
    }
}

/// Makes the server as new, then runs what else the configuration asks for.
async fn full_reset(lease: &mut Lease, plan: &ResetPlan, query: &str) -> Result<(), ServerError> {
    let is_all = query.trim().trim_end_matches(';').eq_ignore_ascii_case(DISCARD_ALL);
    // Where there is nothing to spare, the one command costs the server less than its parts.
    if let ResetPlan::Sparing(statements) = plan
        && is_all
        && !lease.prepared.is_empty()
    {
        match own_query(lease, &statements.join(";")).await {
            // Where somebody may not unlock, say, all at once may be done all the same.
            Err(ServerError::Refused(_)) => {}
            outcome => return outcome.map(drop),
        }
    }
    lease.prepared.clear();
    own_query(lease, DISCARD_ALL).await?;
    if !is_all {
        own_query(lease, query).await?;
    }
    Ok(())
}

async fn settle(mut lease: Lease) {
    lease.cancels.clone().wait_quiet().await;
    let shard = lease.shard().clone();
    if lease.cancels.is_doubtful() {
        shard.log_closed(&"a cancel request may still reach it", "a cancel request could not be delivered");
        return;
    }
    if !lease.is_free() {
        shard.log_closed(&"it is in a transaction", "its reset failed");
        return;
    }
    let now = Moment::now();
    lease.idle_since = now;
    shard.offer(lease, now);
}

async fn check(mut lease: Lease) {
    let shard = lease.shard().clone();
    let Some(query) = shard.policy().check_query.clone() else { return lease.put_down() };
    let idle_since = lease.idle_since;
    match timeout(CHECK_LIMIT, lease.run(&query)).await.unwrap_or(Err(ServerError::Timeout)) {
        Ok(_) => {
            let now = Moment::now();
            lease.checked_at = now;
            // A check is no use: the server is as idle as before.
            lease.idle_since = idle_since;
            shard.offer(lease, now);
        }
        Err(error) => shard.log_closed(&error, "server_check_query failed"),
    }
}

/// Reads the catalog and tells the pool; the server can still be used after `Ok`.
async fn probe(server: &mut Server, shard: &Rc<Shard>) -> Result<(), ServerError> {
    let outcome = timeout(OWN_QUERY_LIMIT, read_catalog(server)).await.unwrap_or(Err(ServerError::Timeout));
    let failure = match outcome {
        Ok(reply) => {
            shard.pool.catalog.probed(Some(CatalogFacts::from_rows(&reply.rows)));
            return Ok(());
        }
        Err(error) => error,
    };
    shard.pool.catalog.probed(None);
    tracing::warn!(
        database = &*shard.pool.key.database,
        user = &*shard.pool.key.user,
        error = %failure,
        "cannot read the catalog: every server is reset between clients until it can be read"
    );
    match failure {
        ServerError::Refused(_) => Ok(()),
        failure => Err(failure),
    }
}

/// Reads the catalog without the settings of the client who was there last.
async fn read_catalog(server: &mut Server) -> Result<Reply, ServerError> {
    if !server.in_force.is_empty() {
        let none = Arc::new(Settings::default());
        let difference = server.in_force.difference(&none);
        server.run(&difference).await?;
        server.in_force = none;
    }
    server.run(PROBE_SQL).await
}

async fn probe_idle(mut lease: Lease) {
    let shard = lease.shard().clone();
    match probe(&mut lease, &shard).await {
        Ok(()) => shard.offer(lease, Moment::now()),
        Err(error) => shard.log_closed(&error, "the catalog could not be read"),
    }
}

async fn roll_back(mut lease: Lease, plan: &ResetPlan) {
    lease.cancels.clone().wait_quiet().await;
    if lease.status != TxStatus::Idle
        && let Err(error) = own_query(&mut lease, "ROLLBACK").await
    {
        lease.shard().log_closed(&error, "its client left in a transaction");
        return;
    }
    reset(lease, plan).await;
}

/// Cancels what the server may still be doing, and closes it when that has ended. A request that comes before the server
/// has read its query is ignored, so it is repeated for a while; until then the server keeps its place.
async fn abandon(shard: &Shard, mut pooled: Box<Pooled>) {
    let server = &mut pooled.server;
    // With this it ends as soon as it has nothing more to do.
    server.farewell();
    for patience in ABANDONED {
        if let Err(error) = cancel::cancel(&server.address, &server.key, Some(CANCEL_LIMIT)).await {
            tracing::debug!(
                database = &*shard.pool.key.database,
                user = &*shard.pool.key.user,
                address = %server.address,
                %error,
                "the query of a client that left could not be cancelled"
            );
            return;
        }
        let mut rest = [0; 4096];
        let ended = async { while matches!(server.stream.read(&mut rest).await, Ok(1..)) {} };
        if timeout(patience, ended).await.is_ok() {
            return;
        }
    }
}
