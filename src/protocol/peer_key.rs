//! Cancel keys that say which of several processes behind one address they belong to, in pgbouncer's format.
//!
//! Of the eight bytes of a key (process id and secret as BackendKeyData has them) the second and the third are the number of
//! the process, low byte first; the two lowest bits of the last byte are how often the request may still be passed on. The
//! first bit is zero, as process ids are positive. All others are random.

/// The highest number that a process can have.
pub const MAX_PEER_ID: u16 = 16_383;
/// Where the key says how often it may be passed on.
const HOPS: u8 = 0b11;

/// The key of a client of the process `peer_id`, made of eight random bytes: process id and secret.
#[must_use]
pub fn stamp(peer_id: u16, mut random: [u8; 8]) -> (i32, [u8; 4]) {
    random[0] &= 0x7f;
    [random[1], random[2]] = peer_id.to_le_bytes();
    random[7] |= HOPS;
    let [a, b, c, d, secret @ ..] = random;
    (i32::from_be_bytes([a, b, c, d]), secret)
}

/// The process that a key of this process id belongs to.
#[must_use]
pub fn peer_of(pid: i32) -> u16 {
    let [_, low, high, _] = pid.to_be_bytes();
    u16::from_le_bytes([low, high])
}

/// The secret as it is passed on; `None` if it was passed on too often, or is none of such a key.
#[must_use]
pub fn passed_on(secret: &[u8]) -> Option<[u8; 4]> {
    let mut secret: [u8; 4] = secret.try_into().ok()?;
    if secret[3] & HOPS == 0 {
        return None;
    }
    secret[3] -= 1;
    Some(secret)
}

/// The secret as the client was told it, however often the request was passed on.
#[must_use]
pub fn settled(secret: &[u8]) -> Vec<u8> {
    let mut secret = secret.to_vec();
    if let Some(last) = secret.get_mut(3) {
        *last |= HOPS;
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_where_pgbouncer_has_them() {
        let (pid, secret) = stamp(0x1234, [0xff, 0, 0, 0xee, 1, 2, 3, 0]);
        assert_eq!(pid.to_be_bytes(), [0x7f, 0x34, 0x12, 0xee]);
        assert_eq!(secret, [1, 2, 3, 3]);
    }

    proptest! {
        #[test]
        fn a_key_names_its_process_and_is_passed_on_three_times(peer in 1..=MAX_PEER_ID, random: [u8; 8]) {
            let (pid, secret) = stamp(peer, random);
            prop_assert!(pid >= 0);
            prop_assert_eq!(peer_of(pid), peer);
            let mut shown = secret;
            for _ in 0..3 {
                shown = passed_on(&shown).unwrap();
                prop_assert_eq!(settled(&shown), secret);
            }
            prop_assert_eq!(passed_on(&shown), None);
        }
    }
}
