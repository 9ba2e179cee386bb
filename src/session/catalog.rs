//! What the catalog says of relations and functions. Nothing is read from it yet.

/// Facts about a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogFacts {}

/// The query whose rows [`CatalogFacts::from_rows`] reads.
pub const PROBE_SQL: &str = "SELECT 1";

impl CatalogFacts {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> CatalogFacts {
        CatalogFacts {}
    }

    /// Whether anything is known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        false
    }

    /// Reads the rows of the probe.
    #[must_use]
    pub fn from_rows(_rows: &[Vec<String>]) -> CatalogFacts {
        CatalogFacts {}
    }
}
