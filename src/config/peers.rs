//! The processes that share an address with this one: `[peers]`.

use std::collections::BTreeMap;

use super::Host;
use super::draft::{Draft, Section};
use super::settings::PeerEntry;
use crate::protocol::peer_key::MAX_PEER_ID;

/// The port of a peer that names none.
const PORT: u16 = 6432;

/// Another process behind the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it can be reached itself.
    pub host: Host,
    /// Its port, also in the name of its Unix socket.
    pub port: u16,
    /// Cancel requests that may be on their way to it at once; `None`: no limit.
    pub pool_size: Option<u32>,
}

/// The peers of the draft, by their numbers. The entry of this process itself may be among them, so that all can have the
/// same file.
pub(super) fn peers(draft: &mut Draft) -> BTreeMap<u16, Peer> {
    let entries = draft.peers.clone();
    let mut peers = BTreeMap::new();
    for (name, entry) in entries {
        let section = Section::Peer(name.clone());
        let place = draft.place(&[&section.name()]);
        let Some(id) = name.parse().ok().filter(|id| (1..=MAX_PEER_ID).contains(id)) else {
            let message = format!("a peer is named by its peer_id, a number from 1 to {MAX_PEER_ID}");
            draft.problem(&place, section.name(), message);
            continue;
        };
        match peer(&entry, draft.general.default_pool_size) {
            Ok(peer) => drop(peers.insert(id, peer)),
            Err(message) => draft.problem(&place, section.key("host"), message),
        }
    }
    if !peers.is_empty() && draft.general.peer_id == 0 {
        let place = draft.place(&["peers"]);
        let message = "not set, so the peers are not used; give each process a number of its own";
        draft.warning(&place, "peer_id", message);
    }
    peers
}

fn peer(entry: &PeerEntry, pool_size: Option<u32>) -> Result<Peer, &'static str> {
    match entry.host.as_deref() {
        Some([host]) => Ok(Peer {
            host: host.clone(),
            port: entry.port.unwrap_or(PORT),
            pool_size: entry.pool_size.unwrap_or(pool_size),
        }),
        None | Some([]) => Err("not set; say where this peer can be reached itself"),
        Some(_) => Err("several hosts; a peer is one process"),
    }
}
