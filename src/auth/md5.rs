//! PostgreSQL's md5 method: `"md5" || hex(md5(hex(md5(password || user)) || salt))`.
//!
//! Owns both sides of it: the answer to a server's challenge and the check of a client's answer. Does not own the salt:
//! four random bytes, fresh for each challenge. (PostgreSQL's documentation: "Password Authentication"; message
//! AuthenticationMD5Password.)

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::AuthError;
use crate::config::Secret;
use crate::config::secret::Md5Digest;

/// Length of an answer: `md5` and 32 hex digits.
pub const RESPONSE_LEN: usize = 35;

/// What PostgreSQL stores of a password for this method.
pub fn digest(password: &str, user: &str) -> Md5Digest {
    Md5Digest(Md5::new().chain_update(password).chain_update(user).finalize().into())
}

/// The answer to the challenge `salt`, without a terminating NUL; `None` where the secret is a SCRAM verifier.
pub fn response(secret: &Secret, user: &str, salt: [u8; 4]) -> Option<[u8; RESPONSE_LEN]> {
    match secret {
        Secret::Plain(password) => Some(salted(&digest(password.as_str(), user), salt)),
        Secret::Md5(digest) => Some(salted(digest, salt)),
        Secret::Scram(_) => None,
    }
}

/// Checks a client's answer (the text of its PasswordMessage, without the NUL) to the challenge `salt`.
///
/// # Errors
/// [`AuthError::Failed`] for a wrong answer, and where the secret is a SCRAM verifier.
pub fn verify(secret: &Secret, user: &str, salt: [u8; 4], answer: &[u8]) -> Result<(), AuthError> {
    let expected = response(secret, user, salt).ok_or(AuthError::Failed)?;
    if bool::from(expected.as_slice().ct_eq(answer)) { Ok(()) } else { Err(AuthError::Failed) }
}

fn salted(digest: &Md5Digest, salt: [u8; 4]) -> [u8; RESPONSE_LEN] {
    let stored = zeroize::Zeroizing::new(hex(digest.0));
    let hash = Md5::new().chain_update(stored.as_slice()).chain_update(salt).finalize();
    let mut response = *b"md5................................";
    response[3..].copy_from_slice(&hex(hash.into()));
    response
}

fn hex(bytes: [u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 4] = [0x2a, 0x3d, 0x8f, 0xe0];

    fn secret(text: &str) -> Secret {
        Secret::parse(text).unwrap()
    }

    /// The hash is from `pg_authid` of PostgreSQL 15: role bob, password "hunter2".
    #[test]
    fn the_digest_is_the_one_that_postgresql_stores() {
        assert_eq!(secret("md5a2cc14bcc08bcb211f578153967abd6d"), Secret::Md5(digest("hunter2", "bob")));
    }

    #[test]
    fn plain_and_stored_secrets_give_the_same_answer() {
        let stored = secret("md5a2cc14bcc08bcb211f578153967abd6d");
        let answer = response(&secret("hunter2"), "bob", SALT).unwrap();
        assert_eq!(&answer, b"md55bff702fd7a1ed5aea5bb77da5deec7a");
        assert_eq!(Some(answer), response(&stored, "bob", SALT));
        assert_eq!(verify(&stored, "bob", SALT, &answer), Ok(()));
        assert_eq!(verify(&secret("hunter2"), "bob", SALT, &answer), Ok(()));
    }

    #[test]
    fn an_answer_is_good_for_its_password_user_and_salt_only() {
        let bob = secret("hunter2");
        let answer = response(&bob, "bob", SALT).unwrap();
        assert_eq!(verify(&secret("hunter3"), "bob", SALT, &answer), Err(AuthError::Failed));
        assert_eq!(verify(&bob, "rob", SALT, &answer), Err(AuthError::Failed));
        assert_eq!(verify(&bob, "bob", [0; 4], &answer), Err(AuthError::Failed));
        assert_eq!(verify(&bob, "bob", SALT, &answer[..34]), Err(AuthError::Failed));
        assert_eq!(verify(&bob, "bob", SALT, b""), Err(AuthError::Failed));
        assert_eq!(verify(&bob, "bob", SALT, b"hunter2"), Err(AuthError::Failed));
    }
}
