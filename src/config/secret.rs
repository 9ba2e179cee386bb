//! What a password is checked against: the secret of a user, in one of PostgreSQL's three forms.
//!
//! Owns the forms and how they are read from text. Does not own what is done with them: `auth` answers challenges
//! and checks proofs. Invariants: no secret is ever printed by `Debug` or named in an error; its bytes are wiped when
//! it is dropped; an md5 digest is what 32 hex digits said; a verifier is complete and its iteration count is positive.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Highest iteration count that PostgreSQL can store in a verifier.
const MAX_VERIFIER_ITERATIONS: u32 = i32::MAX as u32;
const SCRAM_PREFIX: &str = "SCRAM-SHA-256$";

/// The secret of a user, in a form that `pg_authid.rolpassword` may have, or as plain text.
#[derive(Debug, Clone, PartialEq)]
pub enum Secret {
    /// The password itself. Serves every authentication method.
    Plain(Password),
    /// PostgreSQL's md5 hash of password and user name. Serves the method md5 only.
    Md5(Md5Digest),
    /// A SCRAM-SHA-256 verifier. Checks clients; does not log in to a server by itself.
    Scram(ScramVerifier),
}

/// A plain password: not empty, without NUL, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

/// `md5(password || user)`, the 16 bytes behind the text `md5<32 hex digits>`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Md5Digest(pub [u8; 16]);

/// What a server keeps of a password for SCRAM-SHA-256 (RFC 5802, section 3).
///
/// `server_key` is as sensitive as the password towards a client: who has it can pose as the server.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2, at least 1.
    pub iterations: u32,
    /// Salt of PBKDF2, not empty; 16 bytes where PostgreSQL made it.
    pub salt: Vec<u8>,
    /// `SHA256(ClientKey)`.
    pub stored_key: [u8; 32],
    /// The key that signs the server's last message.
    pub server_key: [u8; 32],
}

/// How many users have which kind of secret. Somebody unknown is made to look like one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretKinds {
    /// Plain passwords.
    pub plain: usize,
    /// md5 hashes.
    pub md5: usize,
    /// Verifiers, by iteration count.
    pub scram: BTreeMap<u32, usize>,
}

impl SecretKinds {
    /// Counts one more.
    pub fn count(&mut self, secret: &Secret) {
        match secret {
            Secret::Plain(_) => self.plain += 1,
            Secret::Md5(_) => self.md5 += 1,
            Secret::Scram(verifier) => *self.scram.entry(verifier.iterations).or_default() += 1,
        }
    }
}

/// Why a text is no secret. Never holds a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// PostgreSQL treats an empty password as none; so does pgvalet.
    #[error("the password is empty: leave it out for a user who cannot log in with a password")]
    Empty,
    /// No protocol message can carry it.
    #[error("the password contains a NUL character")]
    Nul,
    /// Begins as a SCRAM verifier, is none.
    #[error(
        "malformed SCRAM verifier: {0}; expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
    )]
    Verifier(&'static str),
}

impl Secret {
    /// Reads a secret as PostgreSQL reads `rolpassword`: `md5` and 32 lower-case hex digits, a SCRAM verifier, or else
    /// a plain password.
    ///
    /// # Errors
    /// An empty text, one with a NUL, and one that starts with `SCRAM-SHA-256$` but is no verifier. (PostgreSQL would
    /// take the last for a plain password; in a file it is a verifier that somebody cut short.)
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        if let Some(digest) = md5_digest(text) {
            return Ok(Secret::Md5(digest));
        }
        if let Some(verifier) = text.strip_prefix(SCRAM_PREFIX) {
            return scram_verifier(verifier).map(Secret::Scram).map_err(SecretError::Verifier);
        }
        Password::new(text).map(Secret::Plain)
    }
}

impl Password {
    /// Takes the text as it is, whatever it looks like.
    ///
    /// # Errors
    /// An empty text and one with a NUL.
    pub fn new(text: impl Into<String>) -> Result<Password, SecretError> {
        let password = Password(text.into());
        if password.0.is_empty() {
            return Err(SecretError::Empty);
        }
        if password.0.contains('\0') {
            return Err(SecretError::Nul);
        }
        Ok(password)
    }

    /// The password, for those who need it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(<redacted>)")
    }
}

impl fmt::Debug for Md5Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Digest(<redacted>)")
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(<redacted>)")
    }
}

fn md5_digest(text: &str) -> Option<Md5Digest> {
    let hex = text.strip_prefix("md5")?.as_bytes();
    if hex.len() != 32 {
        return None;
    }
    let mut digest = Md5Digest([0; 16]);
    for (byte, pair) in digest.0.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(digest)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Reads `<iterations>:<salt>$<StoredKey>:<ServerKey>`.
fn scram_verifier(text: &str) -> Result<ScramVerifier, &'static str> {
    let (parameters, keys) = text.split_once('$').ok_or("no $ after the salt")?;
    let (iterations, salt) = parameters.split_once(':').ok_or("no colon after the iteration count")?;
    let (stored_key, server_key) = keys.split_once(':').ok_or("no colon after the StoredKey")?;

    let all_digits = iterations.bytes().all(|digit| digit.is_ascii_digit());
    let iterations = iterations
        .parse::<u32>()
        .ok()
        .filter(|count| all_digits && (1..=MAX_VERIFIER_ITERATIONS).contains(count))
        .ok_or("the iteration count is not a number from 1 to 2147483647")?;
    let salt = STANDARD.decode(salt).map_err(|_| "the salt is not base64")?;
    if salt.is_empty() {
        return Err("the salt is empty");
    }
    let stored_key = key(stored_key).ok_or("the StoredKey is not 32 bytes in base64")?;
    let server_key = key(server_key).ok_or("the ServerKey is not 32 bytes in base64")?;
    Ok(ScramVerifier { iterations, salt, stored_key, server_key })
}

fn key(base64: &str) -> Option<[u8; 32]> {
    let bytes = Zeroizing::new(STANDARD.decode(base64).ok()?);
    bytes.as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `pg_authid` of PostgreSQL 15: role alice, password "correct horse battery staple".
    const ALICE: &str = "SCRAM-SHA-256$4096:usA1CQFO3R5S5OmG8WxwzQ==$MmS1MVWBp254Y9pnaDKApacoBmwMooroheVTklQGdLQ=:\
                         y2v7N61hOjsZ6kpvjnr1r7Vtahp/t26OtFM9yuBa7L0=";

    #[test]
    fn a_verifier_made_by_postgresql_is_read() {
        let Ok(Secret::Scram(verifier)) = Secret::parse(ALICE) else { panic!("not a verifier") };
        assert_eq!(verifier.iterations, 4096);
        assert_eq!(STANDARD.encode(&verifier.salt), "usA1CQFO3R5S5OmG8WxwzQ==");
        assert_eq!(STANDARD.encode(verifier.stored_key), "MmS1MVWBp254Y9pnaDKApacoBmwMooroheVTklQGdLQ=");
        assert_eq!(STANDARD.encode(verifier.server_key), "y2v7N61hOjsZ6kpvjnr1r7Vtahp/t26OtFM9yuBa7L0=");
    }

    #[test]
    fn an_md5_hash_made_by_postgresql_is_read() {
        let digest =
            [0xa2, 0xcc, 0x14, 0xbc, 0xc0, 0x8b, 0xcb, 0x21, 0x1f, 0x57, 0x81, 0x53, 0x96, 0x7a, 0xbd, 0x6d];
        assert_eq!(Secret::parse("md5a2cc14bcc08bcb211f578153967abd6d"), Ok(Secret::Md5(Md5Digest(digest))));
    }

    #[test]
    fn what_only_looks_like_a_hash_is_a_plain_password() {
        for text in [
            "md5",
            "md5a2cc14bcc08bcb211f578153967abd6",
            "md5a2cc14bcc08bcb211f578153967abd6dd",
            "md5A2CC14BCC08BCB211F578153967ABD6D",
            "md5a2cc14bcc08bcb211f578153967abd6g",
            "MD5a2cc14bcc08bcb211f578153967abd6d",
            "scram-sha-256$4096:c2FsdA==$a:b",
            "SCRAM-SHA-256",
            " ",
            "pässwörd",
        ] {
            assert_eq!(Secret::parse(text), Ok(Secret::Plain(Password(text.to_owned()))), "{text}");
        }
    }

    #[test]
    fn a_malformed_verifier_says_what_is_wrong() {
        let stored = "MmS1MVWBp254Y9pnaDKApacoBmwMooroheVTklQGdLQ=";
        for (text, said) in [
            ("", "no $"),
            ("4096:c2FsdA==", "no $"),
            ("4096$x:y", "no colon after the iteration count"),
            (&format!("4096:c2FsdA==${stored}"), "no colon after the StoredKey"),
            (&format!("0:c2FsdA==${stored}:{stored}"), "iteration count"),
            (&format!("+1:c2FsdA==${stored}:{stored}"), "iteration count"),
            (&format!("-1:c2FsdA==${stored}:{stored}"), "iteration count"),
            (&format!("2147483648:c2FsdA==${stored}:{stored}"), "iteration count"),
            (&format!("99999999999:c2FsdA==${stored}:{stored}"), "iteration count"),
            (&format!(":c2FsdA==${stored}:{stored}"), "iteration count"),
            (&format!("4096:c2FsdA${stored}:{stored}"), "salt is not base64"),
            (&format!("4096:${stored}:{stored}"), "salt is empty"),
            (&format!("4096:c2FsdA==$c2hvcnQ=:{stored}"), "StoredKey"),
            (&format!("4096:c2FsdA==${stored}:"), "ServerKey"),
            (&format!("4096:c2FsdA==${stored}:{stored}$"), "ServerKey"),
            (&format!("4096:c2FsdA==${stored}:{stored}:x"), "ServerKey"),
        ] {
            let error = Secret::parse(&format!("{SCRAM_PREFIX}{text}")).expect_err(text);
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_password_and_one_with_a_nul_are_refused() {
        assert_eq!(Secret::parse(""), Err(SecretError::Empty));
        assert_eq!(Secret::parse("a\0b"), Err(SecretError::Nul));
    }

    #[test]
    fn debug_output_tells_no_secret() {
        for text in ["hunter2", "md5a2cc14bcc08bcb211f578153967abd6d", ALICE] {
            let printed = format!("{:?}", Secret::parse(text));
            assert!(printed.contains("<redacted>"), "{printed}");
            for piece in ["hunter2", "a2cc14", "162", "4096", "MmS1", "usA1"] {
                assert!(!printed.contains(piece), "{printed}");
            }
        }
    }
}
