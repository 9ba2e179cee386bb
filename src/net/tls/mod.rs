//! TLS on a socket, for both sides of pgvalet.
//!
//! [`TlsStream`] is what the relay reads and writes; [`accept`] has the handshake with clients and what configures it, [`connect`]
//! the one with servers, [`current`] keeps both up to date, [`files`] reads certificates and keys, [`certificate`] says what stands
//! in one, [`expiry`] when it expires, [`cipher`] what a connection is encrypted with. The
//! handshakes are tokio-rustls'; afterwards the stream drives rustls itself, so that an idle connection holds no buffer
//! beyond rustls' own, and a read takes as much from the kernel as the caller has room for.

pub mod accept;
pub mod certificate;
pub mod cipher;
pub mod connect;
pub mod current;
pub mod expiry;
pub mod files;
mod handshake;
mod session;

pub use session::TlsStream;

/// The name of PostgreSQL's protocol in a handshake (ALPN).
pub const ALPN: &[u8] = b"postgresql";
