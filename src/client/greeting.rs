//! What the configuration adds to a login, and leaves out of it: the startup parameters that count, and notices.

use crate::config::General;
use crate::error::Error;
use crate::error::Kind;
use crate::net::stream::Address;
use crate::protocol::backend::ErrorMessage;
use crate::protocol::options;
use crate::protocol::startup::Startup;
use crate::session::Settings;
use bytes::BytesMut;

/// The name of a client that gives itself none, where its address is to be added (pgbouncer's).
const NAMELESS: &str = "app";

/// The settings that a client logs in with.
///
/// # Errors
/// Its `options` cannot be read.
pub(super) fn startup_settings(
    startup: &Startup,
    general: &General,
    peer: &Address,
) -> Result<Settings, Error> {
    let mut settings = Settings::default();
    let is_ignored =
        |name: &str| general.ignore_startup_parameters.iter().any(|other| other.eq_ignore_ascii_case(name));
    // What holds for one transaction only has no meaning before the first one.
    let is_momentary = |name: &str| name.to_ascii_lowercase().starts_with("transaction_");
    let counts = |name: &str| !is_momentary(name) && !is_ignored(name);
    if let Some(text) = startup.get("options") {
        let found = options::parse(text).map_err(|switch| {
            Error::new(
                Kind::ProtocolViolation,
                format!("invalid command-line argument for server process: {switch}"),
            )
            .hint("In options, -c name=value and --name=value are understood.")
        })?;
        found.iter().filter(|(name, _)| counts(name)).for_each(|(name, value)| settings.set(name, value));
    }
    for (name, value) in &startup.parameters {
        let is_setting = !matches!(name.as_str(), "user" | "database" | "options" | "replication");
        if is_setting && counts(name) && !name.starts_with("_pq_.") {
            settings.set(name, value);
        }
    }
    if general.application_name_add_host {
        let name = settings.get("application_name").filter(|name| !name.is_empty()).unwrap_or(NAMELESS);
        let place = match peer {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => format!("unix:{}", general.listen_port),
        };
        let name = format!("{name} - {place}");
        settings.set("application_name", &name);
    }
    Ok(settings)
}

/// Appends a notice.
pub(super) fn notice(out: &mut BytesMut, message: &str) {
    ErrorMessage { severity: "NOTICE", code: "00000", message, detail: None, hint: None }.write(out);
}
