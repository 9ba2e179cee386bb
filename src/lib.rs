//! pgvalet, a transaction-level connection pooler for PostgreSQL.
//!
//! # The life of a client
//!
//! `runtime::listener` accepts its socket on a worker and gives it to one. `client::login` reads its startup packet, has it
//! prove who it is, asks `routing` for its pool and greets it with what a server of that pool reports. From then on
//! `client::relay` polls both its sockets: a request leads to a checkout from the worker's shard of the pool
//! (`pool::shard`), the server's replies lead, at the end of the transaction, to a checkin, and to a reset by
//! `pool::keeper` if what ran can have left something behind (`session::classify`).
//!
//! # The modules
//!
//! Arrows point down only; `alarm`, `config`, `entropy`, `error`, `metrics` and `moment` serve all.
//!
//! - [`runtime`]: the process: workers, listeners, signals, reload, upgrade, shutdown. [`handover`]: what two processes say to
//!   each other while one takes the other's place; its messages are plain data, filled by those whose it is.
//! - [`admin`]: the admin console, metrics and health over HTTP. [`client`]: logins, sessions, the relay.
//! - [`routing`]: from database and user to a pool. [`directory`]: users that `auth_query` finds. [`identity`]: others
//!   who know users.
//! - [`pool`]: who has which server, who waits for one.
//! - [`server`]: one connection to PostgreSQL.
//! - [`auth`]: passwords. [`session`]: what belongs to a client between leases. [`net`]: sockets and buffers.
//! - [`protocol`]: the wire protocol.
//!
//! `protocol`, `session` and `auth` are pure: no I/O, no clock, no randomness.

#![forbid(unsafe_code)]
#![warn(clippy::disallowed_methods)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "pgvalet runs on Linux only: its sockets, their options and the credentials of peers are Linux's"
);

pub mod admin;
pub mod alarm;
pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod directory;
pub mod entropy;
pub mod error;
pub mod exchange;
pub mod handover;
pub mod identity;
pub mod metrics;
pub mod moment;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod routing;
pub mod runtime;
pub mod server;
pub mod session;
