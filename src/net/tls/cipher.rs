//! What a connection is encrypted with, as those who look are told.
//!
//! Every client and server carries this, so it is one byte: the number of a combination, of which a process sees few.

use rustls::{CipherSuite, Connection, NamedGroup, ProtocolVersion};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Version, suite and key exchange of a connection; of one in the clear, none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cipher(u8);

/// Version, suite and group, by their numbers in the protocol; 0 for a group that is not known.
type Combination = [u16; 3];

/// Those that were seen, by number less one.
static SEEN: Mutex<Vec<Combination>> = Mutex::new(Vec::new());

impl Cipher {
    /// What a connection has negotiated.
    #[must_use]
    pub fn of(session: &Connection) -> Cipher {
        let (Some(version), Some(suite)) = (session.protocol_version(), session.negotiated_cipher_suite())
        else {
            return Cipher::default();
        };
        let group = session.negotiated_key_exchange_group().map_or(0, |group| group.name().into());
        Cipher::numbered([version.into(), suite.suite().into(), group])
    }

    fn numbered(combination: Combination) -> Cipher {
        let mut seen = seen();
        let place = seen.iter().position(|known| *known == combination).unwrap_or_else(|| {
            seen.push(combination);
            seen.len() - 1
        });
        // There are not so many.
        Cipher(u8::try_from(place + 1).unwrap_or_default())
    }
}

/// As OpenSSL names it, and so pgbouncer: `TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519`; nothing for a connection in the clear.
impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.checked_sub(1).and_then(|place| seen().get(usize::from(place)).copied());
        let Some([version, suite, group]) = known else { return Ok(()) };
        let suite = format!("{:?}", CipherSuite::from(suite));
        match ProtocolVersion::from(version) {
            ProtocolVersion::TLSv1_3 => write!(f, "TLSv1.3/{}", suite.replace("TLS13_", "TLS_"))?,
            _ => {
                let name = suite.replace("TLS_", "").replace("_WITH_", "_").replace("AES_", "AES");
                write!(f, "TLSv1.2/{}", name.replace("POLY1305_SHA256", "POLY1305").replace('_', "-"))?;
            }
        }
        if group != 0 {
            write!(f, "/ECDH={:?}", NamedGroup::from(group))?;
        }
        Ok(())
    }
}

fn seen() -> MutexGuard<'static, Vec<Combination>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_openssls_names() {
        let shown = |version: ProtocolVersion, suite: CipherSuite, group: u16| {
            Cipher::numbered([version.into(), suite.into(), group]).to_string()
        };
        let (old, new) = (ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
        let x25519 = NamedGroup::X25519.into();
        assert_eq!(
            shown(new, CipherSuite::TLS13_AES_256_GCM_SHA384, x25519),
            "TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519"
        );
        assert_eq!(
            shown(old, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, x25519),
            "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=X25519"
        );
        assert_eq!(
            shown(old, CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, 0),
            "TLSv1.2/ECDHE-RSA-CHACHA20-POLY1305"
        );
        assert_eq!(Cipher::default().to_string(), "");
        let again = || Cipher::numbered([1, 2, 3]);
        assert_eq!(again(), again());
    }
}
