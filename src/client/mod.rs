//! One client: its login, its session, and the relay between it and the server it borrows.
//!
//! [`serve`] is the life of a connection. `relay` is the hot path; what it does with the bytes of each direction is in
//! `upstream` (client to server, with `naming` and `sql_names` for prepared statements, `copying` for COPY, `judging` and `reading` for what texts do and how they are read) and `downstream` (server to client); `endings` has
//! what happens when a server is lost, a query canceled, or a client leaves.

mod authentication;
mod bearer;
pub mod cancel_keys;
pub mod cell;
pub mod census;
mod connection;
mod console;
pub mod context;
mod copying;
pub mod door;
mod downstream;
mod encryption;
mod endings;
mod exchanges;
mod fault;
mod greeting;
mod judging;
mod listening;
mod login;
pub mod mailbox;
pub mod moving;
mod naming;
mod outgoing;
pub mod peers;
mod reading;
mod relay;
mod replication;
mod resets;
mod sql_names;
pub mod surroundings;
mod survey;
pub mod turns;
mod upstream;

pub use cell::{ClientCell, ClientInfo, Verdict};
pub use context::Context;
pub use login::serve;
pub use moving::{Arrival, adopt};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_takes_what_it_is_allowed() {
        // What not every client has belongs into a box.
        assert!(size_of::<relay::Relay>() <= 512);
        assert!(size_of::<cell::ClientCell>() <= 280);
    }
}
