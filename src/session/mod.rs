//! What belongs to a client between its leases, and what a lease can leave behind in a server. Pure: no I/O, no clock.

pub mod catalog;
pub mod classify;
pub mod footprint;
pub mod lexer;
pub mod resets;
pub mod settings;
pub mod shapes;
pub mod sql_prepare;
pub mod statements;
pub mod survey;

pub use catalog::CatalogFacts;
pub use footprint::Footprint;
pub use settings::{Reported, Settings};
pub use shapes::Shapes;
pub use statements::{Interner, Named, ResultShape, Statement, Statements};
