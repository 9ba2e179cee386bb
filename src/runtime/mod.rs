//! The process: one thread that supervises, and the workers, which accept.

mod ahead;
pub mod daemon;
mod doors;
mod ending;
mod expiry;
pub mod limits;
pub mod listener;
pub mod logging;
mod reach;
pub mod reboot;
pub mod reload;
pub mod supervisor;
pub mod upgrade;
pub mod worker;

pub use supervisor::{Launch, run};
