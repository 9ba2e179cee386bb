//! What a statement can leave behind. Nothing is provably stateless yet: every statement counts as everything.

use crate::session::{CatalogFacts, Footprint};

/// What `sql` can leave behind in its session.
#[must_use]
pub fn classify(_sql: &[u8], _facts: &CatalogFacts, _unsafe_encoding: bool) -> Footprint {
    Footprint::EVERYTHING
}

/// Whether `sql` begins a transaction block.
#[must_use]
pub fn begins_transaction(sql: &[u8]) -> bool {
    let word: Vec<u8> = sql.iter().copied().skip_while(u8::is_ascii_whitespace).take_while(u8::is_ascii_alphabetic).collect();
    word.eq_ignore_ascii_case(b"begin") || word.eq_ignore_ascii_case(b"start")
}
