//! Remembers what statements of the same shape can leave behind, so that a simple query is judged once and not each
//! time it comes with another number.
//!
//! Two texts have the same shape when they differ only in the digits of numbers outside quotes. No judgement depends on
//! those. Whatever makes that hard to tell (quoted identifiers, long texts) is not remembered.

use crate::session::Footprint;
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};

/// Longest text that is remembered.
const LONGEST: usize = 512;
/// Shapes that are remembered; a power of two.
const SLOTS: usize = 1024;

/// Judgements by shape. A later shape takes the place of an earlier one that falls on the same slot.
#[derive(Debug)]
pub struct Shapes {
    slots: Box<[Slot]>,
    hasher: FixedState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Hash of the shape, with a seed that no client knows; 0: empty.
    shape: u64,
    generation: u32,
    footprint: Footprint,
}

impl Shapes {
    /// Without memories. The seed must be random: who knows it could make two shapes look alike.
    #[must_use]
    pub fn new(seed: u64) -> Shapes {
        Shapes { slots: vec![Slot::default(); SLOTS].into(), hasher: FixedState::with_seed(seed) }
    }

    /// What `sql` can leave behind: as remembered from the same generation of the catalog facts, else as judged now.
    #[inline]
    pub fn footprint(&mut self, sql: &[u8], generation: u32, judge: impl FnOnce() -> Footprint) -> Footprint {
        let Some(shape) = self.shape(sql) else { return judge() };
        let slot = &mut self.slots[(shape >> 32) as usize & (SLOTS - 1)];
        if slot.shape != shape || slot.generation != generation {
            *slot = Slot { shape, generation, footprint: judge() };
        }
        slot.footprint
    }

    /// The hash of the text with every number outside quotes left out. `None`: it has no shape.
    #[inline]
    fn shape(&self, sql: &[u8]) -> Option<u64> {
        if sql.len() > LONGEST {
            return None;
        }
        let mut hasher = self.hasher.build_hasher();
        let (mut start, mut in_string) = (0, false);
        let mut at = next_notable(sql, 0);
        while at < sql.len() {
            match sql[at] {
                b'"' => return None,
                b'\'' => {
                    in_string = !in_string;
                    at += 1;
                }
                _ => {
                    let end = at + sql[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    // Behind anything that can be part of a name a digit belongs to the name.
                    if !in_string && !at.checked_sub(1).is_some_and(|before| is_name(sql[before])) {
                        hasher.write(&sql[start..at]);
                        hasher.write_u8(0);
                        start = end;
                    }
                    at = end;
                }
            }
            at = next_notable(sql, at);
        }
        hasher.write(&sql[start..]);
        Some(hasher.finish() | 1)
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Where the next digit or quote is, at or behind `at`; the length of `sql` if there is none.
#[inline]
fn next_notable(sql: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at once: the first byte of `word` below `limit` shows in the result, others behind it at worst.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    while let Some(chunk) = sql.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let digits = below(word ^ (ONES * u64::from(b'0')), 10);
        let quotes = below(word ^ (ONES * u64::from(b'\'')), 1) | below(word ^ (ONES * u64::from(b'"')), 1);
        let notable = digits | quotes;
        if notable != 0 {
            return at + notable.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_notable = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'\'' | b'"');
    at + sql[at..].iter().position(is_notable).unwrap_or(sql.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sql: &str) -> Option<u64> {
        Shapes::new(7).shape(sql.as_bytes())
    }

    #[test]
    fn numbers_do_not_matter_and_everything_else_does() {
        assert_eq!(shape("SELECT a FROM t WHERE id = 4711"), shape("SELECT a FROM t WHERE id = 7"));
        for (one, other) in [
            ("SELECT a FROM t1", "SELECT a FROM t2"),
            ("SELECT nextval('s1')", "SELECT nextval('s2')"),
            ("SELECT nextval('s 1')", "SELECT nextval('s 2')"),
            ("SELECT $1", "SELECT $2"),
            ("SELECT 1a", "SELECT 1b"),
            ("SELECT a1", "SELECT a11"),
            ("SELECT 1, 1", "SELECT 1,, 1"),
            ("SELECT 11", "SELECT 1 1"),
            ("SELECT f(1)", "SELECT g(1)"),
            ("SELECT a", "SELECT A"),
            ("SELECT é1", "SELECT é2"),
        ] {
            assert_ne!(shape(one), shape(other), "{one}");
        }
        assert_eq!(shape("SELECT \"t 1\""), None);
        assert_eq!(shape(&" ".repeat(LONGEST + 1)), None);
    }

    #[test]
    fn notable_bytes_are_found_wherever_they_are() {
        for length in 0..40 {
            let plain = vec![b'a'; length];
            assert_eq!(next_notable(&plain, 0), length);
            for at in 0..length {
                for byte in *b"09'\"" {
                    let mut text = plain.clone();
                    text[at] = byte;
                    assert_eq!((next_notable(&text, 0), next_notable(&text, at + 1)), (at, length));
                }
            }
        }
    }

    #[test]
    fn a_shape_is_judged_once_for_each_generation() {
        let mut shapes = Shapes::new(7);
        let mut judged = 0;
        for (sql, generation) in [("SELECT 1", 1), ("SELECT 22", 1), ("SELECT 3", 2), ("SELECT 4", 2)] {
            shapes.footprint(sql.as_bytes(), generation, || {
                judged += 1;
                Footprint::NOTHING
            });
        }
        assert_eq!(judged, 2);
    }
}
