//! Remembers what statements of the same shape can leave behind, so that a simple query is judged once and not each
//! time it comes with another number.
//!
//! Two texts have the same shape when they differ only in the digits of numbers outside quotes. No judgement depends on
//! those. Whatever makes that hard to tell (quoted identifiers, long texts) is not remembered.

use crate::session::Footprint;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;

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
        let mut buffer = [0; LONGEST];
        let Some(length) = normalize(sql, &mut buffer) else { return judge() };
        let shape = self.hasher.hash_one(&buffer[..length]) | 1;
        let slot = &mut self.slots[(shape >> 32) as usize & (SLOTS - 1)];
        if slot.shape != shape || slot.generation != generation {
            *slot = Slot { shape, generation, footprint: judge() };
        }
        slot.footprint
    }
}

/// Writes the shape of `sql` to `into`: the text with every number outside quotes as a single `0`. `None`: it has none.
#[inline]
fn normalize(sql: &[u8], into: &mut [u8; LONGEST]) -> Option<usize> {
    if sql.len() > LONGEST {
        return None;
    }
    let mut length = 0;
    let mut in_string = false;
    // What comes before a number: a digit behind anything that can be part of a name belongs to the name.
    let mut in_name = false;
    let mut in_number = false;
    for &byte in sql {
        if byte.is_ascii_digit() && !in_string && !in_name {
            if !in_number {
                into[length] = b'0';
                length += 1;
                in_number = true;
            }
            continue;
        }
        match byte {
            b'"' => return None,
            b'\'' => in_string = !in_string,
            _ => {}
        }
        in_number = false;
        in_name = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        into[length] = byte;
        length += 1;
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sql: &str) -> Option<Vec<u8>> {
        let mut buffer = [0; LONGEST];
        normalize(sql.as_bytes(), &mut buffer).map(|length| buffer[..length].to_vec())
    }

    #[test]
    fn numbers_do_not_matter_and_everything_else_does() {
        assert_eq!(shape("SELECT a FROM t WHERE id = 4711"), shape("SELECT a FROM t WHERE id = 7"));
        for (one, other) in [
            ("SELECT a FROM t1", "SELECT a FROM t2"),
            ("SELECT nextval('s1')", "SELECT nextval('s2')"),
            ("SELECT nextval('s 1')", "SELECT nextval('s 2')"),
            ("SELECT $1", "SELECT $2"),
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
