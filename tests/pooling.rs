//! Pools as clients and PostgreSQL see them: who gets which server, for how long, in what order, and how many there are.

mod support;

#[path = "pooling/caps.rs"]
mod caps;
#[path = "pooling/connects.rs"]
mod connects;
#[path = "pooling/fixture.rs"]
mod fixture;
#[path = "pooling/forgotten.rs"]
mod forgotten;
#[path = "pooling/keys.rs"]
mod keys;
#[path = "pooling/lifetimes.rs"]
mod lifetimes;
#[path = "pooling/modes.rs"]
mod modes;
#[path = "pooling/sharing.rs"]
mod sharing;
