//! How a process hands over what it has to the one that takes its place: the words, and how they travel.
//!
//! Two processes of one user, connected by a Unix socket. [`message`] has what they say to each other, [`wire`] the frames,
//! with descriptors, [`link`] the conversation that goes on after the start. Who says what when is decided in
//! `runtime::upgrade`; what a client's session comes to in `client::moving`. Knows nothing of pools.

pub mod link;
pub mod message;
pub mod wire;

pub use link::{Event, Link};
pub use message::{ClientState, Message};

use std::os::fd::OwnedFd;

/// A client on its way to another process, or to another worker of this one.
#[derive(Debug)]
pub struct Migrant {
    /// Its connection.
    pub socket: OwnedFd,
    /// Its session.
    pub state: Box<ClientState>,
}
