//! The password for a server where it comes from a file or a command, at each login.
//!
//! Files are read on threads that may block; each command runs in a thread of its own, under a limit, and not twice at
//! once. Invariant: no worker waits for either, and what they gave is wiped when it is dropped.

use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::config::{Host, PasswordSource, Secret, trimmed};
use crate::server::ServerError;
use crate::server::login::Target;

/// How long a command may run.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest password taken.
const LONGEST: usize = 64 * 1024;
/// Commands, by what they were run for, whose output is kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// What a command was run for: the command, and where and as whom its password logs in.
type Purpose = (String, Vec<Host>, u16, String, String);
/// What it printed and when. Its thread holds the lock while it runs, so that others wait for its output, whoever gives up.
type Printed = Arc<tokio::sync::Mutex<Option<(Instant, Secret)>>>;

/// One for the process: pools come and go with the configuration, what a command printed is good for all of them.
static PRINTED: LazyLock<Mutex<LruCache<Purpose, Printed>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));

/// The password that the target's source gives now.
///
/// # Errors
/// [`ServerError::Authentication`], with what to look at.
pub(super) async fn fetch(target: &Target, source: &PasswordSource) -> Result<Secret, ServerError> {
    let outcome = match source {
        PasswordSource::File(path) => {
            let path = path.clone();
            let read = move || {
                let text = std::fs::read_to_string(&path).map(Zeroizing::new);
                let read = text.map_err(|error| error.to_string()).and_then(|text| secret(&text));
                read.map_err(|error| {
                    // Clients are told of the failure: names of files are not for them.
                    tracing::error!(path = %path.display(), error, "password_file cannot be used");
                    "its password_file cannot be used; the log of pgvalet says why".to_owned()
                })
            };
            let interrupted = |_| Err("reading password_file was interrupted".to_owned());
            tokio::task::spawn_blocking(read).await.unwrap_or_else(interrupted)
        }
        PasswordSource::Command { command, cache_time } => printed(target, command, *cache_time).await,
    };
    outcome.map_err(|reason| ServerError::Authentication { user: target.user.clone(), reason })
}

/// Forgets what the target's command printed: the server did not take it.
pub(super) fn forget(target: &Target) {
    if let Some(PasswordSource::Command { command, .. }) = &target.password_source {
        lock().pop(&purpose(target, command));
    }
}

async fn printed(target: &Target, command: &str, cache_time: Duration) -> Result<Secret, String> {
    let printed = lock().get_or_insert(purpose(target, command), Printed::default).clone();
    let mut printed = printed.lock_owned().await;
    if let Some((at, secret)) = &*printed
        && at.elapsed() < cache_time
    {
        return Ok(secret.clone());
    }
    let host = match target.hosts.first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(directory)) => directory.display().to_string(),
        None => String::new(),
    };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    shell.env("PGHOST", host).env("PGPORT", target.port.to_string());
    shell.env("PGUSER", &target.user).env("PGDATABASE", &target.dbname);

    let (sender, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("password".into()).spawn(move || {
        let outcome = run(shell).and_then(|text| secret(&text));
        if let Ok(secret) = &outcome {
            *printed = Some((Instant::now(), secret.clone()));
        }
        drop(printed);
        let _ = sender.send(outcome);
    });
    thread.map_err(|error| format!("password_command: no thread could be started: {error}"))?;
    let outcome = answer.await.unwrap_or_else(|_| Err("it was interrupted".into()));
    outcome.map_err(|error| format!("password_command: {error}"))
}

fn purpose(target: &Target, command: &str) -> Purpose {
    let Target { hosts, port, user, dbname, .. } = target;
    (command.to_owned(), hosts.clone(), *port, user.clone(), dbname.clone())
}

fn lock() -> std::sync::MutexGuard<'static, LruCache<Purpose, Printed>> {
    PRINTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn secret(text: &str) -> Result<Secret, String> {
    match Secret::parse(trimmed(text)) {
        Ok(Secret::Scram(_)) => Err("a SCRAM verifier cannot log in to a server".into()),
        Ok(secret) => Ok(secret),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs a command to its end, or to that of its time; gives what it printed.
fn run(mut command: Command) -> Result<Zeroizing<String>, String> {
    let end = Instant::now() + LIMIT;
    let mut child = command.spawn().map_err(|error| format!("it could not be started: {error}"))?;
    let outcome = collect(&mut child, end);
    if outcome.is_err() {
        // With all that it has started.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
    outcome
}

fn collect(child: &mut Child, end: Instant) -> Result<Zeroizing<String>, String> {
    let late = || format!("it took longer than {LIMIT:?}");
    let mut output = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut pipe = child.stdout.take().ok_or("it has no output")?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| late())?;
        let ready = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left));
        match ready {
            Ok(0) => return Err(late()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.to_string()),
        }
        let mut chunk = Zeroizing::new([0; 4096]);
        match pipe.read(&mut chunk[..]).map_err(|error| error.to_string())? {
            0 => break,
            count if output.len() + count > LONGEST => return Err("it printed too much".into()),
            count => output.extend_from_slice(&chunk[..count]),
        }
    }
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() >= end => return Err(late()),
            // It has closed its output: what it still does is quick, or wrong.
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if !status.success() {
        return Err(format!("it failed ({status}); what it says of that is in pgvalet's standard error"));
    }
    let text = std::str::from_utf8(&output).map_err(|_| "it printed what is not UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(command: &str) -> Result<String, String> {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).stdout(Stdio::piped()).stdin(Stdio::null()).process_group(0);
        run(shell).map(|text| text.to_string())
    }

    #[test]
    fn a_command_gives_what_it_prints() {
        assert_eq!(shell("printf 'a b\\n'").unwrap(), "a b\n");
        assert_eq!(secret(&shell("echo ' x '").unwrap()), Ok(Secret::parse(" x ").unwrap()));
        assert!(secret("\n").is_err());
        assert!(secret("SCRAM-SHA-256$cut").is_err());
    }

    #[test]
    fn a_command_that_fails_is_told() {
        assert!(shell("echo x; exit 3").unwrap_err().contains("exit status: 3"));
        assert!(shell("no-such-program 2>/dev/null").unwrap_err().contains("127"));
        assert!(shell("printf '\\377'").unwrap_err().contains("UTF-8"));
        assert!(shell("head -c 70000 /dev/zero").unwrap_err().contains("too much"));
    }

    #[test]
    fn a_command_and_all_that_it_started_ends_with_its_time() {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "sleep 3600 & echo $!; wait"]).stdout(Stdio::piped()).process_group(0);
        let mut child = shell.spawn().unwrap();
        let error = collect(&mut child, Instant::now() + Duration::from_millis(300)).unwrap_err();
        assert!(error.contains("took longer"), "{error}");
        kill_process_group(Pid::from_raw(child.id() as i32).unwrap(), Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
