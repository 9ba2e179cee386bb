//! Clients and servers one by one: CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS, FDS.
//!
//! `ptr` and `link` are numbers in the shape that pgbouncer's users know, not addresses: `link` is the `ptr` of the other
//! side.

use crate::admin::table::{Column, Row, Type, Value};
use crate::admin::{Admin, CONSOLE};
use crate::client::ClientInfo;
use crate::client::cell::Activity;
use crate::client::context::Report;
use crate::moment::Moment;
use crate::net::stream::Address;
use crate::net::tls::cipher::Cipher;
use crate::pool::roster::Entry;
use crate::pool::{Duty, Pool};
use crate::routing::ADMIN_DATABASES;
use crate::session::Footprint;
use Type::{Int4, Text};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// pgbouncer's columns of CLIENTS and SERVERS, and behind them those of SOCKETS.
const ALL: &[Column] = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int4),
    ("recv_pos", Int4),
    ("pkt_pos", Int4),
    ("pkt_remain", Int4),
    ("send_pos", Int4),
    ("send_remain", Int4),
    ("pkt_avail", Int4),
    ("send_avail", Int4),
];
/// Buffers are held only while there is something in them; nobody looks into those of others.
const BUFFER_COLUMNS: usize = 7;

/// pgbouncer's, and behind them what keeps the one on the other.
pub(super) const PEERS: &[Column] = &{
    let mut columns = [("pinned", Text); ALL.len() - BUFFER_COLUMNS + 1];
    let mut at = 0;
    while at + 1 < columns.len() {
        columns[at] = ALL[at];
        at += 1;
    }
    columns
};
pub(super) const SOCKETS: &[Column] = ALL;
pub(super) const FDS: &[Column] = &[
    ("fd", Int4),
    ("task", Text),
    ("user", Text),
    ("database", Text),
    ("addr", Text),
    ("port", Int4),
    ("cancel", Type::Int8),
    ("link", Int4),
    ("client_encoding", Text),
    ("std_strings", Text),
    ("datestyle", Text),
    ("timezone", Text),
    ("password", Text),
    ("scram_client_key", Type::Text),
    ("scram_server_key", Type::Text),
];

/// A client or a server, as the tables show it.
struct Socket {
    kind: &'static str,
    user: Box<str>,
    database: Box<str>,
    replication: &'static str,
    state: &'static str,
    peer: Address,
    local: Option<Address>,
    fd: i32,
    cipher: Cipher,
    connected_at: SystemTime,
    request_at: SystemTime,
    wait: Duration,
    close_needed: bool,
    link: Option<u32>,
    pid: i32,
    application_name: Box<str>,
    prepared: u32,
    id: u32,
    pins: Footprint,
}

impl Admin {
    pub(super) fn clients(&self, reports: &[Report]) -> Vec<Row> {
        let all = self.all_sockets(reports);
        all.iter().filter(|socket| socket.kind == "C").map(|socket| self.row(socket, false)).collect()
    }

    pub(super) fn servers(&self, reports: &[Report]) -> Vec<Row> {
        let all = self.all_sockets(reports);
        all.iter().filter(|socket| socket.kind == "S").map(|socket| self.row(socket, false)).collect()
    }

    pub(super) fn sockets(&self, reports: &[Report], active_only: bool) -> Vec<Row> {
        let all = self.all_sockets(reports);
        let shown = all.iter().filter(|socket| !active_only || socket.state != "idle");
        shown.map(|socket| self.row(socket, true)).collect()
    }

    pub(super) fn fds(&self, reports: &[Report]) -> Vec<Row> {
        let all = self.all_sockets(reports);
        let fds: HashMap<u32, i32> = all.iter().map(|socket| (socket.id, socket.fd)).collect();
        all.iter().map(|socket| self.fd_row(socket, &fds)).collect()
    }

    /// Clients and servers, in the order in which they came.
    fn all_sockets(&self, reports: &[Report]) -> Vec<Socket> {
        let (now, clock) = (Moment::now(), SystemTime::now());
        let mut servers = Vec::new();
        for pool in self.registry.all_pools() {
            servers.extend(pool.roster().entries().iter().map(|entry| server(&pool, entry, now, clock)));
        }
        let links: HashMap<u32, (u32, Footprint)> =
            servers.iter().filter_map(|server| Some((server.link?, (server.id, server.pins)))).collect();
        let mut all = servers;
        let clients = reports.iter().flat_map(|report| &report.clients);
        let servers = all.len();
        all.extend(clients.map(|info| client(info, links.get(&info.id).copied(), clock)));
        // A server of a replication client is such a server, and who has left is not there any more.
        let (servers, clients) = all.split_at_mut(servers);
        let there: HashMap<u32, &'static str> =
            clients.iter().map(|client| (client.id, client.replication)).collect();
        for server in servers {
            server.link = server.link.filter(|link| there.contains_key(link));
            server.replication = server.link.and_then(|link| there.get(&link)).copied().unwrap_or("none");
        }
        all.sort_by_key(|socket| socket.id);
        all
    }

    fn row(&self, socket: &Socket, with_buffers: bool) -> Row {
        let (addr, port) = self.place(Some(&socket.peer));
        let (local_addr, local_port) = self.place(socket.local.as_ref());
        let state = match (with_buffers, socket.kind, socket.state) {
            (false, _, state) => state.to_owned(),
            (true, "C", "idle") => "cl_active".to_owned(),
            (true, "C", state) => format!("cl_{state}"),
            (true, _, state) => format!("sv_{state}"),
        };
        let mut row: Row = vec![
            socket.kind.into(),
            (*socket.user).into(),
            (*socket.database).into(),
            socket.replication.into(),
            state.into(),
            addr,
            port,
            local_addr,
            local_port,
            date(socket.connected_at).into(),
            date(socket.request_at).into(),
            socket.wait.as_secs().into(),
            socket.wait.subsec_micros().into(),
            socket.close_needed.into(),
            pointer(socket.id).into(),
            socket.link.map(pointer).unwrap_or_default().into(),
            u32::try_from(socket.pid).unwrap_or(0).into(),
            socket.cipher.to_string().into(),
            (*socket.application_name).into(),
            socket.prepared.into(),
            socket.id.into(),
        ];
        if with_buffers {
            row.extend(std::iter::repeat_n(Value::Number(0), BUFFER_COLUMNS));
        } else {
            row.push(socket.pins.reasons().collect::<Vec<_>>().join(", ").into());
        }
        row
    }

    fn fd_row(&self, socket: &Socket, fds: &HashMap<u32, i32>) -> Row {
        let (addr, port) = self.place(Some(&socket.peer));
        let number = |fd: i32| Value::from(u32::try_from(fd).unwrap_or(0));
        let link = socket.link.and_then(|link| fds.get(&link)).copied().map(number);
        let mut row: Row = vec![
            number(socket.fd),
            (if socket.kind == "C" { "client" } else { "server" }).into(),
            (*socket.user).into(),
            (*socket.database).into(),
            addr,
            port,
            0u32.into(),
            link.unwrap_or(0u32.into()),
        ];
        // Settings are the session's own; secrets are told to nobody.
        row.extend(std::iter::repeat_n(Value::Null, FDS.len() - row.len()));
        row
    }

    /// Address and port, of which a Unix socket has only that in its name.
    fn place(&self, address: Option<&Address>) -> (Value, Value) {
        match address {
            Some(Address::Tcp(address)) => {
                (address.ip().to_string().into(), u32::from(address.port()).into())
            }
            Some(Address::Unix(path)) => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let port = name.rsplit('.').next().and_then(|port| port.parse::<u32>().ok());
                let port = port.unwrap_or(self.registry.config().general.listen_port.into());
                ("unix".into(), port.into())
            }
            None => ("unix".into(), u32::from(self.registry.config().general.listen_port).into()),
        }
    }
}

fn client(info: &ClientInfo, link: Option<(u32, Footprint)>, clock: SystemTime) -> Socket {
    let (link, pins) = link.map_or((None, Footprint::NOTHING), |(link, pins)| (Some(link), pins));
    let state = match info.activity {
        Activity::Waiting => "waiting",
        Activity::Active | Activity::IdleInTransaction | Activity::Pinned | Activity::Closing => "active",
        Activity::Login | Activity::Idle => "idle",
    };
    // A session that keeps its server is active also while it asks nothing.
    let state = if state == "idle" && link.is_some() { "active" } else { state };
    let is_console = ADMIN_DATABASES.contains(&&*info.database);
    Socket {
        kind: "C",
        user: info.user.clone(),
        database: if is_console { CONSOLE.into() } else { info.database.clone() },
        replication: info.origin.replication,
        state: if is_console { "idle" } else { state },
        peer: info.origin.peer.clone(),
        local: info.origin.local.clone(),
        fd: info.origin.fd,
        cipher: info.origin.cipher,
        connected_at: info.origin.connected_at,
        request_at: clock.checked_sub(info.since).unwrap_or(clock).max(info.origin.connected_at),
        wait: if state == "waiting" { info.since } else { Duration::ZERO },
        close_needed: false,
        link: if matches!(state, "active") { link } else { None },
        pid: 0,
        application_name: info.application_name.clone(),
        prepared: info.prepared,
        id: info.id,
        pins,
    }
}

fn server(pool: &Pool, entry: &Arc<Entry>, now: Moment, clock: SystemTime) -> Socket {
    let state = match entry.duty() {
        _ if entry.cancels() > 0 => "being_canceled",
        Duty::Idle => "idle",
        Duty::Active => "active",
        Duty::Tested => "tested",
    };
    let lent_at = entry.lent_ago(now).and_then(|ago| clock.checked_sub(ago));
    Socket {
        kind: "S",
        user: (*pool.key.user).into(),
        database: (*pool.key.database).into(),
        replication: "none",
        state,
        peer: entry.address.clone(),
        local: entry.local.clone(),
        fd: entry.fd,
        cipher: entry.cipher,
        connected_at: entry.connected_at,
        request_at: lent_at.unwrap_or(entry.connected_at).max(entry.connected_at),
        wait: Duration::ZERO,
        close_needed: pool.is_retired() || pool.is_outdated(entry),
        link: entry.client(),
        pid: entry.pid,
        application_name: entry.application_name.clone(),
        prepared: entry.prepared(),
        id: entry.id,
        pins: entry.pins(),
    }
}

/// A moment as pgbouncer writes it, in UTC.
fn date(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

fn pointer(id: u32) -> String {
    format!("0x{id:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_pgbouncer_writes_them() {
        assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(86_399)), "1970-01-01 23:59:59 UTC");
    }

    #[test]
    fn sockets_are_clients_with_seven_more_columns() {
        assert_eq!(PEERS.last().map(|column| column.0), Some("pinned"));
        assert_eq!(SOCKETS[PEERS.len() - 1].0, "recv_pos");
        assert_eq!(SOCKETS[..PEERS.len() - 1], PEERS[..PEERS.len() - 1]);
    }
}
