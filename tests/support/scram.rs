//! The client side of SCRAM-SHA-256 and the MD5 response, written apart from pgvalet's own.
//!
//! Source: RFC 5802, RFC 7677; PostgreSQL documentation, "SASL Authentication". Passwords are used as they are, so they
//! must be in the form that SASLprep leaves alone.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};

/// A login in progress, after its first message.
#[derive(Debug)]
pub struct Scram {
    password: String,
    nonce: String,
    first_bare: String,
}

/// What the server has to prove at the end.
#[derive(Debug)]
pub struct Expected {
    server_signature: Vec<u8>,
}

impl Scram {
    /// Returns the client's first message too, with channel binding flag `n` (not supported by the client).
    pub fn start(password: &str) -> (Self, String) {
        let random = RandomState::new();
        let word = |seed: u64| {
            let mut hasher = random.build_hasher();
            hasher.write_u64(seed);
            hasher.finish().to_be_bytes()
        };
        let nonce = STANDARD.encode([word(1), word(2), word(3)].concat());
        let first_bare = format!("n=,r={nonce}");
        let first = format!("n,,{first_bare}");
        (Self { password: password.into(), nonce, first_bare }, first)
    }

    /// Answers the server's first message with the client's final message.
    pub fn answer(self, server_first: &str) -> Result<(String, Expected), String> {
        let bad = || format!("bad server-first-message {server_first:?}");
        let attribute = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = attribute("r=").ok_or_else(bad)?;
        let salt = STANDARD.decode(attribute("s=").ok_or_else(bad)?).map_err(|_| bad())?;
        let iterations: u32 = attribute("i=").ok_or_else(bad)?.parse().map_err(|_| bad())?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || iterations == 0 {
            return Err(bad());
        }
        let salted = salted_password(self.password.as_bytes(), &salt, iterations);
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_signature = hmac(&hmac(&salted, b"Server Key"), signed.as_bytes());
        Ok((format!("{without_proof},p={}", STANDARD.encode(proof)), Expected { server_signature }))
    }
}

impl Expected {
    /// Checks the server's final message.
    pub fn check(&self, server_final: &str) -> Result<(), String> {
        let right = format!("v={}", STANDARD.encode(&self.server_signature));
        if server_final == right {
            Ok(())
        } else {
            Err(format!("the server did not prove itself: {server_final:?}"))
        }
    }
}

/// The text of a SCRAM verifier, as PostgreSQL stores it in `pg_authid`.
pub fn verifier(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = salted_password(password.as_bytes(), salt, iterations);
    let stored = Sha256::digest(hmac(&salted, b"Client Key"));
    let server = hmac(&salted, b"Server Key");
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", text(salt), text(&stored), text(&server))
}

/// `md5` and the hexadecimal digest of password and user: what PostgreSQL stores.
pub fn md5_secret(user: &str, password: &str) -> String {
    format!("md5{}", hex(&Md5::digest(format!("{password}{user}"))))
}

/// The answer to an MD5 challenge.
pub fn md5_response(user: &str, password: &str, salt: &[u8]) -> String {
    let secret = md5_secret(user, password);
    format!("md5{}", hex(&Md5::digest([&secret.as_bytes()[3..], salt].concat())))
}

/// Hi() of RFC 5802. Remembered, since the same roles log in again and again and a debug build is slow at it.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
    type Known = HashMap<(Vec<u8>, Vec<u8>, u32), Vec<u8>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let key = (password.to_vec(), salt.to_vec(), iterations);
    if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return known.clone();
    }
    let mut block = hmac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut result = block.clone();
    for _ in 1..iterations {
        block = hmac(password, &block);
        result.iter_mut().zip(&block).for_each(|(a, b)| *a ^= b);
    }
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, result.clone());
    result
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
