//! Sockets and buffers: what moves bytes and knows nothing of what they mean.

pub mod buffer;
pub mod connect;
pub mod stream;

pub use buffer::{Buffer, Buffers};
pub use stream::Stream;
