//! By what cancel requests name clients: process id and secret, as BackendKeyData told them.
//!
//! As a rule the process id is the client's place: its worker and its slot there. Where it cannot be, because peers have a
//! format of their own ([`peer_key`]) or because the client brought its key from another process, this knows the place. Owns no
//! client and judges no request: the secret is compared where the client is.

use crate::config::Config;
use crate::entropy;
use crate::protocol::peer_key;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A key as a client was told it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// The process id.
    pub pid: i32,
    /// The secret.
    pub secret: Secret,
}

/// The secret of a [`CancelKey`]. Nearly all have four bytes, and need no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Secret {
    /// As before version 3.2 of the protocol.
    Short([u8; 4]),
    /// Of any other length.
    Long(Box<[u8]>),
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Secret {
        bytes.try_into().map_or_else(|_| Secret::Long(bytes.into()), Secret::Short)
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Secret::Short(bytes) => bytes,
            Secret::Long(bytes) => bytes,
        }
    }
}

impl CancelKey {
    /// A key for a client whose place is `place` and who speaks minor version `minor` of the protocol.
    #[must_use]
    pub fn new(config: &Config, minor: u16, place: i32) -> CancelKey {
        let peer_id = config.general.peer_id;
        if peer_id > 0 {
            let mut random = [0; 8];
            if entropy::fill(&mut random).is_err() {
                return CancelKey::unusable(place);
            }
            // Of four bytes in every version: that is what the other processes understand.
            let (pid, secret) = peer_key::stamp(peer_id, random);
            return CancelKey { pid, secret: Secret::Short(secret) };
        }
        let mut random = [0; 32];
        let secret = if minor >= 2 { &mut random[..] } else { &mut random[..4] };
        match entropy::fill(secret) {
            Ok(()) => CancelKey { pid: place, secret: Secret::from(&*secret) },
            Err(_) => CancelKey::unusable(place),
        }
    }

    /// Without randomness nobody could be told from another: cancel does not work then, and nothing else.
    fn unusable(place: i32) -> CancelKey {
        CancelKey { pid: place, secret: Secret::Long(Box::default()) }
    }
}

/// The places of the clients whose process id is not their place. One for the process.
#[derive(Debug, Default)]
pub struct CancelKeys(Mutex<HashMap<CancelKey, i32>>);

impl CancelKeys {
    /// Notes where the client of this key is.
    pub(super) fn enter(&self, key: CancelKey, place: i32) {
        self.lock().insert(key, place);
    }

    /// Forgets a client.
    pub(super) fn leave(&self, key: &CancelKey) {
        self.lock().remove(key);
    }

    /// Where the client of this key is, if that is known here.
    pub(super) fn place(&self, pid: i32, secret: &[u8]) -> Option<i32> {
        let keys = self.lock();
        if keys.is_empty() {
            return None;
        }
        keys.get(&CancelKey { pid, secret: secret.into() }).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CancelKey, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
