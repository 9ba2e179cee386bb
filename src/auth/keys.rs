//! The keys behind a password (RFC 5802, section 3), and a cache of them.
//!
//! Owns the one slow step of SCRAM, PBKDF2, and the process-wide [`KeyCache`] that makes it rare. Does not own threads:
//! the caller runs what is slow where blocking is allowed. Invariant: keys are wiped when they are dropped.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::learnt::Learnt;
use super::saslprep;
use crate::config::secret::{Password, ScramVerifier};

/// What logs in to a server in place of the password: the keys for one salt and iteration count.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ClientKeys {
    /// The key that proves that the client knows the password.
    pub client_key: [u8; 32],
    /// `SHA256(client_key)`.
    pub stored_key: [u8; 32],
    /// The key with which the server proves that it knows the password.
    pub server_key: [u8; 32],
}

impl ClientKeys {
    /// Derives the keys from a password. Slow by design: about a microsecond per iteration, so not on a worker.
    ///
    /// `iterations` of 0 count as 1.
    pub fn derive(password: &Password, salt: &[u8], iterations: u32) -> ClientKeys {
        let prepared = match saslprep::prepare(password.as_str()) {
            Cow::Borrowed(text) => Zeroizing::new(text.to_owned()),
            Cow::Owned(text) => Zeroizing::new(text),
        };
        let mut salted_password = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2::<Hmac<Sha256>>(prepared.as_bytes(), salt, iterations.max(1), &mut *salted_password)
            .expect("HMAC takes keys of any length");
        ClientKeys::new(hmac(&salted_password, &[b"Client Key"]), hmac(&salted_password, &[b"Server Key"]))
    }

    /// The keys from the two that cannot be computed from each other: a client's key, learnt from its own login, and
    /// the server key of the verifier it was checked against.
    pub fn new(client_key: [u8; 32], server_key: [u8; 32]) -> ClientKeys {
        ClientKeys { client_key, stored_key: Sha256::digest(client_key).into(), server_key }
    }

    /// What a server keeps of these keys. `salt` and `iterations` are those they were derived with.
    pub fn verifier(&self, salt: &[u8], iterations: u32) -> ScramVerifier {
        ScramVerifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: self.stored_key,
            server_key: self.server_key,
        }
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys(<redacted>)")
    }
}

/// Derived keys by password, salt and iteration count, the least recently used leaving first.
///
/// One for the process; the lock is held for a look-up only and touched at logins only. The passwords themselves are
/// not kept, only their hashes.
pub struct KeyCache {
    entries: Mutex<LruCache<CacheKey, ClientKeys>>,
    /// Keys of passwords that nobody here knows.
    pub learnt: Learnt,
}

#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    password_hash: [u8; 32],
    salt: Box<[u8]>,
    iterations: u32,
}

impl KeyCache {
    /// An empty cache of at most `capacity` entries.
    pub fn new(capacity: NonZeroUsize) -> KeyCache {
        KeyCache { entries: Mutex::new(LruCache::new(capacity)), learnt: Learnt::default() }
    }

    /// The keys, if they were derived before. Fast: for workers.
    pub fn get(&self, password: &Password, salt: &[u8], iterations: u32) -> Option<ClientKeys> {
        let key = CacheKey::new(password, salt, iterations);
        self.lock().get(&key).cloned()
    }

    /// Keeps keys for the next login.
    pub fn insert(&self, password: &Password, salt: &[u8], iterations: u32, keys: ClientKeys) {
        let key = CacheKey::new(password, salt, iterations);
        self.lock().put(key, keys);
    }

    /// The keys, derived now if they were not before. Slow: for a thread that may block.
    ///
    /// It looks first, so of a storm of equal logins queued for few threads only the first ones derive.
    pub fn get_or_derive(&self, password: &Password, salt: &[u8], iterations: u32) -> ClientKeys {
        if let Some(keys) = self.get(password, salt, iterations) {
            return keys;
        }
        let keys = ClientKeys::derive(password, salt, iterations);
        self.insert(password, salt, iterations, keys.clone());
        keys
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<CacheKey, ClientKeys>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache").field("len", &self.lock().len()).finish_non_exhaustive()
    }
}

impl CacheKey {
    fn new(password: &Password, salt: &[u8], iterations: u32) -> CacheKey {
        CacheKey { password_hash: Sha256::digest(password.as_str()).into(), salt: salt.into(), iterations }
    }
}

/// HMAC-SHA-256 of the parts, one after the other.
pub(super) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    /// Verifiers from `pg_authid` of PostgreSQL 15, by the passwords they were made from.
    #[test]
    fn verifiers_are_those_that_postgresql_makes() {
        for (text, verifier) in [
            (
                "correct horse battery staple",
                "SCRAM-SHA-256$4096:usA1CQFO3R5S5OmG8WxwzQ==$MmS1MVWBp254Y9pnaDKApacoBmwMooroheVTklQGdLQ=:\
                 y2v7N61hOjsZ6kpvjnr1r7Vtahp/t26OtFM9yuBa7L0=",
            ),
            (
                "p\u{e4}ss\u{a0}w\u{ad}ord\u{2168}",
                "SCRAM-SHA-256$4096:Aqe2VPfVKbbcACL75vRShQ==$gznpQB5XGNFkXuYvXX3R5ei6gLMfaT1+AdoFsbIwWcM=:\
                 2OZD7WY8hEtopxq4IllLPc6QzzFd71PqV/PqmSNKYOE=",
            ),
            (
                "bad\u{7}bell",
                "SCRAM-SHA-256$4096:oK2t/H2L06eZxzorwlt3Wg==$s90RtD9RIYNueZqvzQdEcEXUgFwukBBZdUPSdKBW1hQ=:\
                 Flch6zVA7P1NUE7twLqNssooBS1jJmtoFq9BDOzyNao=",
            ),
        ] {
            let Ok(Secret::Scram(verifier)) = Secret::parse(verifier) else { panic!("not a verifier") };
            let keys = ClientKeys::derive(&password(text), &verifier.salt, verifier.iterations);
            assert_eq!(keys.verifier(&verifier.salt, verifier.iterations), verifier);
        }
    }

    #[test]
    fn the_cache_tells_passwords_salts_and_iterations_apart() {
        let cache = KeyCache::new(NonZeroUsize::new(8).unwrap());
        let keys = cache.get_or_derive(&password("a"), b"salt", 2);
        assert_eq!(cache.get(&password("a"), b"salt", 2), Some(keys));
        assert_eq!(cache.get(&password("b"), b"salt", 2), None);
        assert_eq!(cache.get(&password("a"), b"tlas", 2), None);
        assert_eq!(cache.get(&password("a"), b"salt", 3), None);
    }

    #[test]
    fn the_cache_is_bounded_and_forgets_what_was_used_least_recently() {
        let cache = KeyCache::new(NonZeroUsize::new(2).unwrap());
        cache.get_or_derive(&password("a"), b"salt", 1);
        cache.get_or_derive(&password("b"), b"salt", 1);
        cache.get_or_derive(&password("a"), b"salt", 1);
        cache.get_or_derive(&password("c"), b"salt", 1);
        assert!(cache.get(&password("a"), b"salt", 1).is_some());
        assert!(cache.get(&password("b"), b"salt", 1).is_none());
        assert!(cache.get(&password("c"), b"salt", 1).is_some());
    }

    #[test]
    fn get_or_derive_uses_what_was_inserted() {
        let cache = KeyCache::new(NonZeroUsize::MIN);
        let keys = ClientKeys::new([1; 32], [2; 32]);
        cache.insert(&password("a"), b"salt", 1, keys.clone());
        assert_eq!(cache.get_or_derive(&password("a"), b"salt", 1), keys);
    }

    #[test]
    fn keys_and_cache_print_no_secret() {
        let cache = KeyCache::new(NonZeroUsize::MIN);
        cache.insert(&password("hunter2"), b"salt", 1, ClientKeys::new([201; 32], [202; 32]));
        let printed = format!("{cache:?} {:?}", cache.get(&password("hunter2"), b"salt", 1));
        assert!(!printed.contains("20") && !printed.contains("hunter2"), "{printed}");
    }
}
