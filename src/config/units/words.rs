//! Words: settings that take one of a few, and the log's filter.

use std::marker::PhantomData;

use super::{Scalar, Unit, quoted, text};
use crate::config::{AuthType, Facility, Listen, ListenerLost, LoadBalance, Pin, PoolMode, Reset};

/// One word of a fixed few.
pub(in crate::config) struct Word<T>(PhantomData<T>);

/// The words of a [`Word`].
pub(in crate::config) trait Words: Sized + Copy + PartialEq + 'static {
    /// The kind, as the documentation names it.
    const KIND: &'static str;
    /// Every word and its meaning.
    const ALL: &'static [(&'static str, Self)];
}

impl<T: Words> Unit for Word<T> {
    type Value = T;
    const KIND: &'static str = T::KIND;

    fn read(scalar: &Scalar) -> Result<T, String> {
        let word = match scalar {
            Scalar::Text(text) => text.to_ascii_lowercase(),
            _ => String::new(),
        };
        if let Some((_, value)) = T::ALL.iter().find(|(name, _)| *name == word) {
            return Ok(*value);
        }
        let names: Vec<String> = T::ALL.iter().map(|(name, _)| format!("{name:?}")).collect();
        Err(format!("{scalar} is not known; write one of {}", names.join(", ")))
    }

    fn write(value: &T) -> Option<String> {
        T::ALL.iter().find(|(_, known)| known == value).map(|(name, _)| quoted(name))
    }
}

impl Words for PoolMode {
    const KIND: &'static str = "`\"session\"`, `\"transaction\"` or `\"statement\"`";
    const ALL: &'static [(&'static str, Self)] =
        &[("session", Self::Session), ("transaction", Self::Transaction), ("statement", Self::Statement)];
}

impl Words for AuthType {
    const KIND: &'static str = "`\"scram-sha-256\"`, `\"md5\"`, `\"password\"` (or `\"plain\"`), `\"peer\"`, \
        `\"cert\"`, `\"ldap\"`, `\"pam\"`, `\"trust\"`, `\"any\"`, `\"reject\"` or `\"hba\"`";
    const ALL: &'static [(&'static str, Self)] = &[
        ("scram-sha-256", Self::ScramSha256),
        ("md5", Self::Md5),
        ("password", Self::Password),
        ("plain", Self::Password),
        ("peer", Self::Peer),
        ("cert", Self::Certificate),
        ("ldap", Self::Ldap),
        ("pam", Self::Pam),
        ("trust", Self::Trust),
        ("any", Self::Any),
        ("reject", Self::Reject),
        ("hba", Self::Hba),
    ];
}

impl Words for Reset {
    const KIND: &'static str = "`\"auto\"`, `\"always\"` or `\"never\"`";
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
}

impl Words for Pin {
    const KIND: &'static str = "`\"allow\"` or `\"refuse\"`";
    const ALL: &'static [(&'static str, Self)] = &[("allow", Self::Allow), ("refuse", Self::Refuse)];
}

impl Words for LoadBalance {
    const KIND: &'static str = "`\"round-robin\"` or `\"disable\"`";
    const ALL: &'static [(&'static str, Self)] =
        &[("disable", Self::Disable), ("round-robin", Self::RoundRobin)];
}

impl Words for Facility {
    const KIND: &'static str =
        "`\"auth\"`, `\"authpriv\"`, `\"daemon\"`, `\"user\"`, `\"local0\"` to `\"local7\"`";
    const ALL: &'static [(&'static str, Self)] = &[
        ("auth", Self::Auth),
        ("authpriv", Self::AuthPriv),
        ("daemon", Self::Daemon),
        ("user", Self::User),
        ("local0", Self::Local0),
        ("local1", Self::Local1),
        ("local2", Self::Local2),
        ("local3", Self::Local3),
        ("local4", Self::Local4),
        ("local5", Self::Local5),
        ("local6", Self::Local6),
        ("local7", Self::Local7),
    ];
}

impl Words for Listen {
    const KIND: &'static str = "`\"shared\"` or `\"pin\"`";
    const ALL: &'static [(&'static str, Self)] = &[("shared", Self::Shared), ("pin", Self::Pin)];
}

impl Words for ListenerLost {
    const KIND: &'static str = "`\"end\"` or `\"keep\"`";
    const ALL: &'static [(&'static str, Self)] = &[("end", Self::End), ("keep", Self::Keep)];
}

/// Whether the log is JSON.
pub(in crate::config) struct LogFormat;

impl Unit for LogFormat {
    type Value = bool;
    const KIND: &'static str = "`\"text\"` or `\"json\"`";

    fn read(scalar: &Scalar) -> Result<bool, String> {
        match scalar {
            Scalar::Text(text) if text == "text" => Ok(false),
            Scalar::Text(text) if text == "json" => Ok(true),
            _ => Err(format!(r#"{scalar} is not known; write one of "text", "json""#)),
        }
    }

    fn write(json: &bool) -> Option<String> {
        Some(quoted(if *json { "json" } else { "text" }))
    }
}

/// A filter for `tracing`.
pub(in crate::config) struct LogLevel;

impl Unit for LogLevel {
    type Value = String;
    const KIND: &'static str = "log filter";

    fn read(scalar: &Scalar) -> Result<String, String> {
        let how = r#"write "error", "warn", "info", "debug" or "trace", or a filter such as "info,pgvalet::pool=debug""#;
        let text = text(scalar)?;
        // A bare word that is no level would be taken as the name of a module and silence everything else.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let plain = text.split(',').all(|part| part.contains('=') || levels.contains(&part.trim()));
        // The filter's own parser panics on some text that is not ASCII (tracing-subscriber 0.3.23).
        if !plain || !text.is_ascii() || tracing_subscriber::EnvFilter::try_new(text).is_err() {
            return Err(format!("{scalar} is not a log filter; {how}"));
        }
        Ok(text.to_owned())
    }

    fn write(value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(value: &str) -> Scalar {
        Scalar::Text(value.into())
    }

    #[test]
    fn words_are_listed_when_one_is_wrong() {
        assert_eq!(Word::<PoolMode>::read(&word("Session")), Ok(PoolMode::Session));
        assert!(Word::<PoolMode>::read(&word("fast")).unwrap_err().contains(r#""session", "transaction""#));
        assert_eq!(Word::<AuthType>::read(&word("ldap")), Ok(AuthType::Ldap));
    }

    #[test]
    fn a_log_filter_is_a_level_or_directives() {
        assert!(LogLevel::read(&word("info")).is_ok());
        assert!(LogLevel::read(&word("warn,pgvalet::pool=debug")).is_ok());
        assert!(LogLevel::read(&word("inof")).is_err());
        assert!(LogLevel::read(&word("a=b=c")).is_err());
    }
}
