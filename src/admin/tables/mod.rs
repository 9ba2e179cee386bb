//! What SHOW can show: the names of the tables, their columns, and who makes their rows.
//!
//! Columns, their order and their types are pgbouncer's, as its users' dashboards and scripts expect them. Columns and
//! tables of pgvalet's own come behind them.

mod objects;
mod peers;
mod pools;
mod sockets;
mod stats;

pub(super) use pools::{Servers, clients_of};

use crate::admin::table::{Column, Row, Type};
use crate::admin::{Admin, Answer, Notice};
use crate::client::context::Report;
use crate::error::{Error, Kind};
use Type::{Int4, Int8, Text};
use std::sync::Arc;

/// Commands, as SHOW HELP tells them.
const HELP: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW COUNTERS|LISTENERS|PINS|PREPARED|RESETS|WORKERS
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tUPGRADE
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]
";

macro_rules! shows {
    ($($(#[$doc:meta])* $variant:ident $name:literal $columns:expr;)*) => {
        /// What SHOW can show.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Show {
            $($(#[$doc])* $variant,)*
        }

        impl Show {
            /// What is shown under this name, given in lower case.
            #[must_use]
            pub fn named(name: &str) -> Option<Show> {
                match name {
                    $($name => Some(Show::$variant),)*
                    _ => None,
                }
            }

            /// The columns; `None` if it is no table.
            #[must_use]
            pub fn columns(self) -> Option<&'static [Column]> {
                match self {
                    $(Show::$variant => $columns,)*
                }
            }
        }
    };
}

shows! {
    /// The commands, in a notice.
    Help "help" None;
    /// Counters since the start and averages, by database.
    Stats "stats" Some(stats::STATS);
    /// Counters since the start, by database.
    StatsTotals "stats_totals" Some(stats::STATS_TOTALS);
    /// Averages, by database.
    StatsAverages "stats_averages" Some(stats::STATS_AVERAGES);
    /// Counters and averages over all databases.
    Totals "totals" Some(stats::TOTALS);
    /// Servers.
    Servers "servers" Some(sockets::PEERS);
    /// Clients.
    Clients "clients" Some(sockets::PEERS);
    /// Clients and servers.
    Sockets "sockets" Some(sockets::SOCKETS);
    /// Clients and servers at work.
    ActiveSockets "active_sockets" Some(sockets::SOCKETS);
    /// Descriptors of clients and servers.
    Fds "fds" Some(sockets::FDS);
    /// Pools.
    Pools "pools" Some(pools::POOLS);
    /// Databases.
    Databases "databases" Some(pools::DATABASES);
    /// Users.
    Users "users" Some(pools::USERS);
    /// Other processes of a fleet.
    Peers "peers" Some(&[("peer_id", Int4), ("host", Text), ("port", Int4), ("pool_size", Int4)]);
    /// Cancel requests on their way to other processes.
    PeerPools "peer_pools" Some(&[
        ("peer_id", Int4),
        ("cl_active_cancel_req", Int4),
        ("cl_waiting_cancel_req", Int4),
        ("sv_active_cancel", Int4),
        ("sv_login", Int4),
    ]);
    /// How many there are of what.
    Lists "lists" Some(&[("list", Text), ("items", Int4)]);
    /// Settings.
    Config "config" Some(objects::CONFIG);
    /// Memory.
    Mem "mem" Some(objects::MEM);
    /// Names of servers, and what they stand for.
    DnsHosts "dns_hosts" Some(&[("hostname", Text), ("ttl", Int8), ("addrs", Text)]);
    /// Zones of names: none is kept.
    DnsZones "dns_zones" Some(&[("zonename", Text), ("serial", Int8), ("count", Int4)]);
    /// The program's version.
    Version "version" Some(&[("version", Text)]);
    /// Whether the process is paused.
    State "state" Some(&[("key", Text), ("value", Text)]);
    /// All counters of pgvalet, by database.
    Counters "counters" Some(stats::COUNTERS);
    /// Connections that listen for clients.
    Listeners "listeners" Some(objects::LISTENERS);
    /// Prepared statements by pool and worker.
    Prepared "prepared" Some(objects::PREPARED);
    /// What made clients keep a server for themselves, by database.
    Pins "pins" Some(stats::PINS);
    /// What made resets necessary, by database.
    Resets "resets" Some(stats::RESETS);
    /// Clients and servers of each worker.
    Workers "workers" Some(pools::WORKERS);
}

impl Show {
    /// Whether it has to be asked of the workers.
    fn looks_at_clients(self) -> bool {
        matches!(
            self,
            Show::Servers
                | Show::Clients
                | Show::Sockets
                | Show::ActiveSockets
                | Show::Fds
                | Show::Mem
                | Show::Prepared
        )
    }

    /// Whether only `admin_users` may see it.
    #[must_use]
    pub fn needs_admin(self) -> bool {
        self == Show::Fds
    }
}

/// The column of a session's setting of this name.
pub(super) fn parameter_columns(name: &str) -> Option<&'static [Column]> {
    Some(match name {
        "client_encoding" => &[("client_encoding", Text)],
        "datestyle" => &[("DateStyle", Text)],
        "extra_float_digits" => &[("extra_float_digits", Text)],
        "server_version" => &[("server_version", Text)],
        "standard_conforming_strings" => &[("standard_conforming_strings", Text)],
        "timezone" => &[("TimeZone", Text)],
        "transaction_isolation" => &[("transaction_isolation", Text)],
        _ => &[("default_transaction_isolation", Text)],
    })
}

impl Admin {
    /// Has a table made, on a thread that may block: a long one takes no worker from its clients.
    pub(super) async fn show(self: &Arc<Self>, show: Show) -> Result<Answer, Error> {
        if show == Show::Help {
            let notice = Notice { severity: "NOTICE", message: "Console usage".into(), detail: Some(HELP) };
            return Ok(Answer { notices: vec![notice], ..Answer::tag("SHOW") });
        }
        let reports = if show.looks_at_clients() { self.control.reports().await } else { Vec::new() };
        let admin = self.clone();
        let rows = tokio::task::spawn_blocking(move || admin.rows(show, &reports)).await;
        let rows = rows.map_err(|_| Error::new(Kind::Internal, "the table could not be made"))?;
        Ok(Answer::rows(rows))
    }

    fn rows(&self, show: Show, reports: &[Report]) -> Vec<Row> {
        match show {
            Show::Help => Vec::new(),
            Show::Stats => self.stats(),
            Show::StatsTotals => self.stats_totals(),
            Show::StatsAverages => self.stats_averages(),
            Show::Totals => self.totals(),
            Show::Counters => self.counters(),
            Show::Pins => self.reasons(|stats| &stats.pin_reasons),
            Show::Resets => self.reasons(|stats| &stats.reset_reasons),
            Show::Servers => self.servers(reports),
            Show::Clients => self.clients(reports),
            Show::Sockets => self.sockets(reports, false),
            Show::ActiveSockets => self.sockets(reports, true),
            Show::Fds => self.fds(reports),
            Show::Pools => self.pools(),
            Show::Databases => self.databases(),
            Show::Users => self.users(),
            Show::Workers => self.workers(),
            Show::Lists => self.lists(),
            Show::Config => self.config(),
            Show::Mem => self.mem(reports),
            Show::Prepared => self.prepared(reports),
            Show::Listeners => self.listeners(),
            Show::Version => vec![vec![concat!("pgvalet ", env!("CARGO_PKG_VERSION")).into()]],
            Show::State => self.state(),
            Show::Peers => self.peers(),
            Show::PeerPools => self.peer_pools(),
            Show::DnsHosts => self.dns_hosts(),
            Show::DnsZones => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_table() {
        for name in ["stats", "pools", "fds", "workers", "dns_zones", "mem", "prepared", "resets"] {
            assert!(Show::named(name).is_some() && HELP.contains(&name.to_uppercase()), "{name}");
        }
    }
}
