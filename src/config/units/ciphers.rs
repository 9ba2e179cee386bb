//! OpenSSL's language for lists of ciphers, as far as it says something about the suites that pgvalet has.
//!
//! pgbouncer.ini files have lists such as `HIGH:!aNULL:!MD5`. Here every suite of TLS 1.2 agrees a key by ECDHE and encrypts
//! with AES-GCM or ChaCha20, so most words mean all of them or none; an order is not kept.

use crate::config::tls;

/// Words for what none of the suites has.
const ABSENT: [&str; 38] = [
    "ANULL", "ENULL", "NULL", "EXP", "EXPORT", "LOW", "MEDIUM", "DES", "3DES", "RC2", "RC4", "MD5", "SHA",
    "SHA1", "PSK", "SRP", "CAMELLIA", "SEED", "IDEA", "ARIA", "DSS", "ADSS", "KRSA", "DH", "DHE", "EDH",
    "KEDH", "KDHE", "ADH", "AECDH", "ECDH", "AESCCM", "AESCCM8", "GOST", "KGOST", "AGOST", "SSLV3", "TLSV1",
];

/// The suites of TLS 1.2 that a list of OpenSSL's selects, by their names in the standards; `None` if it is no such list.
pub(super) fn selected(text: &str) -> Option<Vec<String>> {
    let all = tls::suite_names(false);
    let mut chosen: Vec<String> = Vec::new();
    for word in text.split([':', ',', ' ', ';']).filter(|word| !word.is_empty()) {
        let matching = |word: &str| -> Option<Vec<String>> {
            let parts: Vec<fn(&str) -> bool> = word.split('+').map(part).collect::<Option<_>>()?;
            Some(all.iter().filter(|name| parts.iter().all(|part| part(name))).cloned().collect())
        };
        match word.split_at(1) {
            // Strength and security levels only order, or shut out what is not there.
            ("@", _) => {}
            ("!" | "-", word) => {
                let gone = matching(word)?;
                chosen.retain(|name| !gone.contains(name));
            }
            ("+", word) => drop(matching(word)?),
            _ => {
                for name in matching(word)? {
                    if !chosen.contains(&name) {
                        chosen.push(name);
                    }
                }
            }
        }
    }
    Some(chosen)
}

/// What one word says of a suite; `None` if it is not known.
fn part(word: &str) -> Option<fn(&str) -> bool> {
    Some(match word.to_ascii_uppercase().as_str() {
        "ALL" | "DEFAULT" | "HIGH" | "SECURE" | "NORMAL" | "FAST" | "AEAD" | "TLSV1.2" | "EECDH"
        | "KEECDH" | "ECDHE" | "KECDHE" => |_| true,
        "AES" | "AESGCM" => |name| name.contains("_AES_"),
        "AES128" => |name| name.contains("_AES_128_"),
        "AES256" => |name| name.contains("_AES_256_"),
        "CHACHA20" => |name| name.contains("_CHACHA20_"),
        "SHA256" => |name| name.ends_with("_SHA256"),
        "SHA384" => |name| name.ends_with("_SHA384"),
        "ARSA" | "RSA" => |name| name.contains("_RSA_"),
        "AECDSA" | "ECDSA" => |name| name.contains("_ECDSA_"),
        "COMPLEMENTOFDEFAULT" | "COMPLEMENTOFALL" => |_| false,
        word if ABSENT.contains(&word) => |_| false,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Option<usize> {
        selected(text).map(|names| names.len())
    }

    #[test]
    fn what_shuts_out_the_weak_selects_all_that_there_are() {
        let all = tls::suite_names(false).len();
        for text in [
            "HIGH:!aNULL:!MD5",
            "HIGH:MEDIUM:+3DES:!aNULL",
            "DEFAULT:@STRENGTH",
            "EECDH+AESGCM:EECDH+CHACHA20",
            "ALL:!ADH:!LOW:!EXP",
        ] {
            assert_eq!(count(text), Some(all), "{text}");
        }
    }

    #[test]
    fn what_is_asked_for_or_shut_out_counts() {
        let of = |text: &str| selected(text).unwrap();
        assert!(of("HIGH:!AES128").iter().all(|name| !name.contains("AES_128")));
        assert_eq!(of("HIGH:-ECDSA"), of("aRSA"));
        assert_eq!(of("ECDHE+AESGCM+aRSA").len(), 2);
        assert_eq!(count("RC4:3DES"), Some(0));
        assert_eq!(count("HIGH:nonsense"), None);
    }
}
