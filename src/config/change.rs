//! One setting changed while pgvalet runs, and settings as the admin console shows them.
//!
//! A change is made to what the files said and everything is resolved anew, so that what inherits the setting follows and
//! what does not fit together is found. It holds until the next reload.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::draft::{Draft, Section};
use super::loose;
use super::missing::{self, Missing};
use super::problem::Place;
use super::settings::{self, About, InForce};
use super::units::{MillisLimit, Scalar, Time, Unit};
use super::{Config, Problems, Reset, resolve};

/// What a configuration was made of. All are equal: two configurations that mean the same are the same.
#[derive(Clone)]
pub struct Source(pub(super) Arc<Draft>);

impl PartialEq for Source {
    fn eq(&self, _: &Source) -> bool {
        true
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What setting a setting comes to.
#[derive(Debug)]
pub enum Change {
    /// Another configuration.
    Made(Box<Config>),
    /// Nothing changes: what is asked for is so anyway, or pgvalet does not have it; then why.
    Nothing(Option<String>),
}

/// The configuration with the general setting `key` set to `value`, as an ini would write it.
///
/// # Errors
/// What is wrong with the key or the value, and what would be right.
pub fn set(config: &Config, key: &str, value: &str) -> Result<Change, String> {
    match missing::general(key, value) {
        Some(Missing::Harmless) => return Ok(Change::Nothing(None)),
        Some(Missing::Told(why)) => return Ok(Change::Nothing(Some(format!("{key}: {why}")))),
        None => {}
    }
    if settings::general().any(|about| about.name == key && !about.reload) {
        return Err(format!(
            "{key} cannot change while pgvalet runs; change it in the configuration file and restart"
        ));
    }
    let mut draft = Draft::clone(&config.source.0);
    // What means less than it says is an error here: a warning would not be seen.
    let value = match loose::general(key, value) {
        (meant, None) => meant.into_owned(),
        (_, Some(_)) => value.to_owned(),
    };
    draft.set(&Section::General, key, &Scalar::Text(value), &Place::file(&config.path));
    if !draft.problems.is_empty() {
        return Err(messages(&Problems(draft.problems)));
    }
    let made = resolve::resolve(draft).map_err(|problems| messages(&problems))?;
    Ok(Change::Made(Box::new(made)))
}

/// The problems without their places: what was typed on the console is in no file.
fn messages(problems: &Problems) -> String {
    let message = |problem: &super::Problem| format!("{}: {}", problem.key, problem.message);
    problems.iter().map(message).collect::<Vec<_>>().join("\n")
}

/// Every general setting as an ini would write it: no quotes, durations in seconds, 1 for true.
pub(super) fn in_force(config: &Config) -> Vec<InForce> {
    let ini = config.is_ini();
    let own = settings::values(&config.general).map(|(about, value)| {
        let default = about.pgbouncer.filter(|_| ini).unwrap_or(about.default);
        let (value, default) = (shown(about, &value), plain(about.kind, default));
        InForce { name: about.name, value, default, reload: about.reload }
    });
    let mut all: Vec<InForce> = own.collect();
    if ini {
        let written = &config.source.0.passed_over;
        all.extend(missing::defaults().map(|(name, default)| InForce {
            name,
            value: written.get(name).cloned().unwrap_or_else(|| default.to_owned()),
            default: default.to_owned(),
            reload: false,
        }));
        let always = u8::from(config.general.reset == Reset::Always).to_string();
        all.push(InForce {
            name: "server_reset_query_always",
            value: always,
            default: "0".into(),
            reload: true,
        });
    }
    all.sort_by_key(|setting| setting.name);
    all
}

/// The value of a setting, without a password that may stand in it.
fn shown(about: About, value: &str) -> String {
    if has_secret(about.name, value) { HIDDEN.into() } else { plain(about.kind, value) }
}

/// In place of a value that nobody is to see.
const HIDDEN: &str = "***";

/// The value of a setting as it may be told.
#[must_use]
pub fn tellable<'a>(name: &str, value: &'a str) -> &'a str {
    if has_secret(name, value) { HIDDEN } else { value }
}

fn has_secret(name: &str, value: &str) -> bool {
    name.eq_ignore_ascii_case("auth_ldap_options") && value.to_ascii_lowercase().contains("ldapbindpasswd")
}

/// A TOML value of this kind as an ini would write it.
fn plain(kind: &str, toml: &str) -> String {
    let scalar = toml::de::ValueDeserializer::parse(toml).and_then(Scalar::deserialize);
    let Ok(scalar) = scalar else { return toml.to_owned() };
    match kind {
        _ if matches!(scalar, Scalar::Integer(0)) => "0".into(),
        <Time as Unit>::KIND => seconds(&scalar, 1),
        <MillisLimit as Unit>::KIND => seconds(&scalar, 1000),
        _ => text(&scalar),
    }
}

/// A duration in so many parts of a second, whole if it is.
fn seconds(scalar: &Scalar, parts: u32) -> String {
    match Time::read(scalar) {
        Ok(time) => (time.as_secs_f64() * f64::from(parts)).to_string(),
        Err(_) => text(scalar),
    }
}

fn text(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Flag(flag) => u8::from(*flag).to_string(),
        Scalar::Text(text) => text.clone(),
        Scalar::List(entries) => entries.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_an_ini_writes_them() {
        assert_eq!(plain("duration", "\"1min\""), "60");
        assert_eq!(plain("duration", "\"100ms\""), "0.1");
        assert_eq!(plain("duration (bare number: milliseconds)", "\"30s\""), "30000");
        assert_eq!(plain("duration", "0"), "0");
        assert_eq!(plain("true or false", "true"), "1");
        assert_eq!(plain("list of names", r#"["a", "b"]"#), "a, b");
        assert_eq!(plain("text", r#""DISCARD ALL""#), "DISCARD ALL");
        assert_eq!(plain("number or `\"auto\"`", "\"auto\""), "auto");
    }
}
