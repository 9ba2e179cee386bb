//! Time limits: what ends, what the client is told, and that nothing stays behind.

mod support;

#[path = "pooling/fixture.rs"]
mod fixture;
#[path = "limits/logins.rs"]
mod logins;
#[path = "limits/queries.rs"]
mod queries;
#[path = "limits/waits.rs"]
mod waits;
