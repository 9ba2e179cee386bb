//! A bug on demand, in debug builds only: so that tests see that it ends one client and nobody else.

#[cfg(debug_assertions)]
use std::sync::OnceLock;

/// Panics if `sql` is the text in the environment variable `PGVALET_FAULT`. Does nothing in release builds.
#[cfg(debug_assertions)]
pub(super) fn strike(sql: &[u8]) {
    static TEXT: OnceLock<Option<String>> = OnceLock::new();
    let text = TEXT.get_or_init(|| std::env::var("PGVALET_FAULT").ok());
    if text.as_ref().is_some_and(|text| text.as_bytes() == sql) {
        panic!("a fault that was asked for");
    }
}

/// Does nothing: this is no debug build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(super) fn strike(_sql: &[u8]) {}
