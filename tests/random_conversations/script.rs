//! A conversation as data: what each client sends and when, in an order that all of them share.

use std::fmt;

use super::random::Random;
use crate::support::frontend;

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        values: Vec<Option<Value>>,
        result_formats: Vec<i16>,
    },
    DescribeStatement(String),
    DescribePortal(String),
    Execute(String, u32),
    CloseStatement(String),
    ClosePortal(String),
    Flush,
    Sync,
    /// Rows that the COPY takes.
    CopyData(String),
    /// Rows in which the COPY finds an error, as soon as it reads them.
    CopyPoison(String),
    CopyDone,
    CopyFail(String),
    FunctionCall(u32, Vec<Option<String>>),
    /// A body that is not what its tag promises.
    Malformed(u8, Vec<u8>),
}

/// A parameter value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Binary(Vec<u8>),
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Query(sql) => frontend::query(sql),
            Self::Parse { name, sql, types } => frontend::parse_typed(name, sql, types),
            Self::Bind { portal, statement, values, result_formats } => {
                let formats: Vec<i16> =
                    values.iter().map(|value| i16::from(matches!(value, Some(Value::Binary(_))))).collect();
                let values: Vec<Option<&[u8]>> =
                    values.iter().map(|value| value.as_ref().map(Value::bytes)).collect();
                frontend::bind_formats(portal, statement, &formats, &values, result_formats)
            }
            Self::DescribeStatement(name) => frontend::describe_statement(name),
            Self::DescribePortal(name) => frontend::describe_portal(name),
            Self::Execute(portal, max_rows) => frontend::execute(portal, *max_rows),
            Self::CloseStatement(name) => frontend::close_statement(name),
            Self::ClosePortal(name) => frontend::close_portal(name),
            Self::Flush => frontend::flush(),
            Self::Sync => frontend::sync(),
            Self::CopyData(rows) | Self::CopyPoison(rows) => frontend::copy_data(rows.as_bytes()),
            Self::CopyDone => frontend::copy_done(),
            Self::CopyFail(reason) => frontend::copy_fail(reason),
            Self::FunctionCall(oid, arguments) => {
                let arguments: Vec<_> = arguments.iter().map(Option::as_deref).collect();
                frontend::function_call(*oid, &arguments)
            }
            Self::Malformed(tag, body) => frontend::frame(*tag, body),
        }
    }

    /// Whether PostgreSQL sends what it owes when it has dealt with this one (outside COPY).
    pub fn flushes(&self) -> bool {
        matches!(self, Self::Query(_) | Self::FunctionCall(..) | Self::Sync | Self::Flush)
    }
}

impl Value {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// Something that one client does at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub client: usize,
    pub action: Action,
    /// How the bytes are cut into writes on their way to the pooler.
    pub cuts: Cuts,
    /// Sent even if the client still waits for replies to what it sent before.
    pub eager: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Send(Vec<Message>),
    /// Terminate, or without a word; the client's next step logs in again.
    Leave(Leaving),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaving {
    Terminate,
    Close,
    /// In the middle of this message, after so many of its bytes.
    Within(Message, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    Whole,
    Every(usize),
    /// Pieces of random sizes up to the second number, from this seed.
    Random(u64, usize),
}

impl Cuts {
    pub fn cut(self, mut bytes: &[u8]) -> Vec<&[u8]> {
        // Very many tiny writes only take time.
        let least = bytes.len() / 2000 + 1;
        match self {
            Self::Whole => vec![bytes],
            Self::Every(size) => bytes.chunks(size.max(least)).collect(),
            Self::Random(seed, limit) => {
                let mut random = Random::new(seed);
                let mut pieces = Vec::new();
                while !bytes.is_empty() {
                    let size = (random.below(limit) + least).min(bytes.len());
                    let (piece, rest) = bytes.split_at(size);
                    pieces.push(piece);
                    bytes = rest;
                }
                pieces
            }
        }
    }
}

/// How the pgvalet of a conversation is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub pool_size: usize,
    pub workers: usize,
    pub max_prepared_statements: u32,
    pub reset: &'static str,
    /// The first so many clients may keep a server each; there is at least one more.
    pub keepers: usize,
}

/// A whole conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    pub seed: u64,
    pub clients: usize,
    pub setup: Setup,
    pub steps: Vec<Step>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} clients, {:?}", self.seed, self.clients, self.setup)?;
        for step in &self.steps {
            let eager = if step.eager { " eager" } else { "" };
            match &step.action {
                Action::Leave(leaving) => writeln!(f, "client {}: leaves: {leaving:?}", step.client)?,
                Action::Send(messages) => {
                    writeln!(f, "client {}: {:?}{eager}", step.client, step.cuts)?;
                    for message in messages {
                        writeln!(f, "    {}", clip(&format!("{message:?}"), 200))?;
                    }
                }
            }
        }
        Ok(())
    }
}

pub fn clip(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.chars().count()),
        None => text.to_owned(),
    }
}
