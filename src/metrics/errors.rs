//! Errors that clients got, by the class of their SQLSTATE (its first two characters).

use crate::metrics::Counter;

/// The classes of PostgreSQL's appendix A that are errors; what belongs to none of them is counted as the last.
pub const CLASSES: [&str; 41] = [
    "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "26", "27",
    "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57",
    "58", "72", "F0", "HV", "P0", "XX", "other",
];

/// Counters of errors, by class.
#[derive(Debug)]
pub struct ErrorClasses([Counter; CLASSES.len()]);

impl Default for ErrorClasses {
    fn default() -> ErrorClasses {
        ErrorClasses(std::array::from_fn(|_| Counter::default()))
    }
}

impl ErrorClasses {
    /// Counts an error with this SQLSTATE.
    pub fn count(&self, sqlstate: &[u8]) {
        let class = sqlstate.get(..2).unwrap_or_default();
        let known = CLASSES.iter().position(|known| known.as_bytes() == class);
        self.0[known.unwrap_or(CLASSES.len() - 1)].add(1);
    }

    /// How many errors of each of [`CLASSES`] there were.
    #[must_use]
    pub fn values(&self) -> [u64; CLASSES.len()] {
        std::array::from_fn(|class| self.0[class].get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_counts_in_its_class() {
        let errors = ErrorClasses::default();
        for sqlstate in ["42P01", "42601", "57014", "ZZ999", "1", ""] {
            errors.count(sqlstate.as_bytes());
        }
        let of = |class: &str| errors.values()[CLASSES.iter().position(|known| *known == class).unwrap()];
        assert_eq!((of("42"), of("57"), of("other"), of("23")), (2, 1, 3, 0));
    }
}
