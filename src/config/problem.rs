//! What is wrong with a configuration, told so that it can be put right.
//!
//! Owns the shape of a problem and the search for the name that was meant. Knows nothing of settings or file formats.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong, or worth a warning, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line in the file, from 1; `None` if the problem is something that the file lacks.
    pub line: Option<usize>,
    /// The setting, such as `pool_mode` or `databases.app.port`; empty if it is about no single one.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All problems of a configuration, in the order of its files and lines. Never empty where it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The problems one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    /// One problem a line, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) line: Option<usize>,
}

impl Place {
    /// Line `line` of `file`.
    pub(super) fn line(file: &Path, line: usize) -> Self {
        Self { file: file.to_owned(), line: Some(line) }
    }

    /// The file as a whole.
    pub(super) fn file(file: &Path) -> Self {
        Self { file: file.to_owned(), line: None }
    }

    /// A problem here.
    pub(super) fn problem(&self, key: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), line: self.line, key: key.into(), message: message.into() }
    }
}

/// The candidate that `word` was most likely meant to be, if one is close enough to be worth a mention.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_like_a_compiler_message() {
        let problem = Place::line(Path::new("a.toml"), 12).problem("pool_mode", "no");
        assert_eq!(problem.to_string(), "a.toml:12: pool_mode: no");
        let problem = Place::file(Path::new("a.toml")).problem("", "no databases");
        assert_eq!(problem.to_string(), "a.toml: no databases");
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_name() {
        let names = ["pool_mode", "default_pool_size", "min_pool_size"];
        assert_eq!(nearest("pol_mode", names), Some("pool_mode"));
        assert_eq!(nearest("default_pool_sise", names), Some("default_pool_size"));
        assert_eq!(nearest("Pool_Mode", names), Some("pool_mode"));
        assert_eq!(nearest("zebra", names), None);
    }

    #[test]
    fn distance_counts_single_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("hots", "host"), 1);
    }
}
