//! Sockets, TLS and buffers: what moves bytes and knows nothing of what they mean.

pub mod buffer;
pub mod connect;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod unix;

pub use buffer::{Buffer, Buffers};
pub use socket::Socket;
pub use stream::Stream;
