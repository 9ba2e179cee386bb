//! PostgreSQL's wire protocol: frames, startup packets, messages. Pure: bytes in, values out, no I/O.
//!
//! Nothing here allocates for a message that merely passes through; the relay reads headers in place and looks into the
//! few bodies that matter. Lengths are checked before they are believed. Section names in the docs of this module refer
//! to chapter "Frontend/Backend Protocol" of PostgreSQL's manual.

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod options;
pub mod peer_key;
pub mod startup;

pub use backend::{ErrorFields, ErrorMessage, TxStatus};
pub use frame::{FrameError, Header};
