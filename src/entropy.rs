//! Random bytes that peers see: nonces, salts, secrets of cancel requests.
//!
//! A login needs a few of them two or three times, and asking the system costs more than they do; so each thread takes a supply
//! at a time. Invariants: every byte comes from the system and is given out once; what was given out is wiped from the supply.

use std::cell::RefCell;
use zeroize::Zeroize;

/// What is taken at a time.
const SUPPLY: usize = 256;

thread_local! {
    static LEFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Fills `into` with random bytes.
///
/// # Errors
/// The system has none.
pub fn fill(into: &mut [u8]) -> Result<(), getrandom::Error> {
    if into.len() > SUPPLY {
        return getrandom::fill(into);
    }
    LEFT.with_borrow_mut(|left| {
        if left.len() < into.len() {
            left.resize(SUPPLY, 0);
            if let Err(error) = getrandom::fill(left) {
                left.zeroize();
                return Err(error);
            }
        }
        let rest = left.len() - into.len();
        into.copy_from_slice(&left[rest..]);
        left[rest..].zeroize();
        left.truncate(rest);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_byte_is_given_out_twice() {
        let mut seen = HashSet::new();
        for size in [18, 4, 32, 18, SUPPLY, SUPPLY + 1, 8].repeat(20) {
            let mut bytes = vec![0; size];
            fill(&mut bytes).unwrap();
            // Stretches of one supply would repeat if it were given out from its beginning again.
            let fresh = bytes.windows(8).map(<[u8]>::to_vec).collect::<Vec<_>>();
            assert!(fresh.into_iter().all(|stretch| seen.insert(stretch)), "{size}");
        }
    }

    #[test]
    fn what_was_given_out_is_not_kept() {
        fill(&mut [0; 100]).unwrap();
        LEFT.with_borrow(|left| assert!(left.len() < SUPPLY));
    }
}
