//! The values of settings: how each kind is read from a file, and how it is written in TOML.
//!
//! Owns one [`Unit`] for each kind of value (a duration, a limit, a list of hosts, ...). Both file formats end here: TOML
//! gives typed scalars, an ini gives text only, so every unit reads text as well. A message says what was found and what
//! would be right, without the name of the setting, which the caller adds.
//!
//! Invariant: what `write` gives, `read` takes back to an equal value.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Secret;

mod ciphers;
mod net;
mod time;
mod tls;
mod words;

pub(in crate::config) use net::{Addresses, Hosts, OptionalAddress, PeerId};
pub(in crate::config) use time::{MillisLimit, Pause, Time, TimeLimit};
pub(in crate::config) use tls::{Protocols, Roots, Suites};
pub(in crate::config) use words::{LogFormat, LogLevel, Word};

/// A value as it stands in a file, before anybody knows what it means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(in crate::config) enum Scalar {
    Flag(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Scalar>),
    /// A table or a date, which no setting takes.
    Other(serde::de::IgnoredAny),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Other(_) => f.write_str("a table or date"),
        }
    }
}

/// One kind of value.
pub(in crate::config) trait Unit {
    /// What the program works with.
    type Value;
    /// The kind, as the documentation names it.
    const KIND: &'static str;
    /// Reads a value; the error says what was found and what would be right.
    fn read(scalar: &Scalar) -> Result<Self::Value, String>;
    /// Writes a value in TOML; `None` where it is unset.
    fn write(value: &Self::Value) -> Option<String>;
}

/// An override: unset, or a value of the unit.
pub(in crate::config) struct Maybe<U>(PhantomData<U>);

impl<U: Unit> Unit for Maybe<U> {
    type Value = Option<U::Value>;
    const KIND: &'static str = U::KIND;

    fn read(scalar: &Scalar) -> Result<Self::Value, String> {
        U::read(scalar).map(Some)
    }

    fn write(value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(U::write)
    }
}

/// A whole number from `MIN` up.
pub(in crate::config) struct Number<const MIN: u32>;

impl<const MIN: u32> Unit for Number<MIN> {
    type Value = u32;
    const KIND: &'static str = "number";

    fn read(scalar: &Scalar) -> Result<u32, String> {
        whole(scalar, MIN, u32::MAX, "such as 20")
    }

    fn write(value: &u32) -> Option<String> {
        Some(value.to_string())
    }
}

/// A count that may be unlimited, written as 0.
pub(in crate::config) struct Limit;

impl Unit for Limit {
    type Value = Option<u32>;
    const KIND: &'static str = "number";

    fn read(scalar: &Scalar) -> Result<Option<u32>, String> {
        whole(scalar, 0, u32::MAX, "such as 20, or 0 for no limit").map(|count| (count > 0).then_some(count))
    }

    fn write(value: &Option<u32>) -> Option<String> {
        Some(value.unwrap_or(0).to_string())
    }
}

/// A TCP port from `MIN` up.
pub(in crate::config) struct Port<const MIN: u32>;

impl<const MIN: u32> Unit for Port<MIN> {
    type Value = u16;
    const KIND: &'static str = "port";

    fn read(scalar: &Scalar) -> Result<u16, String> {
        let port = whole(scalar, MIN, u32::from(u16::MAX), "such as 5432")?;
        u16::try_from(port).map_err(|_| format!("{port} is not a port; write a number up to 65535"))
    }

    fn write(value: &u16) -> Option<String> {
        Some(value.to_string())
    }
}

/// A number of threads, or `auto`.
pub(in crate::config) struct Workers;

impl Unit for Workers {
    type Value = usize;
    const KIND: &'static str = "number or `\"auto\"`";

    fn read(scalar: &Scalar) -> Result<usize, String> {
        if matches!(scalar, Scalar::Text(text) if text == "auto") {
            // Measured: docs/architecture.md, "Workers".
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
            return Ok(cores.div_ceil(2).min(1024));
        }
        let count = whole(scalar, 1, 1024, r#"such as 4, or "auto" for one a core"#)?;
        usize::try_from(count).map_err(|_| format!("{count} is too many threads"))
    }

    fn write(value: &usize) -> Option<String> {
        Some(value.to_string())
    }
}

/// Yes or no.
pub(in crate::config) struct Flag;

impl Unit for Flag {
    type Value = bool;
    const KIND: &'static str = "true or false";

    fn read(scalar: &Scalar) -> Result<bool, String> {
        match scalar {
            Scalar::Flag(value) => return Ok(*value),
            Scalar::Integer(0) => return Ok(false),
            Scalar::Integer(1) => return Ok(true),
            Scalar::Text(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => return Ok(true),
                "0" | "false" | "no" | "off" => return Ok(false),
                _ => {}
            },
            _ => {}
        }
        Err(format!("{scalar} is neither true nor false; write true or false"))
    }

    fn write(value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// Text that is taken as it is.
pub(in crate::config) struct Text;

impl Unit for Text {
    type Value = String;
    const KIND: &'static str = "text";

    fn read(scalar: &Scalar) -> Result<String, String> {
        text(scalar).map(str::to_owned)
    }

    fn write(value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// Text where the empty one means "none".
pub(in crate::config) struct OptionalText;

impl Unit for OptionalText {
    type Value = Option<String>;
    const KIND: &'static str = "text";

    fn read(scalar: &Scalar) -> Result<Option<String>, String> {
        text(scalar).map(|text| (!text.is_empty()).then(|| text.to_owned()))
    }

    fn write(value: &Option<String>) -> Option<String> {
        Some(quoted(value.as_deref().unwrap_or("")))
    }
}

/// A query to check servers with: `<empty>` is the empty query, the empty text is none.
pub(in crate::config) struct CheckQuery;

impl Unit for CheckQuery {
    type Value = Option<String>;
    const KIND: &'static str = "query";

    fn read(scalar: &Scalar) -> Result<Option<String>, String> {
        Ok(match text(scalar)? {
            "" => None,
            "<empty>" => Some(String::new()),
            query => Some(query.to_owned()),
        })
    }

    fn write(value: &Option<String>) -> Option<String> {
        Some(quoted(match value.as_deref() {
            None => "",
            Some("") => "<empty>",
            Some(query) => query,
        }))
    }
}

/// Names, as a TOML array or with commas between them.
pub(in crate::config) struct Names;

impl Unit for Names {
    type Value = Vec<String>;
    const KIND: &'static str = "list of names";

    fn read(scalar: &Scalar) -> Result<Vec<String>, String> {
        items(scalar, r#"names such as ["alice", "bob"]"#)
    }

    fn write(value: &Vec<String>) -> Option<String> {
        Some(written_list(value))
    }
}

/// Permissions of a file, in octal.
pub(in crate::config) struct FileMode;

impl Unit for FileMode {
    type Value = u32;
    const KIND: &'static str = "octal, as text";

    fn read(scalar: &Scalar) -> Result<u32, String> {
        // A bare number is refused: 777 would be taken as decimal, silently giving other permissions.
        match scalar {
            Scalar::Text(text) => u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777),
            _ => None,
        }
        .ok_or_else(|| {
            format!(r#"{scalar} is not a file mode; write an octal number in quotes such as "0777""#)
        })
    }

    fn write(value: &u32) -> Option<String> {
        Some(quoted(&format!("{value:04o}")))
    }
}

/// An absolute directory; the empty text means none.
pub(in crate::config) struct Directory;

impl Unit for Directory {
    type Value = Option<PathBuf>;
    const KIND: &'static str = "directory";

    fn read(scalar: &Scalar) -> Result<Option<PathBuf>, String> {
        let text = text(scalar)?;
        if text.is_empty() {
            return Ok(None);
        }
        let is_abstract = text.starts_with('@') && text.len() > 1;
        if !Path::new(text).is_absolute() && !is_abstract {
            return Err(format!(r#"{text:?} is not an absolute path; write one such as "/run/pgvalet""#));
        }
        Ok(Some(text.into()))
    }

    fn write(value: &Option<PathBuf>) -> Option<String> {
        Some(quoted(&value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()))
    }
}

/// A file; the empty text means none. Relative paths are made absolute by whoever knows what they are relative to.
pub(in crate::config) struct File;

impl Unit for File {
    type Value = Option<PathBuf>;
    const KIND: &'static str = "file";

    fn read(scalar: &Scalar) -> Result<Option<PathBuf>, String> {
        text(scalar).map(|text| (!text.is_empty()).then(|| text.into()))
    }

    fn write(value: &Option<PathBuf>) -> Option<String> {
        Directory::write(value)
    }
}

/// A secret together with the text that it was read from, which `convert` needs.
#[derive(Clone, PartialEq)]
pub(in crate::config) struct Password {
    pub(in crate::config) secret: Secret,
    text: String,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Unit for Password {
    type Value = Password;
    const KIND: &'static str = "secret";

    fn read(scalar: &Scalar) -> Result<Password, String> {
        // The value stays out of every message: logs are read by more people than secrets are for.
        let Scalar::Text(text) = scalar else {
            return Err("a secret is text; write it in quotes".into());
        };
        let secret = Secret::parse(text).map_err(|error| error.to_string())?;
        Ok(Password { secret, text: text.clone() })
    }

    fn write(value: &Password) -> Option<String> {
        Some(quoted(&value.text))
    }
}

/// `value` as a TOML string.
pub(in crate::config) fn quoted(value: &str) -> String {
    toml::Value::from(value).to_string()
}

/// `name` as a quoted TOML key.
pub(in crate::config) fn quoted_key(name: &str) -> String {
    let table = toml::Table::from_iter([(name.to_owned(), 0.into())]).to_string();
    table.trim_end().trim_end_matches('0').trim_end().trim_end_matches('=').trim_end().to_owned()
}

fn written_list(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn text(scalar: &Scalar) -> Result<&str, String> {
    match scalar {
        Scalar::Text(text) => Ok(text),
        _ => Err(format!("{scalar} is not text; write it in quotes")),
    }
}

fn items(scalar: &Scalar, how: &str) -> Result<Vec<String>, String> {
    let split = |text: &str| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>();
    let items = match scalar {
        Scalar::Text(text) if text.trim().is_empty() => Vec::new(),
        Scalar::Text(text) => split(text),
        Scalar::List(list) => {
            let items: Result<Vec<String>, String> =
                list.iter().map(|item| text(item).map(str::to_owned)).collect();
            items?
        }
        _ => return Err(format!("{scalar} is not a list; write {how}")),
    };
    if items.iter().any(String::is_empty) {
        return Err(format!("it has an empty item; write {how}"));
    }
    Ok(items)
}

fn whole(scalar: &Scalar, min: u32, max: u32, how: &str) -> Result<u32, String> {
    let number = match scalar {
        Scalar::Integer(number) => Some(*number),
        Scalar::Text(text) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        return Err(format!("{scalar} is not a number; write a whole number {how}"));
    };
    u32::try_from(number)
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("{number} is out of range; write a whole number from {min} to {max} {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.into())
    }

    #[test]
    fn zero_is_no_limit() {
        assert_eq!(Limit::read(&Scalar::Integer(0)), Ok(None));
        assert_eq!(Limit::read(&text("7")), Ok(Some(7)));
        assert_eq!(TimeLimit::read(&text("0")), Ok(None));
        assert_eq!(TimeLimit::read(&text("0ms")), Ok(None));
    }

    #[test]
    fn numbers_say_what_would_be_right() {
        assert_eq!(
            Limit::read(&text("many")).unwrap_err(),
            r#""many" is not a number; write a whole number such as 20, or 0 for no limit"#
        );
        assert!(Number::<1>::read(&Scalar::Integer(0)).unwrap_err().contains("from 1 to"));
        assert!(Number::<0>::read(&Scalar::Integer(i64::MAX)).is_err());
        assert!(Port::<1>::read(&Scalar::Integer(65_536)).is_err());
        assert_eq!(Port::<0>::read(&Scalar::Integer(0)), Ok(0));
    }

    #[test]
    fn a_file_mode_is_octal_text() {
        assert_eq!(FileMode::read(&text("0700")), Ok(0o700));
        assert!(FileMode::read(&Scalar::Integer(777)).is_err());
        assert!(FileMode::read(&text("0888")).is_err());
        assert_eq!(FileMode::write(&0o70), Some(r#""0070""#.into()));
    }

    #[test]
    fn the_empty_check_query_is_not_the_absent_one() {
        assert_eq!(CheckQuery::read(&text("")), Ok(None));
        assert_eq!(CheckQuery::read(&text("<empty>")), Ok(Some(String::new())));
        assert_eq!(CheckQuery::write(&Some(String::new())), Some(r#""<empty>""#.into()));
    }

    #[test]
    fn a_secret_is_not_repeated_in_messages() {
        let error = Password::read(&Scalar::Integer(123_456)).unwrap_err();
        assert!(!error.contains("123456"), "{error}");
        let password = Password::read(&text("hunter2")).unwrap();
        assert!(!format!("{password:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_unit_panic(value in ".*") {
            let scalar = Scalar::Text(value);
            let _ = (Time::read(&scalar), Limit::read(&scalar), Hosts::read(&scalar), FileMode::read(&scalar));
            let _ = (LogLevel::read(&scalar), Names::read(&scalar), Flag::read(&scalar));
        }

        #[test]
        fn written_text_reads_back(value in ".*") {
            let parsed = Scalar::deserialize(toml::de::ValueDeserializer::parse(&quoted(&value)).unwrap()).unwrap();
            prop_assert_eq!(Text::read(&parsed), Ok(value));
        }
    }
}
