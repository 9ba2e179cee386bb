//! What a client may wait for: which replies its messages earn, from what the server has said so far.
//!
//! This is the protocol as its clients have to know it: everything up to Sync is skipped after an error, a Sync within COPY
//! data earns nothing, replies may stay in the server's buffer until a Flush or Sync. It says nothing of what is in a
//! reply, and follows whatever comes.

use std::collections::VecDeque;

use super::script::Message;
use crate::support::backend;

/// A client's messages that are not answered yet.
#[derive(Debug)]
pub struct Ledger {
    waiting: VecDeque<Message>,
    due: Due,
    copy: Copy,
    /// The server skips everything up to Sync.
    skipping: bool,
    /// Something was sent after the last Sync or Query.
    open: bool,
    status: char,
}

/// What the message that is being answered is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Anything up to ReadyForQuery.
    Ready,
    /// Anything up to one of these tags.
    One(&'static [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    None,
    /// The server reads data for a Query.
    Simple,
    /// The server reads data for an Execute.
    Extended,
}

const EXECUTED: &[u8] = b"CIs";

impl Ledger {
    pub fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            due: Due::Nothing,
            copy: Copy::None,
            skipping: false,
            open: false,
            status: 'I',
        }
    }

    pub fn sent(&mut self, messages: &[Message]) {
        self.waiting.extend(messages.iter().cloned());
    }

    /// Whether the server will say something without being sent more. The messages it turns to are given to `turn`.
    pub fn is_due(&mut self, mut turn: impl FnMut(&Message)) -> bool {
        while self.due == Due::Nothing {
            let flushed = self.waiting.iter().any(Message::flushes);
            let Some(message) = self.waiting.front() else { return false };
            let is_extended = matches!(
                message,
                Message::Parse { .. }
                    | Message::Bind { .. }
                    | Message::DescribeStatement(_)
                    | Message::DescribePortal(_)
                    | Message::Execute(..)
                    | Message::CloseStatement(_)
                    | Message::ClosePortal(_)
                    | Message::Malformed(..)
            );
            let answered_late =
                is_extended || (self.copy == Copy::Extended && matches!(message, Message::CopyDone));
            if answered_late && !self.skipping && !flushed {
                return false;
            }
            let message = self.waiting.pop_front().expect("it is in front");
            turn(&message);
            self.due = if self.copy == Copy::None { self.turn_to(&message) } else { self.copy_on(&message) };
        }
        true
    }

    /// Takes note of a message from the server.
    pub fn received(&mut self, message: &backend::Message) {
        if let Some(status) = message.ready() {
            self.status = status;
            self.due = Due::Nothing;
            return;
        }
        match (self.due, message.tag) {
            (Due::Ready, b'G') => {
                self.copy = Copy::Simple;
                self.due = Due::Nothing;
            }
            (Due::One(EXECUTED), b'G') => {
                self.copy = Copy::Extended;
                self.due = Due::Nothing;
            }
            (Due::One(_), b'E') => {
                self.skipping = true;
                self.due = Due::Nothing;
            }
            (Due::One(tags), tag) if tags.contains(&tag) => self.due = Due::Nothing,
            _ => {}
        }
    }

    /// Whether the client, which waits for nothing, keeps its server from others.
    pub fn holds(&self) -> bool {
        self.open || self.status != 'I' || self.copy != Copy::None || !self.waiting.is_empty()
    }

    /// Whether messages wait for a Flush or Sync before their replies can be read.
    pub fn has_undone(&self) -> bool {
        self.copy == Copy::None && !self.waiting.is_empty()
    }

    /// Whether the server would say anything if it were sent these messages.
    pub fn would_answer(&self, messages: &[Message]) -> bool {
        self.copy != Copy::None || messages.iter().any(Message::flushes)
    }

    fn turn_to(&mut self, message: &Message) -> Due {
        if matches!(message, Message::Sync) {
            (self.skipping, self.open) = (false, false);
            return Due::Ready;
        }
        if self.skipping {
            return Due::Nothing;
        }
        match message {
            Message::Query(_) | Message::FunctionCall(..) => {
                self.open = false;
                return Due::Ready;
            }
            // Left over from a COPY that has failed.
            Message::CopyData(_) | Message::CopyPoison(_) | Message::CopyDone | Message::CopyFail(_) => {
                return Due::Nothing;
            }
            _ => self.open = true,
        }
        Due::One(match message {
            Message::Parse { .. } => b"1",
            Message::Bind { .. } => b"2",
            Message::CloseStatement(_) | Message::ClosePortal(_) => b"3",
            Message::DescribeStatement(_) | Message::DescribePortal(_) => b"Tn",
            Message::Execute(..) => EXECUTED,
            Message::Malformed(..) => b"123TnCIs",
            _ => return Due::Nothing,
        })
    }

    fn copy_on(&mut self, message: &Message) -> Due {
        if matches!(message, Message::CopyData(_) | Message::Flush | Message::Sync) {
            return Due::Nothing;
        }
        match std::mem::replace(&mut self.copy, Copy::None) {
            Copy::Simple => Due::Ready,
            _ => Due::One(EXECUTED),
        }
    }
}
