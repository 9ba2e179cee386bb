//! What clients' logins have taught: enough to log in to servers in their name.
//!
//! A SCRAM login reveals the client's key to who has the verifier (RFC 5802, section 3), and with that key pgvalet can log in to
//! any server that has the same verifier. So a file or an `auth_query` that knows only verifiers is enough, once the user has
//! logged in. Invariants: bounded; wiped when dropped; a key is used only for the user, salt and iteration count it
//! belongs to, so the key of an old password is never taken for that of a new one; and only where the same source vouches for
//! the user, so that who can forge answers of one source gets nowhere that another one is asked for. Of each source and user only the
//! keys of the last login are kept: those of a verifier that is no longer vouched for are gone with the next one.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::keys::ClientKeys;
use crate::config::{Host, Secret};
use crate::handover::message::{LearntKeys, LearntSecret, Lessons};
use serde_bytes::ByteBuf;

/// What is known of how many users.
const USERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Keys and secrets by user. One for the process: it outlives connections, pools and configurations.
pub struct Learnt {
    keys: Mutex<LruCache<Vouched, (Verifier, ClientKeys)>>,
    secrets: Mutex<LruCache<Place, Secret>>,
}

/// Who vouches for a user, and the user.
type Vouched = (String, String);
/// Which verifier keys belong to: salt and iteration count.
type Verifier = (Box<[u8]>, u32);

/// A user on a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Who vouches for the secret: users may be looked up in places of which not all are trusted alike.
    pub witness: String,
    /// Where the server is.
    pub hosts: Vec<Host>,
    /// Its port.
    pub port: u16,
    /// The user.
    pub user: String,
}

impl Default for Learnt {
    fn default() -> Learnt {
        Learnt { keys: Mutex::new(LruCache::new(USERS)), secrets: Mutex::new(LruCache::new(USERS)) }
    }
}

impl Learnt {
    /// Keeps the keys that a login of `user` has shown, against a verifier that `witness` vouches for. Whether they were news.
    pub fn keep_keys(
        &self,
        witness: &str,
        user: &str,
        salt: &[u8],
        iterations: u32,
        keys: ClientKeys,
    ) -> bool {
        let vouched = (witness.to_owned(), user.to_owned());
        let mut all = lock(&self.keys);
        if let Some(((known, count), before)) = all.get(&vouched)
            && (&**known, *count, before) == (salt, iterations, &keys)
        {
            return false;
        }
        all.put(vouched, ((salt.into(), iterations), keys));
        true
    }

    /// The keys of `user` for a server that asks for them with this salt and count.
    pub fn keys(&self, witness: &str, user: &str, salt: &[u8], iterations: u32) -> Option<ClientKeys> {
        let mut all = lock(&self.keys);
        let ((known, count), keys) = all.get(&(witness.to_owned(), user.to_owned()))?;
        (**known == *salt && *count == iterations).then(|| keys.clone())
    }

    /// Keeps the secret, a password or an md5 hash, of a user who has logged in with it and who is in no file. Whether it
    /// was news.
    pub fn keep_secret(&self, place: Place, secret: &Secret) -> bool {
        let before = lock(&self.secrets).put(place, secret.clone());
        before.as_ref() != Some(secret)
    }

    /// The secret of a user on a server.
    pub fn secret(&self, place: &Place) -> Option<Secret> {
        lock(&self.secrets).get(place).cloned()
    }
}

impl Learnt {
    /// All of it, for another process.
    #[must_use]
    pub fn lessons(&self) -> Lessons {
        let keys = lock(&self.keys)
            .iter()
            .rev()
            .map(|((witness, user), ((salt, iterations), keys))| LearntKeys {
                witness: witness.clone(),
                user: user.clone(),
                salt: ByteBuf::from(&**salt),
                iterations: *iterations,
                client_key: keys.client_key,
                server_key: keys.server_key,
            })
            .collect();
        let text = |secret: &Secret| match secret {
            Secret::Plain(password) => Some(password.as_str().to_owned()),
            Secret::Md5(digest) => {
                let hex: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
                Some(format!("md5{hex}"))
            }
            // It is none that logs in.
            Secret::Scram(_) => None,
        };
        let secrets = lock(&self.secrets)
            .iter()
            .rev()
            .filter_map(|(place, secret)| {
                Some(LearntSecret {
                    witness: place.witness.clone(),
                    hosts: place.hosts.iter().map(host_text).collect(),
                    port: place.port,
                    user: place.user.clone(),
                    secret: text(secret)?,
                })
            })
            .collect();
        Lessons { keys, secrets }
    }

    /// Learns what another process had learnt.
    pub fn learn(&self, lessons: Lessons) {
        for of in lessons.keys {
            let keys = ClientKeys::new(of.client_key, of.server_key);
            self.keep_keys(&of.witness, &of.user, &of.salt, of.iterations, keys);
        }
        for mut of in lessons.secrets {
            let hosts = std::mem::take(&mut of.hosts).into_iter().map(host).collect();
            if let Ok(secret) = Secret::parse(&of.secret) {
                let (witness, user) = (std::mem::take(&mut of.witness), std::mem::take(&mut of.user));
                let place = Place { witness, hosts, port: of.port, user };
                self.keep_secret(place, &secret);
            }
        }
    }
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(directory) => directory.to_string_lossy().into_owned(),
    }
}

fn host(text: String) -> Host {
    if text.starts_with(['/', '@']) { Host::Unix(text.into()) } else { Host::Tcp(text) }
}

impl fmt::Debug for Learnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learnt").field("keys", &lock(&self.keys).len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_a_user_a_salt_and_a_count() {
        let learnt = Learnt::default();
        let keys = ClientKeys::new([1; 32], [2; 32]);
        assert!(learnt.keep_keys("w", "a", b"salt", 4096, keys.clone()));
        assert!(!learnt.keep_keys("w", "a", b"salt", 4096, keys.clone()), "the same again is no news");
        assert_eq!(learnt.keys("w", "a", b"salt", 4096), Some(keys));
        assert_eq!(learnt.keys("w", "b", b"salt", 4096), None);
        assert_eq!(learnt.keys("w", "a", b"tlas", 4096), None);
        assert_eq!(learnt.keys("w", "a", b"salt", 4097), None);
        assert_eq!(learnt.keys("another", "a", b"salt", 4096), None);
        let other = ClientKeys::new([3; 32], [4; 32]);
        assert!(learnt.keep_keys("w", "a", b"tlas", 4096, other.clone()));
        assert_eq!(learnt.keys("w", "a", b"tlas", 4096), Some(other));
        assert_eq!(learnt.keys("w", "a", b"salt", 4096), None, "another verifier has taken its place");
    }

    #[test]
    fn another_process_learns_the_same() {
        let (one, other) = (Learnt::default(), Learnt::default());
        let keys = ClientKeys::new([1; 32], [2; 32]);
        one.keep_keys("w", "a", b"salt", 4096, keys.clone());
        let hosts = vec![Host::Tcp("h".into()), Host::Unix("/run/x".into())];
        let place = Place { witness: "w".into(), hosts, port: 1, user: "a".into() };
        let digest = format!("md5{}", "0f".repeat(16));
        let secrets = [Secret::parse("hunter2").unwrap(), Secret::parse(&digest).unwrap()];
        for secret in &secrets {
            one.keep_secret(place.clone(), secret);
            other.learn(one.lessons());
            assert_eq!(other.secret(&place).as_ref(), Some(secret));
        }
        assert_eq!(other.keys("w", "a", b"salt", 4096), Some(keys));
        assert!(!format!("{:?}", one.lessons()).contains("hunter2"));
    }

    #[test]
    fn secrets_belong_to_a_user_on_a_server() {
        let learnt = Learnt::default();
        let place =
            |port| Place { witness: "w".into(), hosts: vec![Host::Tcp("h".into())], port, user: "a".into() };
        let secret = Secret::parse("hunter2").unwrap();
        assert!(learnt.keep_secret(place(1), &secret));
        assert_eq!((learnt.secret(&place(1)), learnt.secret(&place(2))), (Some(secret), None));
        assert!(!format!("{learnt:?}").contains("hunter2"));
    }
}
