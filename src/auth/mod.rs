//! Who may log in, and how: the cryptography and the message exchanges of passwords.
//!
//! Owns SCRAM-SHA-256 on both sides ([`scram_server`] checks a client, [`scram_client`] logs in to a server), md5
//! ([`md5`]), the messages that carry bearer tokens ([`oauthbearer`]), the keys behind a password and their cache ([`keys`]), and
//! what an unknown user is shown ([`mock`]). Does not own
//! the frames around these messages, the choice of a method, or users. Invariants: bytes in, bytes out: no socket, no
//! clock, no source of randomness (nonces and salts are passed in); no input of a peer panics or costs more than its
//! bounded length; what depends on a secret is compared in constant time; no error names a secret.
//!
//! The slow step, PBKDF2, happens in one place, [`keys::ClientKeys::derive`], and never inside the exchanges: they hand
//! out or take in keys, so that the caller derives them on a thread that may block.

use std::borrow::Cow;

pub mod hba;
pub mod keys;
pub mod learnt;
pub mod md5;
pub mod mock;
pub mod oauthbearer;
pub mod saslprep;
pub mod scram;
pub mod scram_client;
pub mod scram_server;
pub mod transport;

/// Why a login did not succeed. It does not say which side is to blame: whoever holds the exchange knows its peer.
///
/// [`AuthError::message`] and [`AuthError::detail`] are PostgreSQL's own words for a client's mistakes (`M` and `D` of
/// an ErrorResponse); `Display` joins them for a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The peer does not know the password, or the user may not log in: both must look alike (SQLSTATE 28P01). The
    /// message for the client is the caller's, because it names the user.
    #[error("password authentication failed")]
    Failed,
    /// A message broke the protocol (SQLSTATE 08P01).
    #[error("{message}{}", Detail(.detail))]
    Protocol {
        /// What PostgreSQL says.
        message: Cow<'static, str>,
        /// What exactly was wrong.
        detail: Option<Cow<'static, str>>,
    },
    /// The peer asks for what is defined but not supported (SQLSTATE 0A000).
    #[error("{0}")]
    Unsupported(&'static str),
    /// Channel binding does not fit: someone may sit in between (SQLSTATE 28000).
    #[error("{message}{}", Detail(.detail))]
    ChannelBinding {
        /// What PostgreSQL says.
        message: &'static str,
        /// What exactly was wrong.
        detail: Option<Cow<'static, str>>,
    },
    /// The server ended the exchange with this error of RFC 5802, such as `invalid-proof`.
    #[error("error received from server in SCRAM exchange: {0}")]
    Refused(String),
    /// The server does not know the password either: it is not who it claims to be.
    #[error("incorrect server signature: the server does not know the password")]
    ServerSignature,
}

impl AuthError {
    /// The primary message.
    pub fn message(&self) -> Cow<'static, str> {
        match self {
            AuthError::Protocol { message, .. } => message.clone(),
            AuthError::ChannelBinding { message, .. } => Cow::Borrowed(message),
            other => Cow::Owned(other.to_string()),
        }
    }

    /// The detail, where there is one.
    pub fn detail(&self) -> Option<&str> {
        match self {
            AuthError::Protocol { detail, .. } | AuthError::ChannelBinding { detail, .. } => {
                detail.as_deref()
            }
            _ => None,
        }
    }

    fn malformed(detail: impl Into<Cow<'static, str>>) -> AuthError {
        AuthError::Protocol { message: "malformed SCRAM message".into(), detail: Some(detail.into()) }
    }

    fn protocol(message: impl Into<Cow<'static, str>>) -> AuthError {
        AuthError::Protocol { message: message.into(), detail: None }
    }
}

/// Prints a detail behind its message.
struct Detail<'a>(&'a Option<Cow<'static, str>>);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_its_detail_behind_its_message() {
        let error = AuthError::malformed("The message is empty.");
        assert_eq!(error.to_string(), "malformed SCRAM message: The message is empty.");
        assert_eq!(error.message(), "malformed SCRAM message");
        assert_eq!(error.detail(), Some("The message is empty."));
        assert_eq!(
            AuthError::protocol("non-printable characters in SCRAM nonce").to_string(),
            "non-printable characters in SCRAM nonce"
        );
    }
}
