//! Reads the TOML.
//!
//! Owns the layout of the file: general settings at the top level, `[databases.NAME]`, `[users.NAME]`, `[peers.ID]`,
//! `[client_tls_names.NAME]`. What a key means is
//! the settings table's business. Everything wrong is noted with its line; nothing stops at the first error.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::{Draft, Section};
use super::problem::Place;
use super::units::Scalar;

/// Lines with broken syntax that are told at once; after so many it is no TOML at all.
const MAX_BROKEN_LINES: usize = 20;

/// Reads `text`, the content of the TOML file `path`.
pub(super) fn read(path: &Path, text: &str) -> Draft {
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut draft = Draft::new(path, base, false);
    let text = without_broken_lines(&mut draft, text);
    // Errors that are left were told above.
    let (table, _) = DeTable::parse_recoverable(&text);
    let mut reader = Reader { text: &text, draft };
    reader.document(table.into_inner());
    reader.draft
}

/// Notes each line with broken syntax and blanks it, so that it neither hides the lines below nor drags them into errors
/// that are not theirs. A section's header is not blanked: its keys would seem to belong to the section above.
fn without_broken_lines<'a>(draft: &mut Draft, text: &'a str) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_BROKEN_LINES {
        let (_, errors) = DeTable::parse_recoverable(&text);
        let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        let Some(error) = errors.iter().min_by_key(|error| start(error)) else {
            break;
        };
        let at = start(error);
        let message = format!("not TOML: {}", error.message().trim().replace('\n', "; "));
        draft.problem(&place(&draft.path, &text, at), "", message);
        draft.incomplete = true;
        let start =
            text.as_bytes().iter().take(at).rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let Some(line) = text.get(start..).and_then(|rest| rest.lines().next()).map(str::to_owned) else {
            break;
        };
        if line.trim().is_empty() || line.trim_start().starts_with('[') {
            break;
        }
        text.to_mut().replace_range(start..start + line.len(), &" ".repeat(line.len()));
    }
    text
}

fn place(path: &Path, text: &str, offset: usize) -> Place {
    let before = text.as_bytes().iter().take(offset);
    Place::line(path, before.filter(|byte| **byte == b'\n').count() + 1)
}

struct Reader<'a> {
    text: &'a str,
    draft: Draft,
}

impl<'a> Reader<'a> {
    fn document(&mut self, table: DeTable<'a>) {
        for (key, place, value) in self.entries(table) {
            match (key.as_str(), value) {
                ("databases", value) => self.sections(&place, "databases", Section::Database, value),
                ("users", value) => self.sections(&place, "users", Section::User, value),
                ("peers", value) => self.sections(&place, "peers", Section::Peer, value),
                ("client_tls_names", value) => {
                    self.sections(&place, "client_tls_names", Section::Name, value);
                }
                (_, value) if matches!(value.get_ref(), DeValue::Table(_)) => {
                    self.draft.problem(
                        &place,
                        key,
                        "unknown section; there are [databases.NAME], [users.NAME], [peers.ID] and [client_tls_names.NAME]",
                    );
                }
                (_, value) => self.set(&Section::General, &key, value, &place),
            }
        }
    }

    /// The tables of `[databases]` or `[users]`.
    fn sections(
        &mut self,
        place: &Place,
        kind: &str,
        section: fn(String) -> Section,
        value: Spanned<DeValue<'a>>,
    ) {
        let DeValue::Table(table) = value.into_inner() else {
            self.draft.problem(
                place,
                kind,
                format!("it is not a table; write [{kind}.NAME] and its keys below"),
            );
            return;
        };
        for (name, place, value) in self.entries(table) {
            let section = section(name.clone());
            let DeValue::Table(table) = value.into_inner() else {
                let key = section.name();
                self.draft.problem(
                    &place,
                    &key,
                    format!("it is not a table; write [{key}] and its keys below"),
                );
                continue;
            };
            self.draft.open(&section, &place);
            for (key, place, value) in self.entries(table) {
                self.set(&section, &key, value, &place);
            }
        }
    }

    fn set(&mut self, section: &Section, key: &str, value: Spanned<DeValue<'a>>, place: &Place) {
        // An integer beyond 64 bits is the one value that is TOML but no scalar.
        match Scalar::deserialize(value.into_deserializer()) {
            Ok(scalar) => self.draft.set(section, key, &scalar, place),
            Err(error) => self.draft.problem(place, section.key(key), error.message().to_owned()),
        }
    }

    /// The entries of a table in the order of the file.
    fn entries(&self, table: DeTable<'a>) -> Vec<(String, Place, Spanned<DeValue<'a>>)> {
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entry = |(key, value): (Spanned<_>, _)| {
            let place = place(&self.draft.path, self.text, key.span().start);
            (Cow::into_owned(key.into_inner()), place, value)
        };
        entries.into_iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "([\\[\\]{}'\"=.,#\\\\ a-z0-9\n]|\\PC)*") {
            let draft = read(Path::new("x.toml"), &text);
            prop_assert!(draft.problems.iter().all(|problem| problem.line <= Some(text.lines().count().max(1))));
        }
    }
}
