//! The process itself: CONFIG, MEM; of pgvalet's own PREPARED.

use crate::admin::Admin;
use crate::admin::table::{Column, Row, Type};
use crate::client::ClientCell;
use crate::client::context::Report;
use crate::config::settings::{self, InForce};
use crate::exchange::{Card, State};
use crate::pool::{Pool, Pooled};
use Type::{Int4, Int8, Text};
use std::sync::Arc;

pub(super) const CONFIG: &[Column] =
    &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)];
pub(super) const MEM: &[Column] =
    &[("name", Text), ("size", Int4), ("used", Int4), ("free", Int4), ("memtotal", Int4)];
pub(super) const PREPARED: &[Column] =
    &[("database", Text), ("user", Text), ("worker", Int4), ("statements", Int4), ("bytes", Int8)];
pub(super) const LISTENERS: &[Column] = &[
    ("database", Text),
    ("host", Text),
    ("port", Int4),
    ("user", Text),
    ("state", Text),
    ("remote_pid", Int4),
    ("channels", Int4),
    ("clients", Int4),
    ("notifications", Int8),
    ("connects", Int8),
    ("losses", Int8),
];

impl Admin {
    /// The databases that clients listen to. These connections belong to no pool.
    pub(super) fn listeners(&self) -> Vec<Row> {
        let row = |card: &Arc<Card>| {
            let state = match card.state() {
                State::Closed => "closed",
                State::Connecting => "connecting",
                State::Listening => "listening",
                State::Paused => "paused",
            };
            vec![
                (*card.place.dbname).into(),
                card.place.shown_hosts().into(),
                u32::from(card.place.port).into(),
                (*card.user()).into(),
                state.into(),
                (card.pid() as u32).into(),
                card.channels().into(),
                card.clients().into(),
                card.received().into(),
                card.connects().into(),
                card.losses().into(),
            ]
        };
        self.exchange.cards().iter().map(row).collect()
    }

    pub(super) fn config(&self) -> Vec<Row> {
        let config = self.registry.config();
        let changeable = |reload: bool| if reload { "yes" } else { "no" };
        let mut rows: Vec<(&str, Row)> = settings::in_force(&config)
            .into_iter()
            .map(|setting| {
                let InForce { name, value, default, reload } = setting;
                (name, vec![name.into(), value.into(), default.into(), changeable(reload).into()])
            })
            .collect();
        let path = config.path.display().to_string();
        rows.push((
            "conffile",
            vec!["conffile".into(), path.into(), crate::admin::table::Value::Null, "no".into()],
        ));
        rows.sort_by_key(|(name, _)| *name);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// What is worth knowing of memory. Nothing is kept in stock but buffers; what is free is free for the system.
    pub(super) fn mem(&self, reports: &[Report]) -> Vec<Row> {
        let pools = self.registry.all_pools();
        let servers: usize = pools.iter().map(|pool| pool.status().servers as usize).sum();
        let clients: usize = reports.iter().map(|report| report.clients.len()).sum();
        let statements = || reports.iter().flat_map(|report| &report.statements);
        let row = |name: &str, size: usize, used: usize, free: usize, total: usize| {
            vec![name.into(), size.into(), used.into(), free.into(), total.into()]
        };
        let stock: usize = reports.iter().map(|report| report.buffers).sum();
        let buffer = crate::net::buffer::SMALL;
        vec![
            row("pool_cache", size_of::<Pool>(), pools.len(), 0, pools.len() * size_of::<Pool>()),
            row("server_cache", size_of::<Pooled>(), servers, 0, servers * size_of::<Pooled>()),
            row("client_cache", size_of::<ClientCell>(), clients, 0, clients * size_of::<ClientCell>()),
            row("iobuf_cache", buffer, 0, stock, stock * buffer),
            row(
                "prepared_statement_cache",
                0,
                statements().map(|of| of.count).sum(),
                0,
                statements().map(|of| of.bytes).sum(),
            ),
        ]
    }

    pub(super) fn prepared(&self, reports: &[Report]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (worker, report) in reports.iter().enumerate() {
            rows.extend(report.statements.iter().map(|of| {
                let (database, user) = ((*of.key.database).into(), (*of.key.user).into());
                vec![database, user, worker.into(), of.count.into(), of.bytes.into()]
            }));
        }
        rows
    }
}
