//! An issuer of tokens: keys of every kind, JSON Web Tokens signed with them, and the set of their public halves.
//!
//! The signatures are rustls', which pgvalet only checks with.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

/// Every algorithm that pgvalet takes, with the scheme of TLS that is the same.
pub const ALGORITHMS: [(&str, SignatureScheme); 9] = [
    ("RS256", SignatureScheme::RSA_PKCS1_SHA256),
    ("RS384", SignatureScheme::RSA_PKCS1_SHA384),
    ("RS512", SignatureScheme::RSA_PKCS1_SHA512),
    ("PS256", SignatureScheme::RSA_PSS_SHA256),
    ("PS384", SignatureScheme::RSA_PSS_SHA384),
    ("PS512", SignatureScheme::RSA_PSS_SHA512),
    ("ES256", SignatureScheme::ECDSA_NISTP256_SHA256),
    ("ES384", SignatureScheme::ECDSA_NISTP384_SHA384),
    ("EdDSA", SignatureScheme::ED25519),
];

/// A key of an issuer.
pub struct SigningKey {
    id: String,
    key: KeyPair,
}

impl SigningKey {
    /// A key for one of [`ALGORITHMS`].
    pub fn new(id: &str, algorithm: &str) -> Self {
        let key = match algorithm {
            "ES256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            "ES384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            "EdDSA" => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            _ => KeyPair::from_pem(include_str!("rsa_key.pem")),
        };
        Self { id: id.into(), key: key.expect("a key") }
    }

    /// The public half as a JSON Web Key.
    pub fn public(&self) -> Value {
        let raw = self.key.der_bytes();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match raw.len() {
            32 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(raw) }),
            65 | 97 => {
                let (x, y) = raw[1..].split_at(raw.len() / 2);
                let curve = if raw.len() == 65 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            _ => {
                let (n, e) = numbers(raw);
                json!({ "kty": "RSA", "n": text(n), "e": text(e) })
            }
        };
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key
    }

    /// A token with these claims.
    pub fn token(&self, algorithm: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": algorithm, "typ": "JWT", "kid": self.id }), claims)
    }

    /// A token with a header of its own, signed as its `alg` says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let algorithm = header["alg"].as_str().expect("an algorithm");
        let (_, scheme) = ALGORITHMS.iter().find(|(name, _)| *name == algorithm).expect("one that is known");
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a private key");
        let key = provider().key_provider.load_private_key(key).expect("a usable key");
        let signer = key.choose_scheme(&[*scheme]).expect("a scheme that fits the key");
        let signature = signer.sign(message.as_bytes()).expect("a signature");
        let signature = match algorithm {
            "ES256" => side_by_side(&signature, 32),
            "ES384" => side_by_side(&signature, 48),
            _ => signature,
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A set of keys.
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A part of a token.
pub fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn provider() -> CryptoProvider {
    #[cfg(feature = "ring")]
    return rustls::crypto::ring::default_provider();
    #[cfg(not(feature = "ring"))]
    return rustls::crypto::aws_lc_rs::default_provider();
}

/// The two numbers of `SEQUENCE { INTEGER, INTEGER }`, without leading zeros.
fn numbers(der: &[u8]) -> (&[u8], &[u8]) {
    let (first, rest) = element(element(der).0);
    let (second, _) = element(rest);
    (strip(first), strip(second))
}

fn strip(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

/// The content of the first element, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = match der[1] {
        0x81 => (usize::from(der[2]), &der[3..]),
        0x82 => (usize::from(u16::from_be_bytes([der[2], der[3]])), &der[4..]),
        short => (usize::from(short), &der[2..]),
    };
    rest.split_at(length)
}

/// A signature of ECDSA as tokens have it.
fn side_by_side(der: &[u8], half: usize) -> Vec<u8> {
    let (r, s) = numbers(der);
    let padded = |number: &[u8]| [vec![0; half - number.len()], number.to_vec()].concat();
    [padded(r), padded(s)].concat()
}
