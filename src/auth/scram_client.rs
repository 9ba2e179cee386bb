//! SCRAM-SHA-256 as a client: pgvalet logs in to a server.
//!
//! Owns the order of the messages and the check that the server knows the password too. Each state is a type, each
//! message consumes one and yields the next:
//!
//! ```text
//! ClientStart --server-first--> ClientChallenged --keys--> ClientProved --server-final--> done
//! ```
//!
//! Between the first two messages the caller gets the keys, from the cache or from a thread that may derive them.
//! Invariant: nothing in here is slow, however many iterations the server asks for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::AuthError;
use super::keys::{ClientKeys, hmac};
use super::scram::{
    Attributes, ChannelBinding, MAX_ITERATIONS, MAX_SERVER_MESSAGE, Nonce, decode_key, is_printable,
    printable_text,
};

/// The client-first-message is on its way.
#[derive(Debug)]
pub struct ClientStart {
    nonce: Nonce,
    binding: ChannelBinding,
    client_first_bare: String,
}

/// The server has named salt and iteration count; the keys for them are wanted.
#[derive(Debug)]
pub struct ClientChallenged {
    salt: Vec<u8>,
    iterations: u32,
    client_final_without_proof: String,
    auth_message: Vec<u8>,
}

/// The client has proved that it knows the password; the server has not yet.
///
/// A login is good only after [`ClientProved::server_final`]: AuthenticationOk before it is a protocol violation.
#[must_use]
pub struct ClientProved {
    server_signature: [u8; 32],
}

impl ClientStart {
    /// Begins an exchange. Returns the client-first-message, the data of a SASLInitialResponse for
    /// [`ChannelBinding::mechanism`].
    ///
    /// The user name in it is empty, because PostgreSQL takes the one of the startup packet.
    pub fn begin(nonce: Nonce, binding: ChannelBinding) -> (ClientStart, Vec<u8>) {
        let client_first_bare = format!("n=,r={}", nonce.as_str());
        let message = format!("{}{client_first_bare}", binding.gs2_header()).into_bytes();
        (ClientStart { nonce, binding, client_first_bare }, message)
    }

    /// Takes the server-first-message (AuthenticationSASLContinue).
    ///
    /// # Errors
    /// A malformed message, a nonce that does not extend ours, an iteration count outside 1..=[`MAX_ITERATIONS`], a
    /// mandatory extension.
    pub fn server_first(self, message: &[u8]) -> Result<ClientChallenged, AuthError> {
        let mut attributes = Attributes::new(message, MAX_SERVER_MESSAGE)?;
        if attributes.peek() == b'm' {
            return Err(AuthError::Unsupported("server requires an unsupported SCRAM extension"));
        }
        let nonce = server_nonce(attributes.require(b'r')?, &self.nonce)?;
        let salt = STANDARD.decode(attributes.require(b's')?).ok().filter(|salt| !salt.is_empty());
        let salt = salt.ok_or_else(|| AuthError::malformed("Invalid salt in server-first-message."))?;
        let iterations = iteration_count(attributes.require(b'i')?)?;
        if !attributes.is_end() {
            return Err(AuthError::malformed("Garbage found at the end of server-first-message."));
        }

        let client_final_without_proof = format!("c={},r={nonce}", self.binding.attribute());
        let auth_message =
            [self.client_first_bare.as_bytes(), message, client_final_without_proof.as_bytes()].join(&b',');
        Ok(ClientChallenged { salt, iterations, client_final_without_proof, auth_message })
    }
}

impl ClientChallenged {
    /// The salt to derive the keys with.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The rounds of PBKDF2 to derive the keys with, 1..=[`MAX_ITERATIONS`].
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Proves knowledge of the password with its keys. Returns the client-final-message (SASLResponse).
    pub fn answer(self, keys: &ClientKeys) -> (ClientProved, Vec<u8>) {
        let mut proof = hmac(&keys.stored_key, &[&self.auth_message]);
        for (byte, key) in proof.iter_mut().zip(keys.client_key) {
            *byte ^= key;
        }
        let message = format!("{},p={}", self.client_final_without_proof, STANDARD.encode(proof));
        let server_signature = hmac(&keys.server_key, &[&self.auth_message]);
        (ClientProved { server_signature }, message.into_bytes())
    }
}

impl ClientProved {
    /// Takes the server-final-message (AuthenticationSASLFinal): the proof that the server knows the password.
    ///
    /// # Errors
    /// A malformed message, an error from the server, a wrong signature.
    pub fn server_final(self, message: &[u8]) -> Result<(), AuthError> {
        let mut attributes = Attributes::new(message, MAX_SERVER_MESSAGE)?;
        if attributes.peek() == b'e' {
            return Err(AuthError::Refused(printable_text(attributes.require(b'e')?)));
        }
        let signature = decode_key(attributes.require(b'v')?)
            .ok_or_else(|| AuthError::malformed("Invalid server signature in server-final-message."))?;
        if !attributes.is_end() {
            return Err(AuthError::malformed("Garbage found at the end of server-final-message."));
        }
        if bool::from(signature.ct_eq(&self.server_signature)) {
            Ok(())
        } else {
            Err(AuthError::ServerSignature)
        }
    }
}

impl fmt::Debug for ClientProved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who knows the signature can pose as the server.
        f.write_str("ClientProved(<redacted>)")
    }
}

/// The nonce of both sides: ours and at least one character of the server's.
fn server_nonce<'a>(nonce: &'a [u8], ours: &Nonce) -> Result<&'a str, AuthError> {
    let mismatch = || AuthError::Protocol {
        message: "invalid SCRAM response".into(),
        detail: Some("Nonce does not match.".into()),
    };
    let theirs = nonce.strip_prefix(ours.as_str().as_bytes()).ok_or_else(mismatch)?;
    if theirs.is_empty() {
        return Err(mismatch());
    }
    if !is_printable(nonce) {
        return Err(AuthError::protocol("non-printable characters in SCRAM nonce"));
    }
    std::str::from_utf8(nonce).map_err(|_| mismatch())
}

/// `posit-number` of RFC 5802, within our limit.
fn iteration_count(digits: &[u8]) -> Result<u32, AuthError> {
    let invalid = || AuthError::malformed("Invalid iteration count in server-first-message.");
    if !digits.iter().all(u8::is_ascii_digit) || digits.first() == Some(&b'0') {
        return Err(invalid());
    }
    let text = std::str::from_utf8(digits).map_err(|_| invalid())?;
    let count = text.parse::<u32>().map_err(|_| invalid())?;
    if count > MAX_ITERATIONS {
        return Err(AuthError::protocol(format!(
            "the server asks for {count} SCRAM iterations; more than {MAX_ITERATIONS} are refused"
        )));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Password;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn start(binding: ChannelBinding) -> (ClientStart, Vec<u8>) {
        ClientStart::begin(Nonce::from_text(NONCE).unwrap(), binding)
    }

    fn challenged(message: &str) -> Result<ClientChallenged, AuthError> {
        start(ChannelBinding::None).0.server_first(message.as_bytes())
    }

    /// The example of RFC 7677, section 3. Its user name is set by hand, since ours is always empty.
    #[test]
    fn the_example_of_rfc_7677_is_answered() {
        let (mut client, _) = start(ChannelBinding::None);
        client.client_first_bare = format!("n=user,r={NONCE}");
        let challenge = client.server_first(SERVER_FIRST.as_bytes()).unwrap();
        let password = Password::new("pencil").unwrap();
        let keys = ClientKeys::derive(&password, challenge.salt(), challenge.iterations());
        let (proved, message) = challenge.answer(&keys);
        assert_eq!(
            String::from_utf8(message).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(proved.server_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn the_first_message_shows_the_channel_binding() {
        let message = |binding| String::from_utf8(start(binding).1).unwrap();
        assert_eq!(message(ChannelBinding::None), format!("n,,n=,r={NONCE}"));
        assert_eq!(message(ChannelBinding::NotOffered), format!("y,,n=,r={NONCE}"));
        assert_eq!(
            message(ChannelBinding::TlsServerEndPoint(vec![1])),
            format!("p=tls-server-end-point,,n=,r={NONCE}")
        );
    }

    #[test]
    fn a_nonce_that_does_not_extend_ours_is_refused() {
        for nonce in ["", "rOpr", NONCE, "xOprNGfwEbeRWgbNEkqO123", "rOprNGfwEbeRWgbNEkqO\u{e4}"] {
            let error = challenged(&format!("r={nonce},s=c2FsdA==,i=1")).unwrap_err();
            assert!(error.to_string().to_lowercase().contains("nonce"), "{nonce}: {error}");
        }
    }

    #[test]
    fn iteration_counts_are_bounded() {
        let challenge = |count: &str| challenged(&format!("r={NONCE}1,s=c2FsdA==,i={count}"));
        assert_eq!(challenge("1").unwrap().iterations(), 1);
        assert_eq!(challenge("10000000").unwrap().iterations(), MAX_ITERATIONS);
        for count in
            ["", "0", "01", "-1", "+1", "1 ", "1e3", "10000001", "4294967297", "99999999999999999999"]
        {
            assert!(challenge(count).is_err(), "{count}");
        }
    }

    #[test]
    fn a_malformed_server_first_message_is_refused() {
        for message in [
            "m=ext,r=1,s=c2FsdA==,i=1".to_owned(),
            format!("r={NONCE}1"),
            format!("r={NONCE}1,s=c2FsdA=="),
            format!("r={NONCE}1,s=,i=1"),
            format!("r={NONCE}1,s=c2FsdA,i=1"),
            format!("r={NONCE}1,i=1,s=c2FsdA=="),
            format!("r={NONCE}1,s=c2FsdA==,i=1,"),
            format!("r={NONCE}1,s=c2FsdA==,i=1,x=y"),
            format!("r={NONCE}{},s=c2FsdA==,i=1", "1".repeat(MAX_SERVER_MESSAGE)),
        ] {
            assert!(challenged(&message).is_err(), "{message}");
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_refused() {
        let final_result = |message: &str| {
            let (proved, _) = challenged(SERVER_FIRST).unwrap().answer(&ClientKeys::new([1; 32], [2; 32]));
            proved.server_final(message.as_bytes())
        };
        assert_eq!(
            final_result("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            Err(AuthError::ServerSignature)
        );
        assert_eq!(final_result("e=invalid-proof"), Err(AuthError::Refused("invalid-proof".into())));
        for message in ["", "v=", "v=c2hvcnQ=", "x=1", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=,"] {
            assert!(matches!(final_result(message), Err(AuthError::Protocol { .. })), "{message}");
        }
    }
}
