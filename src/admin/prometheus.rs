//! The counters of pools and workers as Prometheus reads them.
//!
//! Names follow Prometheus' conventions: units in the name, `_total` for what only grows, seconds and bytes. Nothing here
//! asks a worker or looks at a client: the cost of a scrape grows with the pools, not with those who use them.

use crate::admin::averages::distribution;
use crate::admin::tables::{Servers, clients_of};
use crate::admin::{Admin, Unready};
use crate::client::door::Counters;
use crate::exchange::Card;
use crate::metrics::errors::CLASSES;
use crate::metrics::histogram::BOUNDS_US;
use crate::metrics::{Distribution, Histogram, PoolCounters, WorkerStats};
use crate::pool::{Pool, PoolKey};
use crate::session::Footprint;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

/// The pools, each with its name as labels.
type Pools<'a> = &'a [Arc<Pool>];

impl Admin {
    /// Everything, as text in Prometheus' format.
    #[must_use]
    pub fn prometheus(&self) -> Vec<u8> {
        let pools = self.registry.pools();
        let mut families = vec![build(), self.up_and_ready(), self.limits(), self.certificates()];
        families.extend(self.logins());
        families.extend(self.workers_by_number());
        families.extend(gauges(&pools));
        families.extend(counters(&pools));
        families.extend([errors(&pools), resets(&pools), pins(&pools)]);
        families.extend(durations(&pools));
        families.extend(listeners(&self.exchange.cards()));
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        // Only a family without a name or a metric cannot be written.
        let written = TextEncoder::new().encode(&families, &mut text);
        debug_assert!(written.is_ok(), "{written:?}");
        text
    }

    fn up_and_ready(&self) -> MetricFamily {
        let ready = self.readiness().is_ok();
        let help = "Whether new clients can be served: not while pgvalet shuts down or when no server can be reached.";
        family("pgvalet_ready", help, MetricType::GAUGE, vec![gauge(f64::from(u8::from(ready)), &[])])
    }

    fn limits(&self) -> MetricFamily {
        let limit = self.registry.config().general.max_client_conn;
        let help = "Clients that may be connected at the same time (max_client_conn).";
        family("pgvalet_max_clients", help, MetricType::GAUGE, vec![gauge(limit.into(), &[])])
    }

    fn certificates(&self) -> MetricFamily {
        let expiries = self.expiries.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = expiries.iter().map(|expiry| {
            let file = expiry.file.display().to_string();
            gauge(expiry.at as f64, &[("setting", expiry.setting), ("file", &file)])
        });
        let help = "When the certificates of a file expire, in seconds of Unix time: the first of a certificate and its \
            chain, the last of a list of authorities.";
        family("pgvalet_tls_certificate_expiry_timestamp_seconds", help, MetricType::GAUGE, metrics.collect())
    }

    fn logins(&self) -> [MetricFamily; 2] {
        let now = gauge(self.door.logins() as f64, &[]);
        let Counters { barred, evicted } = self.door.counters();
        let reasons = [("max_failed_logins", barred), ("max_client_logins", evicted)];
        let refused = reasons.map(|(reason, count)| {
            let labels: [Label<'_>; 1] = [("reason", reason)];
            counted(count.load(Ordering::Relaxed), &labels)
        });
        let help = "Connections over TCP that are logging in.";
        [
            family("pgvalet_logins_in_progress", help, MetricType::GAUGE, vec![now]),
            family(
                "pgvalet_logins_refused_total",
                "Connections turned away before they had logged in, by the setting that they met.",
                MetricType::COUNTER,
                refused.into(),
            ),
        ]
    }

    fn workers_by_number(&self) -> Vec<MetricFamily> {
        let pools = self.registry.all_pools();
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for (worker, load) in self.control.worker_loads().into_iter().enumerate() {
            let number = worker.to_string();
            let labels: [Label<'_>; 1] = [("worker", &number)];
            clients.push(gauge(load.into(), &labels));
            let held: u32 = pools.iter().map(|pool| pool.seen_by(worker)[1]).sum();
            servers.push(gauge(held.into(), &labels));
        }
        vec![
            family(
                "pgvalet_worker_clients",
                "Client connections of each worker, those that are logging in and those to the admin console included.",
                MetricType::GAUGE,
                clients,
            ),
            family(
                "pgvalet_worker_servers",
                "Server connections of each worker.",
                MetricType::GAUGE,
                servers,
            ),
        ]
    }

    /// Whether new clients can be served.
    ///
    /// # Errors
    /// Why not.
    pub fn readiness(&self) -> Result<(), Unready> {
        if self.is_draining() {
            return Err(Unready::ShuttingDown);
        }
        let pools = self.registry.pools();
        let reachable = |pool: &Arc<Pool>| pool.last_failure().is_none();
        if pools.is_empty() || pools.iter().any(reachable) { Ok(()) } else { Err(Unready::NoServer) }
    }
}

fn build() -> MetricFamily {
    let version: [Label<'_>; 1] = [("version", env!("CARGO_PKG_VERSION"))];
    let help = "Which pgvalet runs; always 1.";
    family("pgvalet_build_info", help, MetricType::GAUGE, vec![gauge(1.0, &version)])
}

/// What pools look like now.
fn gauges(pools: Pools<'_>) -> Vec<MetricFamily> {
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    let (mut sizes, mut pinned, mut waits) = (vec![], vec![], vec![]);
    let (mut paused, mut failing) = (vec![], vec![]);
    for pool in pools {
        let (status, by_duty) = (pool.status(), Servers::of(pool));
        let idle = clients_of(pool).saturating_sub(by_duty.active + status.waiting);
        for (state, count) in [("active", by_duty.active), ("waiting", status.waiting), ("idle", idle)] {
            clients.push(gauge(count.into(), &labels(&pool.key, Some(("state", state)))));
        }
        for (state, count) in [
            ("active", by_duty.active),
            ("idle", by_duty.idle),
            ("tested", by_duty.tested),
            ("login", by_duty.login),
            ("being_canceled", by_duty.being_canceled),
        ] {
            servers.push(gauge(count.into(), &labels(&pool.key, Some(("state", state)))));
        }
        let own = labels(&pool.key, None);
        sizes.extend(pool.policy().size.map(|size| gauge(size.into(), &own)));
        pinned.push(gauge(pool.pinned_clients().into(), &own));
        waits.push(gauge(status.oldest_wait.as_secs_f64(), &own));
        paused.push(gauge(f64::from(u8::from(pool.is_paused())), &own));
        failing.push(gauge(f64::from(u8::from(pool.last_failure().is_some())), &own));
    }
    [
        ("pgvalet_clients", "Logged-in clients: active have a server, waiting are in line for one.", clients),
        ("pgvalet_servers", "Server connections by state; tested are being reset or checked.", servers),
        (
            "pgvalet_pool_size",
            "Server connections that the pool may have (pool_size); none if there is no limit.",
            sizes,
        ),
        (
            "pgvalet_pinned_clients",
            "Clients that keep a server for themselves, because its session holds what no other has.",
            pinned,
        ),
        ("pgvalet_pool_oldest_wait_seconds", "How long the client that is first in line has waited.", waits),
        ("pgvalet_pool_paused", "Whether the pool is paused.", paused),
        (
            "pgvalet_pool_connect_failing",
            "Whether the last attempt to open a server connection failed.",
            failing,
        ),
    ]
    .into_iter()
    .map(|(name, help, metrics)| family(name, help, MetricType::GAUGE, metrics))
    .collect()
}

/// The plain counters, one family each.
fn counters(pools: Pools<'_>) -> Vec<MetricFamily> {
    let name = |counter: &str| match counter {
        "leases" => "pgvalet_server_assignments_total".to_owned(),
        "received" => "pgvalet_client_received_bytes_total".to_owned(),
        "sent" => "pgvalet_client_sent_bytes_total".to_owned(),
        "connects" | "failed_connects" | "closes" => format!("pgvalet_server_{counter}_total"),
        "lost_servers" => "pgvalet_servers_lost_total".to_owned(),
        counter => format!("pgvalet_{counter}_total"),
    };
    let sums: Vec<Vec<u64>> = pools
        .iter()
        .map(|pool| {
            let mut sums = vec![0u64; PoolCounters::NAMES.len()];
            for stats in &*pool.stats {
                let values = stats.counters.values();
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
            }
            sums
        })
        .collect();
    let names = PoolCounters::NAMES.iter().zip(PoolCounters::HELP);
    names
        .enumerate()
        .map(|(at, (counter, help))| {
            let metrics = pools.iter().zip(&sums);
            let metrics = metrics.map(|(pool, sums)| counted(sums[at], &labels(&pool.key, None)));
            family(&name(counter), help.trim(), MetricType::COUNTER, metrics.collect())
        })
        .collect()
}

/// Errors by class. A class is there once it has happened.
fn errors(pools: Pools<'_>) -> MetricFamily {
    let help = "Errors that clients got, by the class of their SQLSTATE, pgvalet's own included.";
    let metrics = by_kind(pools, "class", &CLASSES, |stats, class| stats.errors.values()[class]);
    family("pgvalet_errors_total", help, MetricType::COUNTER, metrics)
}

fn resets(pools: Pools<'_>) -> MetricFamily {
    let help = "What made resets necessary; a reset may have several reasons.";
    let reasons = Footprint::ALL_REASONS;
    let metrics = by_kind(pools, "reason", reasons, |stats, reason| stats.reset_reasons.get(reason));
    family("pgvalet_reset_reasons_total", help, MetricType::COUNTER, metrics)
}

fn pins(pools: Pools<'_>) -> MetricFamily {
    let help = "What made clients keep a server for themselves.";
    let reasons = Footprint::ALL_REASONS;
    let metrics = by_kind(pools, "reason", reasons, |stats, reason| stats.pin_reasons.get(reason));
    family("pgvalet_pin_reasons_total", help, MetricType::COUNTER, metrics)
}

fn by_kind(
    pools: Pools<'_>,
    label: &'static str,
    kinds: &[&str],
    count: impl Fn(&WorkerStats, usize) -> u64,
) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for pool in pools {
        for (at, kind) in kinds.iter().enumerate() {
            let sum: u64 = pool.stats.iter().map(|stats| count(stats, at)).sum();
            if sum > 0 {
                metrics.push(counted(sum, &labels(&pool.key, Some((label, kind)))));
            }
        }
    }
    metrics
}

fn durations(pools: Pools<'_>) -> [MetricFamily; 3] {
    let of = |name, help, histogram: fn(&WorkerStats) -> &Histogram| {
        let metrics = pools.iter().map(|pool| {
            let mut metric = Metric::from_label(pairs(&labels(&pool.key, None)));
            metric.set_histogram(histogram_of(&distribution(pool, histogram)));
            metric
        });
        family(name, help, MetricType::HISTOGRAM, metrics.collect())
    };
    [
        of(
            "pgvalet_query_duration_seconds",
            "Time from the first message of a query to the end of its answer.",
            |stats| &stats.query_times,
        ),
        of(
            "pgvalet_transaction_duration_seconds",
            "Time from the first message of a transaction to its end.",
            |stats| &stats.transaction_times,
        ),
        of(
            "pgvalet_wait_duration_seconds",
            "Time that clients who had to wait for a server connection waited.",
            |stats| &stats.wait_times,
        ),
    ]
}

/// The connections that listen for clients; they belong to no pool.
fn listeners(cards: &[Arc<Card>]) -> [MetricFamily; 5] {
    let of = |name, help, kind, count: fn(&Card) -> u64| {
        let metrics = cards.iter().map(|card| {
            let (hosts, port) = (card.place.shown_hosts(), card.place.port.to_string());
            let labels = [("database", &*card.place.dbname), ("host", &*hosts), ("port", &*port)];
            match kind {
                MetricType::GAUGE => gauge(count(card) as f64, &labels),
                _ => counted(count(card), &labels),
            }
        });
        family(name, help, kind, metrics.collect())
    };
    let (gauge, counter) = (MetricType::GAUGE, MetricType::COUNTER);
    [
        of(
            "pgvalet_listener_clients",
            "Clients for which the shared listener of a database listens.",
            gauge,
            |card| card.clients().into(),
        ),
        of("pgvalet_listener_channels", "Channels that it listens to.", gauge, |card| card.channels().into()),
        of(
            "pgvalet_listener_notifications_total",
            "Notifications that came in, each counted once.",
            counter,
            Card::received,
        ),
        of("pgvalet_listener_connects_total", "Times that it was connected.", counter, Card::connects),
        of(
            "pgvalet_listener_losses_total",
            "Times that it was lost while clients listened.",
            counter,
            Card::losses,
        ),
    ]
}

fn histogram_of(distribution: &Distribution) -> proto::Histogram {
    let mut histogram = proto::Histogram::default();
    let mut count = 0;
    let buckets = BOUNDS_US.iter().zip(&distribution.buckets).map(|(bound, more)| {
        count += more;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(count);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(distribution.buckets.iter().sum());
    histogram.set_sample_sum(distribution.sum_us as f64 / 1e6);
    histogram
}

fn labels<'a>(key: &'a PoolKey, more: Option<Label<'a>>) -> Vec<Label<'a>> {
    let mut labels: Vec<Label<'a>> = vec![("database", &key.database), ("user", &key.user)];
    labels.extend(more);
    labels
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |(name, value): &Label<'_>| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    labels.iter().map(pair).collect()
}

fn gauge(value: f64, labels: &[Label<'_>]) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_gauge(gauge);
    metric
}

fn counted(value: u64, labels: &[Label<'_>]) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_counter(counter);
    metric
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
