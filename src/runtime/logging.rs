//! Logs: text or JSON lines on standard error and in a file, and syslog.
//!
//! Owns where lines go. A line that cannot be written is lost: nothing waits for a log.

use crate::config::{Log, Syslog};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Where the system listens for its log.
const SYSLOG: &str = "/dev/log";

static STATE: OnceLock<State> = OnceLock::new();

/// What the command line says of the log; a reload does not change it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Nothing goes to standard error.
    pub quiet: bool,
    /// How much more than the configuration says is logged.
    pub verbose: u32,
}

struct State {
    filter: reload::Handle<EnvFilter, Registry>,
    output: Arc<Output>,
    asked: Asked,
}

/// Sets logging up; once in the life of the process.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(log: &Log, asked: Asked) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(filter(log, asked));
    let output = Arc::new(Output { stderr: !asked.quiet, file: Mutex::default() });
    output.open(log.file.as_deref())?;
    let _ = STATE.set(State { filter: handle, output: output.clone(), asked });
    let text = (!log.json).then(|| fmt::layer().with_writer(Lines(output.clone())).with_ansi(false));
    let json = log.json.then(|| fmt::layer().json().flatten_event(true).with_writer(Lines(output)));
    // The system's log has times and levels of its own.
    let plain = |writer| fmt::layer().without_time().with_level(false).with_ansi(false).with_writer(writer);
    let syslog = log.syslog.on.then(|| plain(SystemLog::new(&log.syslog)));
    // A second start in one process (tests do that) keeps the first logger.
    let _ = tracing_subscriber::registry().with(filter).with(text).with(json).with(syslog).try_init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug in pgvalet: the task ends, please report this");
    }));
    Ok(())
}

/// Puts another level in force, and opens the file anew: it may have been moved away.
pub fn renew(log: &Log) {
    let Some(state) = STATE.get() else { return };
    let _ = state.filter.reload(filter(log, state.asked));
    if let Err(error) = state.output.open(log.file.as_deref()) {
        tracing::error!("{error}; the log goes on where it went");
    }
}

/// What a stranger's bytes make rustls warn of is told where the connection ends, as far as the configuration wants it. Its own
/// words are there for those who ask for them by name, or for everything.
const OF_OTHERS: &str = "rustls=error";

/// The filter was checked when the configuration was read.
fn filter(log: &Log, asked: Asked) -> EnvFilter {
    let more = match log.verbose.max(asked.verbose) {
        0 => "",
        1 => ",debug",
        _ => ",trace",
    };
    let of_others = if more.is_empty() { OF_OTHERS } else { "" };
    EnvFilter::try_new(format!("{of_others},{}{more}", log.level)).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Standard error and a file.
struct Output {
    stderr: bool,
    file: Mutex<Option<(PathBuf, File)>>,
}

impl Output {
    fn open(&self, path: Option<&Path>) -> Result<(), String> {
        let opened = path.map(|path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file =
                file.map_err(|error| format!("cannot write the log to {}: {error}", path.display()))?;
            Ok::<_, String>((path.to_owned(), file))
        });
        *self.file() = opened.transpose()?;
        Ok(())
    }

    fn file(&self) -> MutexGuard<'_, Option<(PathBuf, File)>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands out what takes one line.
struct Lines(Arc<Output>);

struct Line<'a>(&'a Output);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.stderr {
            let _ = io::stderr().write_all(line);
        }
        if let Some((_, file)) = &mut *self.0.file() {
            let _ = file.write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The system's log, as `syslog(3)` speaks to it; it adds the time itself.
struct SystemLog {
    place: PathBuf,
    facility: u8,
    name: String,
    socket: Mutex<Option<UnixDatagram>>,
}

struct Entry<'a> {
    log: &'a SystemLog,
    severity: u8,
}

impl SystemLog {
    fn new(syslog: &Syslog) -> SystemLog {
        SystemLog {
            place: SYSLOG.into(),
            facility: syslog.facility as u8,
            name: format!("{}[{}]", syslog.ident, std::process::id()),
            socket: Mutex::default(),
        }
    }

    fn send(&self, severity: u8, text: &[u8]) {
        let mut message = format!("<{}>{}: ", u32::from(self.facility) << 3 | u32::from(severity), self.name);
        message.push_str(String::from_utf8_lossy(text).trim_end());
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.as_ref().is_some_and(|socket| socket.send(message.as_bytes()).is_ok()) {
            return;
        }
        // It may have been started again, or not be there.
        *socket = connected(&self.place).ok();
        if let Some(socket) = &*socket {
            let _ = socket.send(message.as_bytes());
        }
    }
}

fn connected(place: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(place)?;
    Ok(socket)
}

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry { log: self, severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Entry<'a> {
        Entry { log: self, severity: severity(*meta.level()) }
    }
}

impl Write for Entry<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.log.send(self.severity, text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Levels by syslog's numbers (RFC 5424, section 6.2.1).
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Facility;

    #[test]
    fn the_systems_log_gets_what_syslog_sends_and_is_found_again_when_it_was_started_anew() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("log");
        let settings = Syslog { on: true, ident: "pooler".into(), facility: Facility::Local1 };
        let log = SystemLog { place: place.clone(), ..SystemLog::new(&settings) };
        // Nobody is there: nothing happens.
        log.send(severity(Level::INFO), b"lost\n");
        for (level, text, priority) in [(Level::INFO, "one", 17 * 8 + 6), (Level::ERROR, "two", 17 * 8 + 3)] {
            let _ = std::fs::remove_file(&place);
            let listener = UnixDatagram::bind(&place).unwrap();
            log.send(severity(level), format!("{text}\n").as_bytes());
            let mut got = [0; 100];
            let length = listener.recv(&mut got).unwrap();
            let expected = format!("<{priority}>pooler[{}]: {text}", std::process::id());
            assert_eq!(String::from_utf8_lossy(&got[..length]), expected);
        }
    }

    #[test]
    fn more_is_logged_than_the_level_says_where_it_is_asked_for() {
        let log = |level: &str, verbose| Log { level: level.into(), verbose, ..Log::default() };
        let most = |log: &Log, verbose| {
            filter(log, Asked { quiet: false, verbose }).max_level_hint().map(|level| level.to_string())
        };
        assert_eq!(most(&log("warn", 0), 0).as_deref(), Some("warn"));
        assert_eq!(most(&log("warn", 1), 0).as_deref(), Some("debug"));
        assert_eq!(most(&log("info", 1), 2).as_deref(), Some("trace"));
    }
}
