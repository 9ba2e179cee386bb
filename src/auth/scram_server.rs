//! SCRAM-SHA-256 as a server: a client logs in to pgvalet.
//!
//! Owns the order of the messages and the check of the proof. Each state is a type, each message consumes one and
//! yields the next:
//!
//! ```text
//! ServerStart --client-first--> ServerChallenged --client-final--> Accepted
//! ```
//!
//! Invariants: an exchange with mock credentials takes the same steps and ends in the same error as one with a wrong
//! password; errors are PostgreSQL's (auth-scram.c), so drivers that know them keep working. Stricter than PostgreSQL
//! in two things that no driver sends: base64 must be canonical, and no comma may follow the last attribute.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::AuthError;
use super::keys::{ClientKeys, hmac};
use super::mock::SALT_LEN;
use super::scram::{
    Attributes, ChannelBinding, MAX_CLIENT_MESSAGE, Nonce, TLS_SERVER_END_POINT, decode_key, is_printable,
    printable, printable_text,
};
use crate::config::secret::ScramVerifier;

/// What a client is checked against.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The user's verifier: stored, or derived from its plain password.
    Verifier(ScramVerifier),
    /// No secret that SCRAM can check: the exchange runs and fails.
    Mock {
        /// From [`super::mock::MockSecret::salt`].
        salt: [u8; SALT_LEN],
        /// The count that verifiers usually have.
        iterations: u32,
    },
}

/// What the server offered of channel binding, and what the client selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBinding {
    /// Only SCRAM-SHA-256 was offered.
    NotOffered,
    /// SCRAM-SHA-256-PLUS was offered too, the client selected SCRAM-SHA-256.
    Declined,
    /// The client selected SCRAM-SHA-256-PLUS; the hash of our certificate for `tls-server-end-point`.
    Selected(Vec<u8>),
}

/// Waits for the client-first-message.
#[derive(Debug)]
pub struct ServerStart {
    credentials: Credentials,
    nonce: Nonce,
    binding: ServerBinding,
}

/// Waits for the client-final-message.
#[derive(Debug)]
pub struct ServerChallenged {
    credentials: Credentials,
    binding: ChannelBinding,
    nonce: Vec<u8>,
    /// `client-first-message-bare "," server-first-message`
    auth_message_start: Vec<u8>,
}

/// The client knows the password.
#[derive(Debug)]
pub struct Accepted {
    /// The server-final-message (AuthenticationSASLFinal).
    pub server_final: Vec<u8>,
    /// What the client's proof revealed: enough to log in, in its name, to a server with the same verifier.
    pub keys: ClientKeys,
}

impl ServerStart {
    /// Begins an exchange. The nonce must be fresh.
    pub fn new(credentials: Credentials, nonce: Nonce, binding: ServerBinding) -> ServerStart {
        ServerStart { credentials, nonce, binding }
    }

    /// Takes the client-first-message (the data of a SASLInitialResponse). Returns the server-first-message
    /// (AuthenticationSASLContinue).
    ///
    /// The user name in it is ignored, as in PostgreSQL. A SASLInitialResponse without data (length -1) is not for this
    /// function: it is answered by an empty AuthenticationSASLContinue.
    ///
    /// # Errors
    /// A malformed message; an authorization identity or a mandatory extension; channel binding that does not fit what
    /// was offered.
    pub fn client_first(self, message: &[u8]) -> Result<(ServerChallenged, Vec<u8>), AuthError> {
        let mut attributes = Attributes::new(message, MAX_CLIENT_MESSAGE)?;
        let binding = gs2_header(&mut attributes, self.binding)?;
        let bare = &message[attributes.position()..];
        if attributes.peek() == b'm' {
            return Err(AuthError::Unsupported("client requires an unsupported SCRAM extension"));
        }
        attributes.require(b'n')?;
        let client_nonce = attributes.require(b'r')?;
        if !is_printable(client_nonce) {
            return Err(AuthError::protocol("non-printable characters in SCRAM nonce"));
        }
        while !attributes.is_end() {
            attributes.next()?;
        }

        let (salt, iterations) = self.credentials.parameters();
        let nonce = [client_nonce, self.nonce.as_str().as_bytes()].concat();
        let rest = format!(",s={},i={iterations}", STANDARD.encode(salt));
        let server_first = [b"r=", nonce.as_slice(), rest.as_bytes()].concat();
        let auth_message_start = [bare, &server_first].join(&b',');
        let state = ServerChallenged { credentials: self.credentials, binding, nonce, auth_message_start };
        Ok((state, server_first))
    }
}

impl ServerChallenged {
    /// Takes the client-final-message (SASLResponse) and checks the client's proof.
    ///
    /// # Errors
    /// [`AuthError::Failed`] for a wrong proof and always for mock credentials; others for a malformed message, another
    /// nonce, another channel binding.
    pub fn client_final(self, message: &[u8]) -> Result<Accepted, AuthError> {
        let mut attributes = Attributes::new(message, MAX_CLIENT_MESSAGE)?;
        self.check_binding(attributes.require(b'c')?)?;
        let nonce = attributes.require(b'r')?;
        let (proof_at, proof) = loop {
            let at = attributes.position();
            if let (b'p', proof) = attributes.next()? {
                break (at, proof);
            }
        };
        let proof = decode_key(proof)
            .ok_or_else(|| AuthError::malformed("Malformed proof in client-final-message."))?;
        if !attributes.is_end() {
            return Err(AuthError::malformed("Garbage found at the end of client-final-message."));
        }
        if nonce != self.nonce {
            return Err(AuthError::Protocol {
                message: "invalid SCRAM response".into(),
                detail: Some("Nonce does not match.".into()),
            });
        }

        let without_proof = &message[..proof_at - 1];
        self.check_proof(&[&self.auth_message_start, b",", without_proof], proof)
    }

    fn check_binding(&self, attribute: &[u8]) -> Result<(), AuthError> {
        if attribute == self.binding.attribute().as_bytes() {
            return Ok(());
        }
        Err(match self.binding {
            ChannelBinding::TlsServerEndPoint(_) => {
                AuthError::ChannelBinding { message: "SCRAM channel binding check failed", detail: None }
            }
            ChannelBinding::None | ChannelBinding::NotOffered => {
                AuthError::protocol("unexpected SCRAM channel-binding attribute in client-final-message")
            }
        })
    }

    /// The same work and the same error whether the password was wrong or there is none. Nothing is known to hash to a
    /// mock's stored key; that such an exchange fails does not rest on it.
    fn check_proof(&self, auth_message: &[&[u8]], proof: [u8; 32]) -> Result<Accepted, AuthError> {
        let (stored_key, server_key, genuine) = match &self.credentials {
            Credentials::Verifier(verifier) => (&verifier.stored_key, &verifier.server_key, Choice::from(1)),
            Credentials::Mock { .. } => (&[0; 32], &[0; 32], Choice::from(0)),
        };
        let mut client_key = Zeroizing::new(hmac(stored_key, auth_message));
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        let claimed: [u8; 32] = Sha256::digest(*client_key).into();
        if !bool::from(claimed.ct_eq(stored_key) & genuine) {
            return Err(AuthError::Failed);
        }
        let server_final = format!("v={}", STANDARD.encode(hmac(server_key, auth_message))).into_bytes();
        Ok(Accepted {
            server_final,
            keys: ClientKeys { client_key: *client_key, stored_key: *stored_key, server_key: *server_key },
        })
    }
}

impl Credentials {
    fn parameters(&self) -> (&[u8], u32) {
        match self {
            Credentials::Verifier(verifier) => (&verifier.salt, verifier.iterations),
            Credentials::Mock { salt, iterations } => (salt, *iterations),
        }
    }
}

/// Reads `gs2-cbind-flag "," [authzid] ","` and says which header the client-final-message has to repeat.
fn gs2_header(attributes: &mut Attributes<'_>, offered: ServerBinding) -> Result<ChannelBinding, AuthError> {
    let flag = attributes.peek();
    let binding = match (flag, offered) {
        (b'n' | b'y', ServerBinding::Selected(_)) => {
            return Err(AuthError::malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
            ));
        }
        (b'y', ServerBinding::Declined) => {
            return Err(AuthError::ChannelBinding {
                message: "SCRAM channel binding negotiation error",
                detail: Some(
                    "The client supports SCRAM channel binding but thinks the server does not.  However, this server \
                     does support channel binding."
                        .into(),
                ),
            });
        }
        (b'p', ServerBinding::NotOffered | ServerBinding::Declined) => {
            return Err(AuthError::malformed(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel \
                 binding data.",
            ));
        }
        (b'n', _) => ChannelBinding::None,
        (b'y', _) => ChannelBinding::NotOffered,
        (b'p', ServerBinding::Selected(hash)) => ChannelBinding::TlsServerEndPoint(hash),
        _ => {
            return Err(AuthError::malformed(format!(
                "Unexpected channel-binding flag \"{}\".",
                printable(flag)
            )));
        }
    };

    if flag == b'p' {
        let kind = attributes.require(b'p')?;
        if kind != TLS_SERVER_END_POINT.as_bytes() {
            return Err(AuthError::protocol(format!(
                "unsupported SCRAM channel-binding type \"{}\"",
                printable_text(kind)
            )));
        }
    } else {
        attributes.skip();
        if attributes.peek() != b',' {
            return Err(AuthError::malformed(format!(
                "Comma expected, but found character \"{}\".",
                printable(attributes.peek())
            )));
        }
        attributes.skip();
    }
    match attributes.peek() {
        b',' => attributes.skip(),
        b'a' => {
            return Err(AuthError::Unsupported(
                "client uses authorization identity, but it is not supported",
            ));
        }
        other => {
            return Err(AuthError::malformed(format!(
                "Unexpected attribute \"{}\" in client-first-message.",
                printable(other)
            )));
        }
    }
    Ok(binding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Password;

    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn rfc_verifier() -> ScramVerifier {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ClientKeys::derive(&Password::new("pencil").unwrap(), &salt, 4096).verifier(&salt, 4096)
    }

    fn server(credentials: Credentials, binding: ServerBinding) -> ServerStart {
        ServerStart::new(credentials, Nonce::from_text("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").unwrap(), binding)
    }

    fn mock(binding: ServerBinding) -> ServerStart {
        server(Credentials::Mock { salt: [1; SALT_LEN], iterations: 4096 }, binding)
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_rfc_7677_is_accepted() {
        let verifier = rfc_verifier();
        let (server, first) = server(Credentials::Verifier(verifier.clone()), ServerBinding::NotOffered)
            .client_first(CLIENT_FIRST.as_bytes())
            .unwrap();
        assert_eq!(
            String::from_utf8(first).unwrap(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let accepted = server.client_final(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(accepted.server_final).unwrap(),
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        assert_eq!(accepted.keys.stored_key, verifier.stored_key);
        assert_eq!(
            accepted.keys,
            ClientKeys::derive(&Password::new("pencil").unwrap(), &verifier.salt, 4096)
        );
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_end_in_the_same_error() {
        let wrong = ClientKeys::new([1; 32], [2; 32]).verifier(&[1; SALT_LEN], 4096);
        for credentials in
            [Credentials::Verifier(wrong), Credentials::Mock { salt: [1; SALT_LEN], iterations: 4096 }]
        {
            let (server, first) =
                server(credentials, ServerBinding::NotOffered).client_first(CLIENT_FIRST.as_bytes()).unwrap();
            assert!(first.ends_with(b",s=AQEBAQEBAQEBAQEBAQEBAQ==,i=4096"));
            assert_eq!(server.client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), AuthError::Failed);
        }
    }

    #[test]
    fn a_malformed_client_first_message_is_described_as_postgresql_does() {
        for (message, said) in [
            ("", "The message is empty."),
            ("n,,n=\0,r=a", "Message length does not match"),
            ("x,,n=,r=a", "Unexpected channel-binding flag \"'x'\"."),
            ("n", "Comma expected, but found character \"0x00\"."),
            ("nn,n=,r=a", "Comma expected, but found character \"'n'\"."),
            ("n,b=c,n=,r=a", "Unexpected attribute \"'b'\" in client-first-message."),
            ("n,a=admin,n=,r=a", "client uses authorization identity"),
            ("n,,m=ext,n=,r=a", "client requires an unsupported SCRAM extension"),
            ("n,,r=a", "Expected attribute \"n\" but found \"'r'\"."),
            ("n,,n=", "Expected attribute \"r\" but found \"0x00\"."),
            ("n,,n=,r=", "non-printable characters in SCRAM nonce"),
            ("n,,n=,r=a b", "non-printable characters in SCRAM nonce"),
            ("n,,n=,r=a,1=2", "Attribute expected, but found invalid character \"'1'\"."),
            ("n,,n=,r=a,", "Attribute expected, but found end of string."),
            ("p=tls-server-end-point,,n=,r=a", "The client selected SCRAM-SHA-256 without channel binding"),
        ] {
            let error = mock(ServerBinding::NotOffered).client_first(message.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(said), "{message}: {error}");
        }
        let long = format!("n,,n=,r={}", "a".repeat(MAX_CLIENT_MESSAGE));
        assert!(mock(ServerBinding::NotOffered).client_first(long.as_bytes()).is_err());
        assert!(mock(ServerBinding::NotOffered).client_first(b"n,,n=\xff,r=a,x=1,y=").is_ok());
    }

    #[test]
    fn a_malformed_client_final_message_is_described_as_postgresql_does() {
        let proof = CLIENT_FINAL.split_once(",p=").unwrap().1;
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        for (message, said) in [
            ("".to_owned(), "The message is empty."),
            (format!("r={nonce},p={proof}"), "Expected attribute \"c\""),
            (format!("c=eSws,r={nonce},p={proof}"), "unexpected SCRAM channel-binding attribute"),
            (format!("c=,r={nonce},p={proof}"), "unexpected SCRAM channel-binding attribute"),
            (format!("c=biws,p={proof}"), "Expected attribute \"r\""),
            (format!("c=biws,r={nonce}"), "Attribute expected, but found end of string."),
            (format!("c=biws,r={nonce},x=y"), "Attribute expected, but found end of string."),
            (format!("c=biws,r={nonce}x,p={proof}"), "Nonce does not match."),
            (format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,p={proof}"), "Nonce does not match."),
            (format!("c=biws,r={nonce},p="), "Malformed proof"),
            (format!("c=biws,r={nonce},p=c2hvcnQ="), "Malformed proof"),
            (format!("c=biws,r={nonce},p={proof},"), "Garbage found"),
            (format!("c=biws,r={nonce},p={proof},x=y"), "Garbage found"),
        ] {
            let (server, _) = mock(ServerBinding::NotOffered).client_first(CLIENT_FIRST.as_bytes()).unwrap();
            let error = server.client_final(message.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(said), "{message}: {error}");
        }
    }

    #[test]
    fn channel_binding_must_fit_what_was_offered() {
        let first = |offered: &ServerBinding, header: &str| {
            mock(offered.clone()).client_first(format!("{header},,n=,r=a").as_bytes()).map(|_| ())
        };
        let end_point = "p=tls-server-end-point";
        let selected = ServerBinding::Selected(vec![1, 2, 3]);
        assert_eq!(first(&ServerBinding::NotOffered, "n"), Ok(()));
        assert_eq!(first(&ServerBinding::NotOffered, "y"), Ok(()));
        assert_eq!(first(&ServerBinding::Declined, "n"), Ok(()));
        assert_eq!(first(&selected, end_point), Ok(()));
        assert!(matches!(first(&ServerBinding::Declined, "y"), Err(AuthError::ChannelBinding { .. })));
        assert!(matches!(first(&ServerBinding::Declined, end_point), Err(AuthError::Protocol { .. })));
        assert!(matches!(first(&selected, "n"), Err(AuthError::Protocol { .. })));
        assert!(matches!(first(&selected, "y"), Err(AuthError::Protocol { .. })));
        assert_eq!(
            first(&selected, "p=tls-unique").unwrap_err().to_string(),
            "unsupported SCRAM channel-binding type \"tls-unique\""
        );
    }

    #[test]
    fn another_certificate_fails_the_channel_binding() {
        let (server, _) = mock(ServerBinding::Selected(vec![1, 2, 3]))
            .client_first(b"p=tls-server-end-point,,n=,r=a")
            .unwrap();
        let theirs = ChannelBinding::TlsServerEndPoint(vec![9]).attribute();
        let error = server.client_final(format!("c={theirs},r=a,p=x").as_bytes()).unwrap_err();
        assert!(matches!(error, AuthError::ChannelBinding { .. }), "{error}");
    }
}
