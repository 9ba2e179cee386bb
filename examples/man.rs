//! Writes the manual pages from the code: `cargo run --example man` after a change of flags or settings.
//!
//! `packaging/pgvalet.1` is the command line, `packaging/pgvalet.toml.5` the settings. A test compares them with what this
//! would write.

use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use pgvalet::cli;
use pgvalet::config::settings::{self, About};

fn main() -> std::io::Result<()> {
    for (name, text) in pages() {
        std::fs::write(directory().join(name), text)?;
    }
    Ok(())
}

/// Where the pages are kept.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

/// The names of the pages and their text.
pub fn pages() -> [(&'static str, String); 2] {
    [("pgvalet.1", command_line()), ("pgvalet.toml.5", configuration())]
}

fn command_line() -> String {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = Man::new(cli::command()).render(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

fn configuration() -> String {
    let mut page = Roff::new();
    let title = concat!("pgvalet ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["pgvalet.toml", "5", "", title]);
    page.control("SH", ["NAME"]);
    page.text([roman("pgvalet.toml - configuration of pgvalet")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "General settings come first, then a table for each database, [databases.NAME], and for each user, [users.NAME]. \
         Durations have a unit: \"100ms\", \"30s\", \"5min\", \"1h\"; a bare number counts seconds. 0 turns a limit off. \
         A pgbouncer.ini is read too; there pgbouncer's own defaults hold. The documentation has examples and reasons.",
    )]);
    section(&mut page, "GENERAL SETTINGS", settings::general());
    section(&mut page, "SETTINGS OF A DATABASE", settings::database());
    section(&mut page, "SETTINGS OF A USER", settings::user());
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("pgvalet"), roman("(1)")]);
    page.to_roff()
}

fn section(page: &mut Roff, title: &str, settings: impl Iterator<Item = About>) {
    page.control("SH", [title]);
    for about in settings {
        page.control("TP", []);
        page.text([bold(about.name), roman(" ("), italic(plain(about.kind)), roman(")")]);
        let mut text = plain(about.doc);
        if !about.default.is_empty() {
            text.push_str(&format!(" Default: {}.", about.default));
        }
        if let Some(default) = about.pgbouncer {
            text.push_str(&format!(" In a pgbouncer.ini: {default}."));
        }
        if !about.reload {
            text.push_str(" A change needs a restart.");
        }
        page.text([roman(text)]);
    }
}

/// The text without the marks of Markdown.
fn plain(text: &str) -> String {
    text.replace('`', "")
        .replace("](authentication.md)", "")
        .replace("[authentication.md", "docs/authentication.md")
}
