//! What can go wrong between pgvalet and a server.

use crate::protocol::{ErrorFields, FrameError};
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// Why a server could not be had, or was lost.
#[derive(Debug, Clone, Error)]
pub enum ServerError {
    /// No connection could be made.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Where to.
        target: String,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// The connection failed.
    #[error("the connection to the server failed: {0}")]
    Io(Arc<io::Error>),
    /// TLS is not to be had as the configuration demands it, or the server's certificate does not count.
    #[error("TLS with the server failed: {0}")]
    Tls(Arc<str>),
    /// The server closed the connection without a word.
    #[error("the server closed the connection unexpectedly")]
    Closed,
    /// The server's own ErrorResponse (its body).
    #[error("the server says: {}", describe(.0))]
    Refused(Arc<[u8]>),
    /// The server ended the connection; its last words, if any.
    #[error("the server ended the connection{}", .0.as_ref().map(|last| format!(": {last}")).unwrap_or_default())]
    Lost(Option<Box<ServerError>>),
    /// The server said something that makes no sense here.
    #[error("protocol violation by the server: {0}")]
    Protocol(&'static str),
    /// The server asks for an authentication that pgvalet has no secret for, or does not know.
    #[error("cannot authenticate to the server as user \"{user}\": {reason}")]
    Authentication {
        /// The user on the server.
        user: String,
        /// What is missing.
        reason: String,
    },
    /// Connecting and logging in took too long.
    #[error("connecting and logging in to the server took longer than server_connect_timeout")]
    Timeout,
}

impl ServerError {
    /// The body of the server's own ErrorResponse, where there is one.
    #[must_use]
    pub fn response(&self) -> Option<&Arc<[u8]>> {
        match self {
            ServerError::Refused(body) => Some(body),
            ServerError::Lost(Some(last)) => last.response(),
            _ => None,
        }
    }

    /// Whether trying again later can help without anyone changing anything: the server is away, starting, or full.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            ServerError::Authentication { .. } | ServerError::Tls(_) => false,
            ServerError::Refused(body) => {
                let code = ErrorFields::new(body).code();
                matches!(code.get(..2), Some(b"53" | b"57" | b"08" | b"58" | b"XX"))
            }
            ServerError::Lost(Some(last)) => last.is_transient(),
            _ => true,
        }
    }

    /// SQLSTATE for a client that cannot be served because of it, where the server gave none.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ServerError::Connect { .. } | ServerError::Timeout | ServerError::Tls(_) => "08001",
            ServerError::Protocol(_) => "08P01",
            ServerError::Authentication { .. } => "28000",
            _ => "08006",
        }
    }
}

fn describe(body: &[u8]) -> String {
    let fields = ErrorFields::new(body);
    format!("{} (SQLSTATE {})", fields.message(), String::from_utf8_lossy(fields.code()))
}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> ServerError {
        // What is not as it should be, and will not be so the next time either.
        if error.kind() == io::ErrorKind::InvalidData {
            return ServerError::Tls(error.to_string().into());
        }
        ServerError::Io(Arc::new(error))
    }
}

impl From<FrameError> for ServerError {
    fn from(_: FrameError) -> ServerError {
        ServerError::Protocol("invalid message length")
    }
}
