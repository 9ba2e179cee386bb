//! What an unknown user is shown, so that it looks like a known one with a wrong password (mock
//! authentication).
//!
//! Owns the values that stand in for a verifier. Invariant: for one secret and user they are always the same, because
//! a salt that changed from login to login would give the user away as unknown.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::keys::hmac;
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

impl std::fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockSecret(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_the_same_for_a_user_and_differs_between_users_and_secrets() {
        let secret = MockSecret::new([7; 32]);
        assert_eq!(secret.salt("alice"), MockSecret::new([7; 32]).salt("alice"));
        assert_ne!(secret.salt("alice"), secret.salt("bob"));
        assert_ne!(secret.salt("alice"), MockSecret::new([8; 32]).salt("alice"));
        assert_ne!(secret.salt("alice"), secret.md5("alice").0);
    }
}
