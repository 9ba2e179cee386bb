//! What happened in one play of a script, made comparable, and shown next to another one.

use std::fmt;

use super::backend::{Message, backend_key_data};

/// Something that happened to one of the script's clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub client: &'static str,
    pub event: Event,
}

impl Entry {
    /// The first column, if this is a row.
    pub fn first_value(&self) -> Option<String> {
        match &self.event {
            Event::Received(message) => {
                let value = message.values()?.into_iter().next()??;
                Some(String::from_utf8_lossy(&value).into_owned())
            }
            _ => None,
        }
    }

    /// The SQLSTATE, if this is an error from the server.
    pub fn sqlstate(&self) -> Option<String> {
        match &self.event {
            Event::Received(message) => message.sqlstate(),
            _ => None,
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// The session was opened.
    Opened,
    /// A step of the script sent something; described, since both sides are sent the same.
    Sent(String),
    /// A message of the login, between the authentication and the first ReadyForQuery.
    Greeting(Message),
    /// A message.
    Received(Message),
    /// The end of the connection.
    Ended,
    /// The connection failed, or nothing came for the deadline of the harness.
    Failed(String),
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("(opened)"),
            Self::Sent(what) => write!(f, "-> {what}"),
            Self::Greeting(message) | Self::Received(message) => message.fmt(f),
            Self::Ended => f.write_str("(end of the connection)"),
            Self::Failed(what) => write!(f, "(failed: {what})"),
        }
    }
}

/// A difference between PostgreSQL and a pooler that is none, because nothing could be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalisation {
    /// Authentication messages: the pooler may ask for a password in another way.
    Authentication,
    /// Process id and key of BackendKeyData (that there is one, and the length of its key, is compared).
    BackendKey,
    /// Order of the ParameterStatus messages of a login, which PostgreSQL does not promise.
    GreetingOrder,
    /// The process id in a NotificationResponse: that of a server.
    NotifyingProcess,
    /// File, line and routine in errors and notices: for what a pooler answers itself, or two versions are compared.
    ErrorSource,
    /// The value of a ParameterStatus with this name.
    Parameter(&'static str),
}

impl Normalisation {
    /// What every comparison leaves out.
    pub const ALWAYS: [Self; 4] =
        [Self::Authentication, Self::BackendKey, Self::GreetingOrder, Self::NotifyingProcess];

    /// Applies this to a transcript.
    pub fn apply(self, entries: &mut Vec<Entry>) {
        match self {
            Self::Authentication => {
                entries
                    .retain(|entry| !matches!(&entry.event, Event::Greeting(message) if message.tag == b'R'));
            }
            Self::GreetingOrder => sort_greetings(entries),
            Self::BackendKey | Self::NotifyingProcess | Self::ErrorSource | Self::Parameter(_) => {
                for entry in entries {
                    if let Event::Greeting(message) | Event::Received(message) = &mut entry.event {
                        self.apply_to(message);
                    }
                }
            }
        }
    }

    fn apply_to(self, message: &mut Message) {
        match (self, message.tag) {
            (Self::BackendKey, b'K') => {
                if let Some((_, key)) = message.key() {
                    message.body = backend_key_data(0, &vec![0; key.len()])[5..].to_vec();
                }
            }
            (Self::NotifyingProcess, b'A') => {
                if let Some(pid) = message.body.get_mut(..4) {
                    pid.fill(0);
                }
            }
            (Self::ErrorSource, b'E' | b'N') => {
                let kept = message
                    .body
                    .split(|byte| *byte == 0)
                    .filter(|field| !matches!(field, [b'F' | b'L' | b'R', ..]));
                message.body = kept.collect::<Vec<_>>().join(&0);
            }
            (Self::Parameter(which), b'S') if message.parameter().is_some_and(|(name, _)| name == which) => {
                message.body = format!("{which}\0(any)\0").into_bytes();
            }
            _ => {}
        }
    }
}

/// Sorts each run of ParameterStatus messages within a greeting.
fn sort_greetings(entries: &mut [Entry]) {
    let in_greeting = |entry: &Entry| matches!(&entry.event, Event::Greeting(message) if message.tag == b'S');
    for run in entries.chunk_by_mut(|a, b| in_greeting(a) && in_greeting(b)) {
        run.sort_by_key(|entry| match &entry.event {
            Event::Greeting(message) => message.body.clone(),
            _ => Vec::new(),
        });
    }
}

/// Two plays of a script that differ.
#[derive(Debug, Clone)]
pub struct Mismatch {
    pub script: String,
    pub how: String,
    pub names: [String; 2],
    pub transcripts: [Vec<Entry>; 2],
    /// Index of the first entry that differs.
    pub first: usize,
}

impl Mismatch {
    /// Compares two transcripts that have been normalised.
    pub fn find(left: &[Entry], right: &[Entry]) -> Option<usize> {
        (0..left.len().max(right.len())).find(|&index| left.get(index) != right.get(index))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: usize = 78;
        let [left, right] = &self.transcripts;
        writeln!(f, "script {:?}, played {}: the answers differ", self.script, self.how)?;
        writeln!(f, "   {:WIDTH$} | {}", self.names[0], self.names[1])?;
        for index in 0..left.len().max(right.len()) {
            let show = |side: &[Entry]| {
                side.get(index)
                    .map_or_else(String::new, |entry| format!("{}: {:?}", entry.client, entry.event))
            };
            let (left, right) = (show(left), show(right));
            let mark = match index {
                _ if index == self.first => ">>",
                _ if left != right => " >",
                _ => "  ",
            };
            // At the first difference everything counts, however long it is.
            if index == self.first {
                writeln!(f, ">> {left}\n{:WIDTH$}   >> {right}", "")?;
            } else {
                writeln!(f, "{mark} {:WIDTH$} | {}", clip(&left, WIDTH), clip(&right, WIDTH))?;
            }
        }
        Ok(())
    }
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width - 3).chain("...".chars()).collect()
}
