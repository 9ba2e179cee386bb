//! What an unknown user is shown, so that it looks like a known one with a wrong password (mock
//! authentication).
//!
//! Owns the values that stand in for a verifier. Invariant: for one secret and user they are always the same, because
//! a salt that changed from login to login would give the user away as unknown.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::keys::hmac;
use crate::config::SecretKinds;
use crate::config::secret::Md5Digest;

/// Length of the salts that PostgreSQL makes; a mock must not differ.
pub const SALT_LEN: usize = 16;

/// A secret of the process from which mock values are derived. Peers must not be able to guess it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MockSecret([u8; 32]);

impl MockSecret {
    /// The bytes are random, from the caller; the longer they live, the less a restart tells.
    pub fn new(bytes: [u8; 32]) -> MockSecret {
        MockSecret(bytes)
    }

    /// The salt shown for `user`.
    ///
    /// It is also the salt for known users whose secret is plain: then they look like unknown ones, and their derived
    /// keys stay in the cache from login to login.
    pub fn salt(&self, user: &str) -> [u8; SALT_LEN] {
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(&hmac(&self.0, &[b"salt:", user.as_bytes()])[..SALT_LEN]);
        salt
    }

    /// A stored hash for an md5 login of `user` that no password has: the login runs as any other, and fails.
    pub fn md5(&self, user: &str) -> Md5Digest {
        let mut digest = Md5Digest([0; 16]);
        digest.0.copy_from_slice(&hmac(&self.0, &[b"md5:", user.as_bytes()])[..16]);
        digest
    }
}

/// What is asked of somebody unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// An MD5 challenge.
    Md5,
    /// SCRAM with this iteration count.
    Scram(u32),
}

impl MockSecret {
    /// How `user`, who is unknown, looks in a SCRAM exchange or, with `md5_too`, in one by the method md5: like one of
    /// the users that are known, always the same one. `iterations` are those of users whose secret is plain. `found` has the kinds
    /// of secrets that users of the database have, where users are looked up there.
    ///
    /// PostgreSQL makes all unknown users look like its default kind of secret, which gives them away where users have
    /// another.
    pub fn looks(
        &self,
        user: &str,
        kinds: &SecretKinds,
        found: Option<&SecretKinds>,
        iterations: u32,
        md5_too: bool,
    ) -> Looks {
        let has_files = *kinds != SecretKinds::default();
        match found {
            // Half of the names could be of a file, half of the database: neither kind gives anybody away.
            Some(found) if !has_files || self.draw(b"place:", user).is_multiple_of(2) => {
                self.looks_found(user, found, iterations, md5_too)
            }
            _ => self.looks_filed(user, kinds, iterations, md5_too),
        }
    }

    /// Like somebody in the database. How many have which kind is not known, and which kinds there are is learnt as users log in:
    /// a kind that is new changes the looks of as few names as can be.
    fn looks_found(&self, user: &str, found: &SecretKinds, iterations: u32, md5_too: bool) -> Looks {
        let mut all: Vec<Looks> = found.scram.keys().map(|count| Looks::Scram(*count)).collect();
        match md5_too {
            true if found.md5 + found.plain > 0 => all.push(Looks::Md5),
            false if found.plain > 0 => all.push(Looks::Scram(iterations)),
            _ => {}
        }
        let rank = |looks: &Looks| match looks {
            Looks::Md5 => hmac(&self.0, &[b"md5?:", user.as_bytes()]),
            Looks::Scram(count) => hmac(&self.0, &[b"scram?:", &count.to_be_bytes(), user.as_bytes()]),
        };
        all.into_iter().max_by_key(rank).unwrap_or(Looks::Scram(iterations))
    }

    fn draw(&self, what: &[u8], user: &str) -> u64 {
        let drawn = hmac(&self.0, &[what, user.as_bytes()]);
        drawn.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    }

    fn looks_filed(&self, user: &str, kinds: &SecretKinds, iterations: u32, md5_too: bool) -> Looks {
        let (md5, plain) = if md5_too { (kinds.md5 + kinds.plain, 0) } else { (0, kinds.plain) };
        let total = md5 + plain + kinds.scram.values().sum::<usize>();
        let mut drawn = (self.draw(b"looks:", user) % total.max(1) as u64) as usize;
        if drawn < md5 {
            return Looks::Md5;
        }
        drawn -= md5;
        if drawn < plain || total == 0 {
            return Looks::Scram(iterations);
        }
        drawn -= plain;
        for (iterations, count) in &kinds.scram {
            if drawn < *count {
                return Looks::Scram(*iterations);
            }
            drawn -= count;
        }
        Looks::Scram(iterations)
    }
}

impl std::fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockSecret(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_users_look_like_the_known_ones_in_their_proportion() {
        let secret = MockSecret::new([7; 32]);
        let kinds = SecretKinds { plain: 2, md5: 3, scram: [(4096, 4), (9999, 1)].into() };
        let count = |md5_too: bool, looks: Looks| {
            let user = |number: &u32| secret.looks(&number.to_string(), &kinds, None, 5000, md5_too) == looks;
            (0..10_000_u32).filter(user).count()
        };
        let near = |count: usize, share: f64| (count as f64 / 10_000.0 - share).abs() < 0.02;
        assert!(near(count(true, Looks::Md5), 0.5));
        assert!(near(count(true, Looks::Scram(4096)), 0.4));
        assert!(near(count(true, Looks::Scram(9999)), 0.1));
        assert!(near(count(false, Looks::Scram(5000)), 2.0 / 7.0));
        assert!(near(count(false, Looks::Scram(4096)), 4.0 / 7.0));
        assert_eq!(secret.looks("x", &SecretKinds::default(), None, 5000, true), Looks::Scram(5000));
    }

    #[test]
    fn where_users_are_looked_up_unknown_ones_look_like_those_too() {
        let secret = MockSecret::new([7; 32]);
        let looks = |files: &SecretKinds, found: &SecretKinds| -> Vec<Looks> {
            (0..1000_u32)
                .map(|user| secret.looks(&user.to_string(), files, Some(found), 4096, true))
                .collect()
        };
        let nothing = SecretKinds::default();
        assert!(looks(&nothing, &nothing).iter().all(|looks| *looks == Looks::Scram(4096)));
        let plain = SecretKinds { plain: 1, ..SecretKinds::default() };
        let mixed = looks(&plain, &nothing);
        let md5 = mixed.iter().filter(|looks| **looks == Looks::Md5).count();
        assert!((400..600).contains(&md5), "{md5}");
        // A further kind takes its share of the names; no other name changes.
        let one = SecretKinds { scram: [(4096, 9)].into(), ..SecretKinds::default() };
        let two = SecretKinds { md5: 1, scram: [(4096, 9)].into(), ..SecretKinds::default() };
        let three = SecretKinds { md5: 1, scram: [(4096, 9), (9999, 1)].into(), ..SecretKinds::default() };
        let (one, two, three) = (looks(&nothing, &one), looks(&nothing, &two), looks(&nothing, &three));
        assert!(one.iter().all(|looks| *looks == Looks::Scram(4096)));
        assert!(two.iter().all(|looks| matches!(looks, Looks::Md5 | Looks::Scram(4096))));
        let changed = two.iter().zip(&three).filter(|(two, three)| two != three);
        assert!(changed.clone().all(|(_, three)| *three == Looks::Scram(9999)));
        assert!((200..450).contains(&changed.count()));
    }

    #[test]
    fn a_salt_is_the_same_for_a_user_and_differs_between_users_and_secrets() {
        let secret = MockSecret::new([7; 32]);
        assert_eq!(secret.salt("alice"), MockSecret::new([7; 32]).salt("alice"));
        assert_ne!(secret.salt("alice"), secret.salt("bob"));
        assert_ne!(secret.salt("alice"), MockSecret::new([8; 32]).salt("alice"));
        assert_ne!(secret.salt("alice"), secret.md5("alice").0);
    }
}
