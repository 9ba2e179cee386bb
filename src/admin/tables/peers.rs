//! SHOW PEERS and PEER_POOLS: the processes that share an address with this one.

use super::pools::hosts;
use crate::admin::Admin;
use crate::admin::table::Row;

impl Admin {
    pub(super) fn peers(&self) -> Vec<Row> {
        let config = self.registry.config();
        let row = |(id, peer): (&u16, &crate::config::Peer)| {
            vec![
                u32::from(*id).into(),
                hosts(std::slice::from_ref(&peer.host)).into(),
                u32::from(peer.port).into(),
                peer.pool_size.unwrap_or(0).into(),
            ]
        };
        config.peers.iter().map(row).collect()
    }

    pub(super) fn peer_pools(&self) -> Vec<Row> {
        let counts = self.peers.counts().into_iter();
        // One request has one connection to the peer, from the moment at which it is its turn.
        let row = |(id, [waiting, active]): (u16, [u32; 2])| {
            vec![u32::from(id).into(), active.into(), waiting.into(), active.into(), 0u32.into()]
        };
        counts.map(row).collect()
    }
}
