//! The admin console: commands in, tables out.
//!
//! It looks at what the pools and workers publish and never stands in the way of a transaction.

pub mod tables;

use crate::client::context::Console;
use crate::error::{Error, Kind};
use crate::pool::Registry;
use crate::protocol::{ErrorMessage, backend};
use bytes::BytesMut;
use std::sync::Arc;
use tables::Table;

/// What the console can make the process do.
pub trait Control: Send + Sync + std::fmt::Debug {
    /// Reads the configuration again; what is wrong with it otherwise.
    ///
    /// # Errors
    /// All problems of the file, as text.
    fn reload(&self) -> Result<(), String>;
    /// Begins to shut down.
    fn shut_down(&self);
    /// Clients of each worker.
    fn worker_loads(&self) -> Vec<u32>;
}

/// The console of a process.
#[derive(Debug)]
pub struct Admin {
    registry: Arc<Registry>,
    control: Box<dyn Control>,
}

const HELP: &str = "SHOW STATS | POOLS | RESETS | WORKERS | VERSION; RELOAD; SHUTDOWN";

impl Admin {
    /// A console that looks at these pools.
    #[must_use]
    pub fn new(registry: Arc<Registry>, control: Box<dyn Control>) -> Admin {
        Admin { registry, control }
    }

    fn command(&self, words: &[&str], is_admin: bool, out: &mut BytesMut) -> Result<(), Error> {
        let forbidden = || Error::new(Kind::InvalidAuthorization, "only admin_users may do that");
        match words {
            [] => out.extend_from_slice(&[b'I', 0, 0, 0, 4]),
            ["show", "help"] => {
                let notice = ErrorMessage {
                    severity: "NOTICE",
                    code: "00000",
                    message: "Console usage",
                    detail: Some(HELP),
                    hint: None,
                };
                notice.write(out);
                backend::command_complete(out, "SHOW");
            }
            ["show", what] => {
                let table = match *what {
                    "stats" => tables::stats(&self.registry),
                    "pools" => tables::pools(&self.registry),
                    "resets" => tables::resets(&self.registry),
                    "workers" => tables::workers(&self.control.worker_loads()),
                    "version" => Table::single("version", concat!("pgvalet ", env!("CARGO_PKG_VERSION"))),
                    _ => {
                        return Err(
                            Error::new(Kind::Unsupported, format!("SHOW {what} is not known")).hint(HELP)
                        );
                    }
                };
                table.write(out);
                backend::command_complete(out, "SHOW");
            }
            ["reload"] if !is_admin => return Err(forbidden()),
            ["reload"] => {
                self.control.reload().map_err(|problems| Error::new(Kind::Internal, problems))?;
                backend::command_complete(out, "RELOAD");
            }
            ["shutdown"] if !is_admin => return Err(forbidden()),
            ["shutdown"] => {
                self.control.shut_down();
                backend::command_complete(out, "SHUTDOWN");
            }
            _ => return Err(Error::new(Kind::Unsupported, "unknown command").hint(HELP)),
        }
        Ok(())
    }
}

impl Console for Admin {
    fn answer(&self, sql: &str, is_admin: bool, out: &mut BytesMut) {
        let command = sql.trim().trim_end_matches(';').to_ascii_lowercase();
        let words: Vec<&str> = command.split_ascii_whitespace().collect();
        if let Err(error) = self.command(&words, is_admin, out) {
            error.write(out, "ERROR");
        }
    }
}
