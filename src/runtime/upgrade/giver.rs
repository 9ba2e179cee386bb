//! The old process' side of the start: runs the new one and offers it what it begins with.

use crate::handover::message::{Greeting, Lessons, Offer, PROTOCOL};
use crate::handover::{Message, wire};
use crate::runtime::upgrade::taker::DETACHED;
use crate::runtime::upgrade::{Heard, Newcomer};
use crate::session::ResultShape;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// The argument that tells a process to take over from the one at its standard input.
pub const ARGUMENT: &str = "--takeover";
/// How long the new process may take to be able to serve.
const LIMIT: Duration = Duration::from_secs(60);

/// How this process was started: the new one is started likewise.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This process' own. To be asked at the start: the file at its path may be another one later, and that one is meant.
    pub(in crate::runtime) fn own() -> io::Result<Program> {
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != ARGUMENT).collect();
        Ok(Program { path: std::env::current_exe()?, arguments })
    }
}

/// What a new process begins with.
#[derive(Debug)]
pub(in crate::runtime) struct Gift {
    pub(in crate::runtime) program: Program,
    pub(in crate::runtime) listeners: Vec<(OwnedFd, bool)>,
    pub(in crate::runtime) metrics: Option<OwnedFd>,
    pub(in crate::runtime) lessons: Lessons,
    pub(in crate::runtime) greetings: Vec<Greeting>,
    /// Whether all is paused, what is paused, what is disabled.
    pub(in crate::runtime) orders: (bool, Vec<String>, Vec<String>),
}

/// Starts the new process, on a thread of its own; what comes of it is told to `hear`.
pub(in crate::runtime) fn start(gift: Gift, hear: UnboundedSender<Heard>) -> io::Result<()> {
    thread::Builder::new().name("handover-start".into()).spawn(move || {
        let (mut child, stream) = match run(&gift.program) {
            Ok(started) => started,
            Err(error) => {
                let reason = format!("cannot start {}: {error}", gift.program.path.display());
                let _ = hear.send(Heard::Started(Err(reason)));
                return;
            }
        };
        match offer(gift, &stream) {
            Ok(pid) => {
                let _ = hear.send(Heard::Started(Ok(Newcomer { stream, pid })));
            }
            Err(reason) => {
                drop(stream);
                let _ = hear.send(Heard::Started(Err(last_words(&mut child, reason))));
            }
        }
        // So that it leaves no zombie, should it end first.
        let _ = child.wait();
    })?;
    Ok(())
}

fn run(program: &Program) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(LIMIT))?;
    let child = Command::new(&program.path)
        .args(&program.arguments)
        .arg(ARGUMENT)
        .env_remove(DETACHED)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok((child, ours))
}

/// Why the start failed, for the administrator: what is known, else how the process ended.
fn last_words(child: &mut Child, reason: Option<String>) -> String {
    if let Some(reason) = reason {
        let _ = child.kill();
        return reason;
    }
    // It hung up: it is about to end.
    match child.wait() {
        // It had started another one in its place, which is nobody's child.
        Ok(status) if status.success() => {
            "the new process ended before it could serve; the log says why".into()
        }
        Ok(status) => format!("the new process ended before it could serve ({status}); the log says why"),
        Err(error) => format!("the new process cannot be waited for: {error}"),
    }
}

/// Goes through the start with the new process; its process id. `None` as a reason: it hung up.
fn offer(gift: Gift, stream: &UnixStream) -> Result<u32, Option<String>> {
    let pid = match hear(stream)? {
        Message::Hello { protocol: PROTOCOL, version, pid } => {
            tracing::info!(version, pid, "a new process wants to take over");
            pid
        }
        Message::Hello { protocol, version, .. } => {
            let reason = format!(
                "the new process ({version}) speaks version {protocol} of the handover, this one version {PROTOCOL}: \
                 it cannot take over clients; restart instead"
            );
            let _ = wire::send(stream, &Message::Refused(reason.clone()), &[]);
            return Err(Some(reason));
        }
        Message::Failed(reason) => return Err(Some(reason)),
        _ => return Err(Some("the new process began with something else than a greeting".into())),
    };
    let (all_paused, paused, disabled) = gift.orders;
    let offer = Offer {
        listeners: gift.listeners.iter().map(|(_, has_file)| *has_file).collect(),
        metrics: gift.metrics.is_some(),
        shapes: ResultShape::example(),
        all_paused,
        paused,
        disabled,
    };
    let sockets = gift.listeners.iter().map(|(socket, _)| socket).chain(&gift.metrics);
    let sockets: Vec<_> = sockets.map(AsFd::as_fd).collect();
    let sent = wire::send(stream, &Message::Offer(offer), &sockets)
        .and_then(|()| wire::send(stream, &Message::Learnt(gift.lessons), &[]))
        .and_then(|()| wire::send(stream, &Message::Greetings(gift.greetings), &[]));
    sent.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => None,
        _ => Some(format!("the new process could not be told: {error}")),
    })?;
    match hear(stream)? {
        Message::Ready => Ok(pid),
        Message::Failed(reason) => Err(Some(reason)),
        _ => Err(Some("the new process said something that is not understood".into())),
    }
}

fn hear(stream: &UnixStream) -> Result<Message, Option<String>> {
    match wire::receive(stream) {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(None),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Some(format!("the new process could not serve within {} s", LIMIT.as_secs()))
            }
            io::ErrorKind::ConnectionReset => None,
            _ => Some(format!("the new process is not understood: {error}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gift() -> Gift {
        let program = Program { path: "/bin/false".into(), arguments: Vec::new() };
        let (listeners, lessons, greetings) = (Vec::new(), Lessons::default(), Vec::new());
        Gift { program, listeners, metrics: None, lessons, greetings, orders: Default::default() }
    }

    /// What the old process makes of a new one that says this first.
    fn said(first: &Message) -> (Result<u32, Option<String>>, Option<Message>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        wire::send(&theirs, first, &[]).unwrap();
        let outcome = offer(gift(), &ours);
        drop(ours);
        (outcome, wire::receive(&theirs).unwrap().map(|(message, _)| message))
    }

    #[test]
    fn a_process_of_another_version_is_told_so_and_gets_nothing() {
        let hello = Message::Hello { protocol: PROTOCOL + 1, version: "9.9".into(), pid: 7 };
        let (outcome, answer) = said(&hello);
        let reason = outcome.unwrap_err().unwrap();
        assert!(reason.contains("9.9") && reason.contains("restart instead"), "{reason}");
        assert!(matches!(answer, Some(Message::Refused(told)) if told == reason));
    }

    #[test]
    fn a_process_that_cannot_start_says_why() {
        let (outcome, answer) = said(&Message::Failed("no such file".into()));
        assert_eq!(outcome.unwrap_err().as_deref(), Some("no such file"));
        assert!(answer.is_none());
        assert!(said(&Message::Go).0.is_err(), "nor is anything else taken for a greeting");
    }

    #[test]
    fn a_program_that_ends_is_no_success() {
        let (mut child, stream) = run(&gift().program).unwrap();
        let reason = offer(gift(), &stream).unwrap_err();
        drop(stream);
        assert!(last_words(&mut child, reason).contains("exit status: 1"));
    }
}
