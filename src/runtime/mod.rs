//! The process: one thread that accepts and supervises, and the workers.

mod ahead;
pub mod daemon;
mod expiry;
pub mod limits;
pub mod listener;
pub mod logging;
pub mod reload;
pub mod supervisor;
pub mod worker;

pub use supervisor::{Launch, run};
