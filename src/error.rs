//! What pgvalet itself says to a client when something does not go on, and the one table of SQLSTATEs.

use crate::pool::CheckoutError;
use crate::protocol::backend::{self, ErrorMessage};
use crate::server::ServerError;
use bytes::BytesMut;

/// An error that pgvalet gives to a client on its own account.
#[derive(Debug, Clone)]
pub struct Error {
    /// Which one.
    pub kind: Kind,
    /// The primary message.
    pub message: String,
    /// What exactly was wrong, where that is more than the message says.
    pub detail: Option<Box<str>>,
    /// What to do about it.
    pub hint: Option<&'static str>,
    /// The server's own words, which then take the place of ours.
    pub server: Option<std::sync::Arc<[u8]>>,
}

/// Kinds of errors, each with its SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client broke the protocol.
    ProtocolViolation,
    /// The client asks for what pgvalet does not do.
    Unsupported,
    /// A startup parameter has a value that means nothing.
    InvalidValue,
    /// The login failed.
    InvalidPassword,
    /// The login is refused whatever the password.
    InvalidAuthorization,
    /// No such database here.
    UnknownDatabase,
    /// `max_client_conn`.
    TooManyClients,
    /// `max_db_connections` or `max_user_connections`, for a server that nobody gives back.
    TooManyServers,
    /// `notification_buffer`.
    TooManyNotifications,
    /// `max_pinned`.
    TooManyPinned,
    /// `pin_timeout`.
    PinTimeout,
    /// `query_wait_timeout`.
    WaitTimeout,
    /// `query_timeout`.
    QueryTimeout,
    /// A cancel request.
    Canceled,
    /// `idle_transaction_timeout`.
    IdleInTransaction,
    /// `transaction_timeout`.
    TransactionTimeout,
    /// `client_idle_timeout`.
    IdleSession,
    /// `client_login_timeout`.
    LoginTimeout,
    /// pgvalet shuts down.
    Shutdown,
    /// The server cannot be reached.
    CannotConnect,
    /// The server was lost.
    ServerLost,
    /// A transaction block in statement pooling.
    NoTransactions,
    /// Something is larger than pgvalet handles.
    TooLarge,
    /// A command that the admin console does not understand.
    Syntax,
    /// A command that only `admin_users` may give.
    NotAllowed,
    /// What is asked for is not possible as things stand.
    WrongState,
    /// A statement in a transaction that has failed.
    FailedTransaction,
    /// No prepared statement of this name.
    UnknownStatement,
    /// A prepared statement of this name is there already.
    DuplicateStatement,
    /// No portal of this name.
    UnknownPortal,
    /// A portal of this name is there already.
    DuplicatePortal,
    /// The configuration file is wrong.
    Configuration,
    /// A bug in pgvalet.
    Internal,
}

impl Kind {
    /// SQLSTATE, from appendix A of PostgreSQL's manual.
    #[must_use]
    pub fn sqlstate(self) -> &'static str {
        match self {
            Kind::ProtocolViolation => "08P01",
            Kind::Unsupported | Kind::NoTransactions => "0A000",
            Kind::InvalidValue => "22023",
            Kind::InvalidPassword => "28P01",
            Kind::InvalidAuthorization => "28000",
            Kind::UnknownDatabase => "3D000",
            Kind::TooManyClients | Kind::TooManyServers | Kind::WaitTimeout => "53300",
            Kind::TooManyPinned | Kind::TooManyNotifications => "53400",
            Kind::QueryTimeout | Kind::Canceled | Kind::LoginTimeout => "57014",
            Kind::IdleInTransaction => "25P03",
            Kind::TransactionTimeout => "25P04",
            Kind::IdleSession | Kind::PinTimeout => "57P05",
            Kind::Shutdown => "57P01",
            Kind::CannotConnect => "08001",
            Kind::ServerLost => "08006",
            Kind::TooLarge => "54000",
            Kind::Syntax => "42601",
            Kind::NotAllowed => "42501",
            Kind::WrongState => "55000",
            Kind::FailedTransaction => "25P02",
            Kind::UnknownStatement => "26000",
            Kind::DuplicateStatement => "42P05",
            Kind::UnknownPortal => "34000",
            Kind::DuplicatePortal => "42P03",
            Kind::Configuration => "F0000",
            Kind::Internal => "XX000",
        }
    }
}

impl Error {
    /// An error without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), detail: None, hint: None, server: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Error {
        self.hint = Some(hint);
        self
    }

    /// The same with a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    /// SQLSTATE: the server's own if the words are.
    #[must_use]
    pub fn sqlstate(&self) -> &[u8] {
        match &self.server {
            Some(body) => backend::ErrorFields::new(body).code(),
            None => self.kind.sqlstate().as_bytes(),
        }
    }

    /// Appends it as an ErrorResponse.
    pub fn write(&self, out: &mut BytesMut, severity: &str) {
        match &self.server {
            Some(body) => backend::error_with_severity(out, body, severity),
            None => ErrorMessage {
                severity,
                code: self.kind.sqlstate(),
                message: &self.message,
                detail: self.detail.as_deref(),
                hint: self.hint,
            }
            .write(out),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

impl std::error::Error for Error {}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Error {
        let kind = match &error {
            ServerError::Connect { .. }
            | ServerError::Timeout
            | ServerError::Tls(_)
            | ServerError::Authentication { .. } => Kind::CannotConnect,
            _ => Kind::ServerLost,
        };
        Error {
            kind,
            message: error.to_string(),
            detail: None,
            hint: None,
            server: error.response().cloned(),
        }
    }
}

impl From<CheckoutError> for Error {
    fn from(error: CheckoutError) -> Error {
        match error {
            CheckoutError::Server(error) | CheckoutError::Timeout(Some(error)) => error.into(),
            CheckoutError::Timeout(None) => Error::new(
                Kind::WaitTimeout,
                "query_wait_timeout: no server connection became free in time",
            )
            .hint("All server connections of the pool are in use. Raise pool_size, shorten transactions, or raise query_wait_timeout."),
            CheckoutError::Shutdown => Error::new(Kind::Shutdown, "the pooler is shutting down"),
            CheckoutError::Moved => Error::new(Kind::UnknownDatabase, "the database was removed from the configuration"),
        }
    }
}
