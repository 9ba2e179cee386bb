//! What pgbouncer has and pgvalet does not: why, and whether that may be passed over.
//!
//! Owns that one list. A setting leaves it when pgvalet learns it.

/// What to do about a setting that pgvalet does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It asks for what happens anyway.
    Harmless,
    /// It is passed over, with a warning that says why.
    Told(&'static str),
}

const DNS: &str =
    "has no meaning here: names are resolved by the system, at each connect and every dns_max_ttl";

/// Settings of `[pgbouncer]` that pgvalet lacks: name, the values that ask for nothing (with commas between them), why.
#[rustfmt::skip] // a table
const GENERAL: &[(&str, &str, &str)] = &[
    ("conffile", "", "has no meaning here: a reload reads the file that was named at the start"),
    ("job_name", "pgbouncer", "has no meaning here: syslog_ident names the program in syslog"),
    ("service_name", "pgbouncer", "has no meaning here: syslog_ident names the program in syslog"),
    ("resolv_conf", "", DNS),
    ("dns_nxdomain_ttl", "15", DNS),
    ("dns_zone_check_period", "0", DNS),
    ("track_extra_parameters", "IntervalStyle,", "has no meaning here: every setting of a session follows its client"),
    ("suspend_timeout", "10", "has no meaning here: pgvalet has no SUSPEND"),
    ("pkt_buf", "4096", "has no meaning here: buffers are sized by their use"),
    ("max_packet_size", "2147483647", "has no meaning here: messages stream through and are never gathered"),
    ("sbuf_loopcnt", "5", "has no meaning here: a busy client yields to others anyway"),
    ("tcp_defer_accept", "0,45,1", "has no meaning here: waiting logins cost little"),
    ("client_tls_ecdhcurve", "auto", "has no meaning here: all curves that are safe are offered"),
    ("client_tls_dheparams", "none,legacy,auto", "has no meaning here: there is no key exchange that needs parameters"),
];

/// Limits of a database or user that are unset when 0: the general setting holds.
const ZERO_IS_UNSET: [&str; 3] = ["max_db_connections", "max_user_connections", "server_lifetime"];

/// Settings of a database or user that are unset when -1.
const MINUS_ONE_IS_UNSET: [&str; 8] = [
    "query_wait_timeout",
    "pool_size",
    "min_pool_size",
    "reserve_pool_size",
    "max_db_connections",
    "max_db_client_connections",
    "max_user_connections",
    "max_user_client_connections",
];

/// What to do about `key = value` of `[pgbouncer]`; `None` if it is a setting of pgvalet, or of nobody.
pub(super) fn general(key: &str, value: &str) -> Option<Missing> {
    let (_, harmless, why) = GENERAL.iter().find(|(name, ..)| *name == key)?;
    let harmless =
        value.is_empty() || harmless.split(',').any(|harmless| harmless.eq_ignore_ascii_case(value));
    Some(if harmless { Missing::Harmless } else { Missing::Told(why) })
}

/// Whether `key = value` of a database or user leaves the general setting in force.
pub(super) fn is_unset(key: &str, value: &str) -> bool {
    value == "-1" && MINUS_ONE_IS_UNSET.contains(&key) || value == "0" && ZERO_IS_UNSET.contains(&key)
}

/// Why pgvalet does not have `key`, if pgbouncer does.
pub(super) fn why(key: &str) -> Option<&'static str> {
    if key == "server_reset_query_always" {
        return Some("here it is reset = \"always\"");
    }
    GENERAL.iter().find(|(name, ..)| *name == key).map(|(.., why)| *why)
}

/// The settings of `[pgbouncer]` that pgvalet lacks, with pgbouncer's defaults. `conffile` is shown as what is in force.
pub(super) fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    GENERAL
        .iter()
        .filter(|(name, ..)| *name != "conffile")
        .map(|(name, harmless, _)| (*name, harmless.rsplit(',').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings;

    #[test]
    fn nothing_is_missing_that_the_settings_have() {
        let known: Vec<&str> = settings::general().map(|about| about.name).collect();
        for (name, ..) in GENERAL {
            assert!(!known.contains(name), "{name}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_passed_over_in_silence() {
        assert_eq!(general("pkt_buf", "4096"), Some(Missing::Harmless));
        assert!(matches!(general("pkt_buf", "8192"), Some(Missing::Told(_))));
        assert_eq!(general("pool_mode", "session"), None);
    }
}
