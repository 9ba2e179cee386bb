//! One client: its login, its session, and the relay between it and the server it borrows.
//!
//! [`serve`] is the life of a connection. `relay` is the hot path; what it does with the bytes of each direction is in
//! `upstream` (client to server) and `downstream` (server to client).

mod authentication;
pub mod cell;
mod console;
pub mod context;
mod downstream;
mod login;
mod outgoing;
mod relay;
mod upstream;

pub use cell::{ClientCell, Verdict};
pub use context::Context;
pub use login::serve;
