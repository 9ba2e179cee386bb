//! Replication connections: each has a server of its own for as long as it lasts.
//!
//! Nothing is shared, so nothing has to be translated: the client's startup parameters go to the server as they are, and
//! the server is closed when the client leaves. It counts in `max_db_connections` and `max_user_connections`, but not in
//! the pool's size, which it would hold for days.

use crate::client::context::Context;
use crate::client::login::Refusal;
use crate::config::{Config, PoolMode, Reset};
use crate::error::{Error, Kind};
use crate::pool::registry::Blueprint;
use crate::pool::{Lease, Policy, Shard};
use crate::protocol::startup::Startup;
use std::rc::Rc;

/// Opens the server of a replication connection; `plan` says where the database is. `None` if nothing is known of it.
pub(super) async fn open(
    context: &Context,
    startup: &Startup,
    plan: impl FnOnce(&Config) -> Option<Blueprint>,
) -> Result<Option<(Rc<Shard>, Lease)>, Refusal> {
    let Some(shard) =
        context.shards.private_shard(|config| plan(config).map(|plan| dedicated(plan, startup)))
    else {
        return Ok(None);
    };
    if shard.pool.is_paused() {
        let text = format!("database \"{}\" is paused", shard.pool.key.database);
        return Err(Error::new(Kind::WrongState, text).hint("Connect again after RESUME.").into());
    }
    match shard.open_own(&context.process.means).await {
        Ok(Some(lease)) => Ok(Some((shard, lease))),
        Ok(None) => Err(Error::new(
            Kind::TooManyServers,
            "no more server connections allowed (max_db_connections or max_user_connections)",
        )
        .hint("A replication connection needs a server of its own. Raise the limit, or end others.")
        .into()),
        Err(error) => Err(Refusal::Error(error.into())),
    }
}

/// The blueprint of a pool with just one server, which speaks as the client asked.
fn dedicated(plan: Blueprint, startup: &Startup) -> Blueprint {
    let Blueprint { key, mut target, policy, max_db_connections, max_user_connections } = plan;
    let own = |name: &str| matches!(name, "user" | "database") || name.starts_with("_pq_.");
    let asked = startup.parameters.iter().filter(|(name, _)| !own(name)).cloned();
    target.startup.extend(asked);
    let policy = Policy {
        size: Some(1),
        min_size: 0,
        reserve: 0,
        mode: PoolMode::Session,
        reset: Reset::Never,
        lifetime: None,
        ..policy
    };
    Blueprint { key, target, policy, max_db_connections, max_user_connections }
}
