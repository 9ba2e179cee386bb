//! The command line: what was asked for, and the exit code it ends with.
//!
//! Owns arguments and what is printed before the pooler runs. Exit codes: 0 all is well, 1 the configuration is wrong (or
//! what `runtime` says), 2 the arguments are.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Config};
use crate::net::tls::current::Source;
use crate::net::unix::socket_path;
use crate::runtime::reboot::{self, Outcome};
use crate::runtime::upgrade::taker::{self, Takeover};
use crate::runtime::{self, Launch, daemon, logging};

/// A transaction-level connection pooler for PostgreSQL.
#[derive(Debug, Parser)]
#[command(
    name = "pgvalet",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file, TOML or pgbouncer.ini: run with it
    #[arg(required = true, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Take over from the process at standard input, which has started this one (UPGRADE on the admin console)
    #[arg(long, hide = true)]
    takeover: bool,
    #[command(flatten)]
    flags: Flags,
}

/// pgbouncer's flags.
#[derive(Debug, clap::Args)]
struct Flags {
    /// Run in the background (needs pidfile, and logfile or syslog)
    #[arg(short, long)]
    daemon: bool,
    /// Replace the process that runs, which keeps its clients (UPGRADE on the admin console); start if none does
    #[arg(short = 'R', long)]
    reboot: bool,
    /// Do not log to standard error
    #[arg(short, long)]
    quiet: bool,
    /// Log more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Change to this user at the start
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file and tell everything that is wrong with it
    Check {
        /// Configuration file, TOML or pgbouncer.ini
        config: PathBuf,
    },
    /// Print a pgbouncer.ini as TOML that means the same (with the passwords in it)
    Convert {
        /// The pgbouncer.ini
        ini: PathBuf,
    },
}

const AFTER_HELP: &str = "\
Examples:
  pgvalet config/pgvalet.toml                  run, logging to standard error
  pgvalet check config/pgvalet.toml            before a reload
  pgvalet convert pgbouncer.ini > pgvalet.toml

Signals: HUP reloads the configuration; TERM and INT let transactions finish, then end (with a pgbouncer.ini, TERM waits until
all clients have left); a second one, or QUIT, ends at once; USR1 and USR2 are PAUSE and RESUME.
Exit codes: 0 ended as asked, 1 wrong configuration or failure, 2 wrong arguments.";

/// The command line, for those who describe it.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come as errors too, with exit code 0. A closed terminal is not worth another message.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match (arguments.command, arguments.config) {
        (Some(Command::Check { config }), _) => check(&config),
        (Some(Command::Convert { ini }), _) => convert(&ini),
        (None, Some(path)) if arguments.takeover => take_over(path, &arguments.flags),
        (None, Some(path)) => match load(&path) {
            Ok(config) => start(path, config, arguments.flags),
            Err(code) => code,
        },
        (None, None) => ExitCode::from(2),
    }
}

/// Runs with the configuration, or has a daemon do it.
fn start(path: PathBuf, config: Config, flags: Flags) -> ExitCode {
    if flags.reboot && !daemon::is_background() {
        match reboot::ask(&config.general, flags.user.as_deref()) {
            Ok(Outcome::Replaced) => return ExitCode::SUCCESS,
            Ok(Outcome::NobodyThere) => {}
            Err(reason) => {
                eprintln!("{reason}");
                return ExitCode::FAILURE;
            }
        }
    }
    if flags.daemon && !daemon::is_background() {
        let log = &config.general.log;
        let lacks = if config.general.pidfile.is_none() {
            "pidfile"
        } else if log.file.is_none() && !log.syslog.on {
            "logfile (or syslog)"
        } else {
            return daemon::start();
        };
        eprintln!("{}: {lacks}: not set, but --daemon needs it", path.display());
        return ExitCode::FAILURE;
    }
    run_server(path, config, &flags, None)
}

fn run_server(path: PathBuf, config: Config, flags: &Flags, takeover: Option<Takeover>) -> ExitCode {
    let log = logging::Asked { quiet: flags.quiet, verbose: flags.verbose.into() };
    runtime::run(path, config, Launch { log, user: flags.user.clone() }, takeover)
}

/// Runs in the place of another process, which goes on if this one cannot.
fn take_over(path: PathBuf, flags: &Flags) -> ExitCode {
    if let Some(code) = taker::detach() {
        return code;
    }
    let takeover = match Takeover::begin() {
        Ok(takeover) => takeover,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::FAILURE;
        }
    };
    match config::load(&path) {
        Ok(config) => run_server(path, config, flags, Some(takeover)),
        Err(problems) => {
            eprintln!("{problems}");
            takeover.fail(&problems.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Loads the configuration, or prints what is wrong with it.
fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load(path).map_err(|problems| {
        eprintln!("{problems}");
        ExitCode::FAILURE
    })
}

fn check(path: &Path) -> ExitCode {
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let clients = config.general.client_tls.make().map(drop);
    if let Err(error) = clients.and_then(|()| config.general.server_tls.make().map(drop)) {
        eprintln!("{}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    let databases: Vec<&str> = config.databases.keys().map(String::as_str).collect();
    let fallback = if config.fallback.is_some() { " and any other (*)" } else { "" };
    println!("{} is valid.", path.display());
    println!("  listens on   {}", listeners(&config));
    println!("  databases    {}{fallback}", databases.join(", "));
    println!("  users        {}", config.users.len());
    println!("  clients      up to {}", config.general.max_client_conn);
    println!("  workers      {}", config.general.workers);
    ExitCode::SUCCESS
}

fn listeners(config: &Config) -> String {
    let general = &config.general;
    let port = general.listen_port;
    let tcp = general.listen_addr.iter().map(|address| std::net::SocketAddr::new(*address, port).to_string());
    let socket = |directory: &PathBuf| socket_path(directory, port).display().to_string();
    let unix = general.unix_socket_dir.iter().map(socket);
    tcp.chain(unix).collect::<Vec<_>>().join(", ")
}

fn convert(path: &Path) -> ExitCode {
    match config::convert(path) {
        Ok(text) => {
            // Not print!, which panics where the reader has gone (`| head`).
            let written = std::io::stdout().write_all(text.as_bytes());
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problems) => {
            eprintln!("{problems}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_file_alone_means_run() {
        let arguments = Arguments::try_parse_from(["pgvalet", "a.toml"]).unwrap();
        assert!(arguments.command.is_none());
        assert_eq!(arguments.config, Some("a.toml".into()));
        assert!(Arguments::try_parse_from(["pgvalet", "check"]).is_err());
        assert!(Arguments::try_parse_from(["pgvalet", "a.toml", "b.toml"]).is_err());
    }
}
