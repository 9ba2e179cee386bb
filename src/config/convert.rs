//! `pgvalet convert`: a pgbouncer.ini as TOML that means the same, and the proof of it.

use std::fmt::Write as _;
use std::path::Path;

use super::draft::{Draft, bare};
use super::problem::{Place, Problem, Problems};
use super::settings::{self, DATABASE, GENERAL, PEER, Setting, USER};
use super::{Config, PasswordSource, file, read_draft, resolve};

/// Reads the configuration `path` and gives the TOML that means the same, with a comment for what it says.
///
/// The text is loaded again and compared before it is given out. It holds the passwords of the file.
pub fn convert(path: &Path) -> Result<String, Problems> {
    let mut draft = read_draft(path)?;
    let meant = resolve::resolve(draft.clone())?;
    // The TOML may come to lie in another directory than the one that an ini's paths are relative to.
    draft.general.auth_file.clone_from(&meant.general.auth_file);
    draft.general.auth_hba_file.clone_from(&meant.general.auth_hba_file);
    draft.general.auth_ident_file.clone_from(&meant.general.auth_ident_file);
    draft.general.pidfile.clone_from(&meant.general.pidfile);
    draft.general.log.file.clone_from(&meant.general.log.file);
    draft.general.client_tls.clone_from(&meant.general.client_tls);
    draft.general.server_tls.clone_from(&meant.general.server_tls);
    for (name, entry) in &mut draft.databases {
        let database = if name == "*" { meant.fallback.as_ref() } else { meant.databases.get(name) };
        if let Some(PasswordSource::File(path)) =
            database.and_then(|database| database.password_source.as_ref())
        {
            entry.password_file = Some(Some(path.clone()));
        }
    }
    let text = written(&draft, &meant.warnings);
    prove(path, &text, &meant)?;
    Ok(text)
}

/// Loads `text` and compares.
fn prove(path: &Path, text: &str, meant: &Config) -> Result<(), Problems> {
    // What pgbouncer starts with may be an error in TOML; its lines are those of a text that nobody has seen.
    let refused = |problem: Problem| {
        let message = format!("as TOML it would be refused: {}", problem.message);
        Place::file(path).problem(problem.key, message)
    };
    let again = resolve::resolve(file::read(path, text))
        .map_err(|problems| Problems(problems.0.into_iter().map(refused).collect()))?;
    let again = Config { warnings: meant.warnings.clone(), ..again };
    if again == *meant {
        return Ok(());
    }
    let differs =
        settings::values(&again.general).zip(settings::values(&meant.general)).find(|(a, b)| a.1 != b.1);
    let key = differs.map_or("databases or users", |((about, _), _)| about.name);
    let problem: Problem =
        Place::file(path).problem(key, "the converted text does not mean the same; please report this");
    Err(Problems(vec![problem]))
}

fn written(draft: &Draft, warnings: &[String]) -> String {
    let mut text = format!("# pgvalet's configuration, converted from {}.\n", draft.path.display());
    text.push_str("# What is not here has its default; docs/configuration.md lists all settings.\n");
    if !warnings.is_empty() {
        text.push_str("#\n# Not taken over, or worth a look:\n");
        for warning in warnings {
            let _ = writeln!(text, "#   {warning}");
        }
    }
    let defaults = settings::defaults(false);
    for setting in GENERAL {
        let value = (setting.write)(&draft.general);
        if value == (setting.write)(&defaults) {
            continue;
        }
        let Some(value) = value else { continue };
        let _ = write!(text, "\n# {}\n", setting.about.doc);
        if setting.about.pgbouncer.is_some() {
            let _ = writeln!(text, "# pgvalet's default: {}", setting.about.default);
        }
        let _ = writeln!(text, "{} = {value}", setting.about.name);
    }
    for (name, entry) in &draft.databases {
        section(&mut text, "databases", name, DATABASE, entry);
    }
    for (name, entry) in &draft.users {
        section(&mut text, "users", name, USER, entry);
    }
    for (id, entry) in &draft.peers {
        section(&mut text, "peers", id, PEER, entry);
    }
    text
}

fn section<T>(text: &mut String, kind: &str, name: &str, table: &[Setting<T>], entry: &T) {
    let _ = write!(text, "\n[{kind}.{}]\n", bare(name));
    for setting in table {
        if let Some(value) = (setting.write)(entry) {
            let _ = writeln!(text, "{} = {value}", setting.about.name);
        }
    }
}
