//! The options of a rule: `NAME=VALUE` behind its method.
//!
//! Owns that every option is known, and means one thing. Of an option that is there twice the last counts, as in PostgreSQL.

use super::tokens::Token;
use crate::config::problem::nearest;

/// What stands in front of a password, also of one whose option is not written quite right.
const SECRET: &str = "ldapbindp";

/// The options of a rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    /// Reads them.
    pub(super) fn read(tokens: impl Iterator<Item = &'a Token>) -> Result<Options<'a>, String> {
        let texts: Vec<&str> = tokens.map(|token| token.text.as_str()).collect();
        let is_secret = texts.iter().any(|text| text.starts_with(SECRET));
        let option = |(at, text): (usize, &&'a str)| {
            text.split_once('=').ok_or_else(|| {
                let shown = shown(text, at, is_secret);
                format!("{shown} is no option; write NAME=VALUE, such as map=staff or clientcert=verify-full")
            })
        };
        texts.iter().enumerate().map(option).collect::<Result<_, _>>().map(Options)
    }

    /// The value of an option.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// The value of an option that has to have one.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.get(name) {
            Some("") => Err(format!("{name} is empty; give it a value, or leave it out")),
            value => Ok(value),
        }
    }

    /// Whether an option is set to 1.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(other) => Err(format!("{name}={other} is not known; write 0 or 1")),
        }
    }

    /// An option that is a number up to `most`.
    pub(super) fn number(&self, name: &str, most: u64) -> Result<Option<u64>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if number <= most => Ok(Some(number)),
            _ => Err(format!("{name}={text} is no number up to {most}")),
        }
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Refuses what is none of `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), String> {
        let Some((at, name)) = self.names().enumerate().find(|(_, name)| !known.contains(name)) else {
            return Ok(());
        };
        let shown = shown(name, at, self.names().any(|name| name.starts_with(SECRET)));
        Err(match nearest(name, known.iter().copied()) {
            Some(near) => format!("{shown} is no option of this method; did you mean {near}?"),
            None => format!("{shown} is no option of this method; write one of {}", known.join(", ")),
        })
    }
}

/// How an option that is not understood is called in an error: beside a password it may be a part of that, which was not quoted.
fn shown(text: &str, at: usize, is_secret: bool) -> String {
    if is_secret {
        format!("option {} of the line (it may be a part of a password, and is not shown)", at + 1)
    } else {
        format!("{text:?}")
    }
}
