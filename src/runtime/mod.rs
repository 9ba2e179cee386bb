//! The process: one thread that accepts and supervises, and the workers.

mod ahead;
pub mod daemon;
mod doors;
mod ending;
mod expiry;
pub mod limits;
pub mod listener;
pub mod logging;
mod reach;
pub mod reload;
pub mod supervisor;
pub mod upgrade;
pub mod worker;

pub use supervisor::{Launch, run};
