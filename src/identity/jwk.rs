//! The keys of an issuer, and the check of a token against them.
//!
//! Owns what makes a JSON Web Token good: its signature and its claims. What computes is the cryptography of TLS, so that
//! there is only one in the program. Knows no clock but that of `jsonwebtoken`, and does no I/O.

use std::sync::{Once, OnceLock};

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id};
use serde_json::{Map, Value};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Encode, Header, Length, Tag};

use crate::config::hba::OAuth;
use crate::config::tls::cryptography;

/// Keys that are tried for a token that names none, and the most that a set may have.
const MOST_KEYS: usize = 64;

/// The keys of an issuer that tokens can be checked with.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

/// Why a token does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    /// Its issuer may have newer keys than these.
    #[error("no key of its issuer fits it")]
    NoKey,
    /// It is not good.
    #[error("{0}")]
    Bad(String),
}

impl Keys {
    /// Reads a JSON Web Key Set. Keys of kinds that are not known here are passed over.
    ///
    /// # Errors
    /// It is none, or no key in it is of use.
    pub(super) fn read(text: &[u8]) -> Result<Keys, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let Some(all) = set.get("keys").and_then(Value::as_array) else {
            return Err("it is no JSON Web Key Set: it has no list \"keys\"".into());
        };
        let keys: Vec<Key> = all.iter().take(MOST_KEYS).filter_map(key).collect();
        match keys.is_empty() {
            true => Err("no key in it is one of RSA, P-256, P-384 or Ed25519 that signs".into()),
            false => Ok(Keys(keys)),
        }
    }

    /// The user that a good token names.
    ///
    /// # Errors
    /// Why it does not count.
    pub(super) fn check(&self, token: &str, oauth: &OAuth) -> Result<String, Rejected> {
        let header = decode_header(token).map_err(bad)?;
        let name = format!("{:?}", header.alg);
        if !oauth.algorithms.contains(&name.as_str()) {
            return Err(Rejected::Bad(format!("validator.algorithms does not have its algorithm {name}")));
        }
        if header.crit.is_some() {
            return Err(Rejected::Bad("its header says that something unknown is critical".into()));
        }
        let fits = |key: &&Key| {
            key.key.family() == header.alg.family()
                && (header.kid.is_none() || header.kid == key.id)
                && key.algorithm.is_none_or(|algorithm| algorithm.to_string() == name)
        };
        let validation = validation(oauth, header.alg);
        let mut rejected = Rejected::NoKey;
        for key in self.0.iter().filter(fits) {
            match decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(token) => return user(&token.claims, oauth),
                // Without a name, another of the keys may be meant.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature && header.kid.is_none() => {}
                Err(error) => rejected = bad(error),
            }
        }
        Err(rejected)
    }
}

fn key(value: &Value) -> Option<Key> {
    let key: Jwk = serde_json::from_value(value.clone()).ok()?;
    let signs = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
    // An unknown algorithm leads to no key; a secret that both sides know is none.
    let decoding = DecodingKey::from_jwk(&key).ok()?;
    let is_public = decoding.family() != jsonwebtoken::AlgorithmFamily::Hmac;
    (signs && is_public).then(|| Key {
        id: key.common.key_id,
        algorithm: key.common.key_algorithm,
        key: decoding,
    })
}

fn validation(oauth: &OAuth, algorithm: Algorithm) -> Validation {
    install();
    let mut validation = Validation::new(algorithm);
    validation.leeway = oauth.leeway;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_issuer(&[&oauth.issuer]);
    validation.set_audience(&oauth.audience);
    validation
}

/// The user that these claims name, if they allow what has to be allowed.
fn user(claims: &Map<String, Value>, oauth: &OAuth) -> Result<String, Rejected> {
    // `scope` is that of RFC 9068; some issuers write `scp`, as a list.
    let scopes = ["scope", "scp"].iter().filter_map(|name| claims.get(*name));
    let scopes: Vec<&str> = scopes
        .flat_map(|scopes| match scopes {
            Value::String(scopes) => scopes.split(' ').collect(),
            Value::Array(scopes) => scopes.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        })
        .collect();
    if let Some(missing) = oauth.scope.split_whitespace().find(|scope| !scopes.contains(scope)) {
        return Err(Rejected::Bad(format!("it does not have the scope {missing:?}")));
    }
    match claims.get(&oauth.user_claim).and_then(Value::as_str) {
        Some(user) if !user.is_empty() => Ok(user.to_owned()),
        _ => Err(Rejected::Bad(format!("it has no claim {:?} that names a user", oauth.user_claim))),
    }
}

fn bad(error: Error) -> Rejected {
    Rejected::Bad(match error.kind() {
        ErrorKind::InvalidSignature => "its signature is wrong".into(),
        ErrorKind::ExpiredSignature => "it has expired".into(),
        ErrorKind::ImmatureSignature => "it is not valid yet".into(),
        ErrorKind::InvalidIssuer => "it comes from another issuer".into(),
        ErrorKind::InvalidAudience => "it was issued for somebody else (validator.audience)".into(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it has no claim {claim:?}"),
        _ => format!("it is no valid JSON Web Token: {error}"),
    })
}

/// Has `jsonwebtoken` compute with the cryptography of TLS.
fn install() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    // Nobody else in this program installs one.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

/// A public key with what checks signatures by it.
struct Check {
    algorithm: Algorithm,
    with: &'static dyn SignatureVerificationAlgorithm,
    /// As in a certificate.
    key: Vec<u8>,
}

/// Every check of signatures that there is.
static KNOWN: OnceLock<&[&dyn SignatureVerificationAlgorithm]> = OnceLock::new();

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let unsupported = || Error::from(ErrorKind::UnsupportedAlgorithm);
    let (key_kind, signature_kind) = identifiers(*algorithm).ok_or_else(unsupported)?;
    let all = *KNOWN.get_or_init(|| cryptography().signature_verification_algorithms.all);
    let fits = |with: &&&'static dyn SignatureVerificationAlgorithm| {
        with.public_key_alg_id() == key_kind && with.signature_alg_id() == signature_kind
    };
    let with = *all.iter().find(fits).ok_or_else(unsupported)?;
    let key = match key.kind() {
        DecodingKeyKind::SecretOrDer(key) => key.clone(),
        DecodingKeyKind::RsaModulusExponent { n, e } => pair(n, e).ok_or(ErrorKind::InvalidKeyFormat)?,
    };
    Ok(Box::new(Check { algorithm: *algorithm, with, key }))
}

/// Of the key, and of the signature.
fn identifiers(algorithm: Algorithm) -> Option<(AlgorithmIdentifier, AlgorithmIdentifier)> {
    Some(match algorithm {
        Algorithm::RS256 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA256),
        Algorithm::RS384 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA384),
        Algorithm::RS512 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA512),
        Algorithm::PS256 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA256),
        Algorithm::PS384 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA384),
        Algorithm::PS512 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA512),
        Algorithm::ES256 => (alg_id::ECDSA_P256, alg_id::ECDSA_SHA256),
        Algorithm::ES384 => (alg_id::ECDSA_P384, alg_id::ECDSA_SHA384),
        Algorithm::EdDSA => (alg_id::ED25519, alg_id::ED25519),
        _ => return None,
    })
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let halves = match self.algorithm {
            Algorithm::ES256 => Some(32),
            Algorithm::ES384 => Some(48),
            _ => None,
        };
        // JSON Web Signatures have the two numbers of ECDSA side by side, certificates as a structure.
        let structured = match halves {
            Some(half) if signature.len() == 2 * half => pair(&signature[..half], &signature[half..]),
            Some(_) => None,
            None => Some(signature.clone()),
        };
        let signature = structured.ok_or_else(signature::Error::new)?;
        self.with.verify_signature(&self.key, message, &signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// `SEQUENCE { INTEGER, INTEGER }`: a public key of RSA (RFC 8017, A.1.1), a signature of ECDSA (RFC 3279, 2.2.3).
fn pair(first: &[u8], second: &[u8]) -> Option<Vec<u8>> {
    let content =
        [UintRef::new(first).ok()?.to_der().ok()?, UintRef::new(second).ok()?.to_der().ok()?].concat();
    let length = Length::try_from(content.len()).ok()?;
    let header = Header::new(Tag::Sequence, length).to_der().ok()?;
    Some([header, content].concat())
}
