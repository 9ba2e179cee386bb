//! Values that pgbouncer reads more loosely than pgvalet, made into what pgvalet's settings take.
//!
//! Owns those of `[pgbouncer]` whose meaning is clear though they are written otherwise than here, and those that mean less
//! here than they say, each with the reason. What is still wrong with a value is for the setting itself to tell.

use std::borrow::Cow;
use std::time::Duration;

use super::units::{Scalar, Time, Unit};

const USED_ONCE: &str =
    "0 has no meaning here: a server is not closed after one use, but when it is a second old and free";
const WITHOUT_A_PAUSE: &str = "0 would be done again without a pause; taken as one second";
const UNSAFE_VERSIONS: &str =
    "TLS 1.0 and 1.1 have no meaning here: they are not safe; the newer versions are used";

/// `value` of the general setting `key` as pgvalet takes it, and a warning where that is not all that it says.
pub(super) fn general<'a>(key: &str, value: &'a str) -> (Cow<'a, str>, Option<&'static str>) {
    match key {
        "admin_users" | "stats_users" | "ignore_startup_parameters" => (names(value).into(), None),
        "client_tls_protocols" | "server_tls_protocols" => versions(value),
        "server_lifetime" if is_zero(value) => ("1s".into(), Some(USED_ONCE)),
        "stats_period" | "server_login_retry" if is_zero(value) => ("1s".into(), Some(WITHOUT_A_PAUSE)),
        _ => (value.into(), None),
    }
}

fn is_zero(value: &str) -> bool {
    Time::read(&Scalar::Text(value.to_owned())) == Ok(Duration::ZERO)
}

/// Names between which there are commas or spaces, any number of them.
fn names(value: &str) -> String {
    let names = value.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
    names.collect::<Vec<_>>().join(",")
}

/// Versions of TLS between commas or colons; `!` takes one away. Unchanged if a word is not known or no safe version is left.
fn versions(value: &str) -> (Cow<'_, str>, Option<&'static str>) {
    const SAFE: u8 = 0b1100;
    const ALL: u8 = 0b1111;
    let unchanged = (value.into(), None);
    if value.is_empty() {
        return ("secure".into(), None);
    }
    let (mut versions, mut names_unsafe) = (0, false);
    for word in value.split([',', ':']).map(str::trim) {
        let (word, taken_away) = word.strip_prefix('!').map_or((word, false), |word| (word, true));
        let meant = match word.to_ascii_lowercase().as_str() {
            "all" | "legacy" => ALL,
            "secure" | "default" => SAFE,
            "tlsv1" => ALL,
            "tlsv1.0" => 0b0001,
            "tlsv1.1" => 0b0010,
            "tlsv1.2" => 0b0100,
            "tlsv1.3" => 0b1000,
            _ => return unchanged,
        };
        if taken_away {
            versions = if versions == 0 { ALL } else { versions } & !meant;
        } else {
            names_unsafe |= word.starts_with(['t', 'T']) && meant & !SAFE != 0;
            versions |= meant;
        }
    }
    let safe = match versions & SAFE {
        SAFE => "secure",
        0b0100 => "tlsv1.2",
        0b1000 => "tlsv1.3",
        _ => return unchanged,
    };
    (safe.into(), names_unsafe.then_some(UNSAFE_VERSIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_have_commas_or_spaces() {
        for (written, meant) in [("a b", "a,b"), (" a\tb,,c , d,", "a,b,c,d"), ("", ""), ("a", "a")] {
            assert_eq!(general("admin_users", written), (meant.into(), None), "{written:?}");
        }
        assert_eq!(general("server_check_query", "a b").0, "a b");
    }

    #[test]
    fn versions_are_those_that_are_safe() {
        for (written, meant, told) in [
            ("secure", "secure", false),
            ("all", "secure", false),
            ("default", "secure", false),
            ("", "secure", false),
            ("TLSv1.2", "tlsv1.2", false),
            ("tlsv1.2:tlsv1.3", "secure", false),
            ("secure:!tlsv1.3", "tlsv1.2", false),
            ("!tlsv1.0", "secure", false),
            ("all, !tlsv1.0, !tlsv1.1", "secure", false),
            ("tlsv1.0,tlsv1.1,tlsv1.2", "tlsv1.2", true),
            ("tlsv1", "secure", true),
            // For the setting to refuse.
            ("tlsv1.0", "tlsv1.0", false),
            ("tlsv1.2 tlsv1.3", "tlsv1.2 tlsv1.3", false),
        ] {
            let (value, why) = general("server_tls_protocols", written);
            assert_eq!((&*value, why.is_some()), (meant, told), "{written:?}");
        }
    }
}
