//! What a process of the old kind does: runs in the background, as another user, with its number in a file.
//!
//! A daemon is this program, started again by the one that was called, which ends when the other is ready to serve, or
//! with its exit code if it never was. So whoever calls `pgvalet -d` learns whether it runs.

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, setsid, test_kill_process};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Tells the daemon that it is the daemon.
const MARK: &str = "PGVALET_DAEMON";

/// Whether this process is to go to the background; else it is there already.
#[must_use]
pub fn is_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts this program again in the background, and waits until it serves.
#[must_use]
pub fn start() -> ExitCode {
    let spawned = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(MARK, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
    });
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cannot start in the background: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut word = [0];
    let has_started = child.stdout.take().is_some_and(|mut pipe| pipe.read_exact(&mut word).is_ok());
    if has_started {
        return ExitCode::SUCCESS;
    }
    let code = child.wait().ok().and_then(|status| status.code());
    ExitCode::from(u8::try_from(code.unwrap_or(1)).unwrap_or(1))
}

/// Leaves the terminal that the daemon was started from.
pub(super) fn leave_terminal() {
    if is_background() {
        // Fails only for who leads a group of processes already.
        let _ = setsid();
    }
}

/// Tells who started the daemon that it serves, and lets go of its output.
pub(super) fn announce() {
    if !is_background() {
        return;
    }
    let _ = io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush());
    if let Ok(nowhere) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = dup2_stdout(&nowhere);
        let _ = dup2_stderr(&nowhere);
    }
}

/// Becomes the user of this name, with its groups.
///
/// # Errors
/// There is no such user, or only root may do that.
pub(super) fn become_user(name: &str) -> Result<(), String> {
    use nix::unistd::{Uid, User, geteuid, initgroups, setgid, setuid};
    let failed = |error: nix::Error| format!("cannot become the user {name:?}: {error}");
    let user = User::from_name(name).map_err(failed)?;
    let user = user.ok_or_else(|| format!("cannot become the user {name:?}: there is no such user"))?;
    if geteuid() == user.uid {
        return Ok(());
    }
    if geteuid() != Uid::from_raw(0) {
        return Err(format!("cannot become the user {name:?}: start pgvalet as root, or as that user"));
    }
    let groups = std::ffi::CString::new(name).map_err(|error| error.to_string())?;
    initgroups(&groups, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)
}

/// The file with the number of this process; removed when dropped, if the number is still ours.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    /// Another process that lives has its number there, or the file cannot be written.
    pub(super) fn write(path: &Path) -> Result<PidFile, String> {
        let other = number(path).filter(|number| *number != std::process::id().cast_signed());
        let lives = |number: i32| {
            let pid = Pid::from_raw(number);
            pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
        };
        if let Some(other) = other.filter(|other| lives(*other)) {
            return Err(format!(
                "{} names process {other}, which runs; stop it, or remove the file if that is no pooler",
                path.display()
            ));
        }
        Self::take_over(path)
    }

    /// Writes it, whatever process has its number there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn take_over(path: &Path) -> Result<PidFile, String> {
        let file = PidFile(path.to_owned());
        file.rewrite()?;
        Ok(file)
    }

    /// Writes it again: another process that is gone has had its number there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn rewrite(&self) -> Result<(), String> {
        fs::write(&self.0, format!("{}\n", std::process::id()))
            .map_err(|error| format!("cannot write pidfile {}: {error}", self.0.display()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A process that has taken over has written its own.
        if number(&self.0) == Some(std::process::id().cast_signed()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn number(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|number| *number > 0)
}
