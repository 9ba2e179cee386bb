//! One session of the console: the simple and the extended protocol, as PostgreSQL speaks them.
//!
//! Owns prepared statements, portals and the status of the transaction; what commands do is in [`Admin`]. A transaction has
//! no effect here, but drivers open them and look at the status. Invariant: an answer is given in pieces, however long, and rows
//! that are not given yet are bounded for those who may only look.

use crate::admin::command::{self, Command, Shutdown};
use crate::admin::table::{self, Column, Format, Row};
use crate::admin::{Admin, Answer};
use crate::client::context::{ConsoleSession, Progress};
use crate::config;
use crate::error::{Error, Kind};
use crate::protocol::frame::cstr;
use crate::protocol::{TxStatus, backend};
use bytes::BytesMut;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Names that one session may have for statements or portals.
const NAMES: usize = 1000;
/// An answer goes out when it has come to so much.
const PIECE: usize = 16 * 1024;
/// Rows that all sessions of `stats_users` together may have in memory.
const KEPT_ROWS: usize = 200_000;

/// A session of the console.
#[derive(Debug)]
pub struct Session {
    admin: Arc<Admin>,
    is_admin: bool,
    status: TxStatus,
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
    /// An error was told in the extended protocol: everything up to Sync is skipped.
    skipping: bool,
    /// The message being answered is of the simple protocol.
    simple: bool,
    /// What is left of the message being answered.
    going: Going,
    /// Databases that a PAUSE is waiting for; a cancel request takes it back.
    pausing: Option<Option<String>>,
    /// To be done when the answer has been sent.
    shutdown: Option<Shutdown>,
}

/// A command with the formats of its result, and what is left of the result once it was run.
#[derive(Debug)]
struct Portal {
    command: Command,
    formats: Vec<i16>,
    result: Option<Given>,
}

/// A result that is being given.
#[derive(Debug)]
struct Given {
    columns: &'static [Column],
    formats: Vec<Format>,
    rows: std::vec::IntoIter<Row>,
    tag: String,
    _kept: Kept,
}

/// Rows in memory, while they are.
#[derive(Debug)]
struct Kept(Arc<Admin>, usize);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kept.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What is under way.
#[derive(Debug)]
enum Going {
    Nothing,
    /// A result, and the commands behind it in one Query.
    Query(Option<Given>, VecDeque<Result<Command, Error>>),
    /// A portal of this name, which may give so many more rows, if only so many.
    Portal(Vec<u8>, Option<usize>),
}

impl Session {
    pub(super) fn new(admin: Arc<Admin>, is_admin: bool) -> Session {
        Session {
            admin,
            is_admin,
            status: TxStatus::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            simple: false,
            going: Going::Nothing,
            pausing: None,
            shutdown: None,
        }
    }

    async fn message(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) -> Progress {
        self.simple = matches!(tag, b'Q' | b'F');
        if self.skipping && tag != b'S' {
            return Progress::Done;
        }
        let outcome = match tag {
            b'Q' => self.query(body, out).await,
            b'P' => self.parse(body, out).map(|()| Progress::Done),
            b'B' => self.bind(body, out).map(|()| Progress::Done),
            b'D' => self.describe(body, out).map(|()| Progress::Done),
            b'E' => self.execute(body, out).await,
            b'C' => self.close(body, out).map(|()| Progress::Done),
            b'S' => {
                self.skipping = false;
                self.end_of_batch(out);
                Ok(Progress::Done)
            }
            b'H' => Ok(Progress::Done),
            b'F' => Err(Error::new(Kind::Unsupported, "the admin console has no functions")),
            _ => Err(Error::new(Kind::ProtocolViolation, "unexpected message type")),
        };
        self.conclude(outcome, out)
    }

    /// Goes on with what is under way.
    async fn go_on(&mut self, out: &mut BytesMut) -> Progress {
        // Others have their turn between two pieces.
        tokio::task::yield_now().await;
        let outcome = match self.going {
            Going::Nothing => Ok(Progress::Done),
            Going::Query(..) => self.commands(out).await,
            Going::Portal(..) => self.portal(out),
        };
        self.conclude(outcome, out)
    }

    fn conclude(&mut self, outcome: Result<Progress, Error>, out: &mut BytesMut) -> Progress {
        let progress = outcome.unwrap_or_else(|error| {
            self.fail(&error, out);
            Progress::Done
        });
        if progress == Progress::Done {
            self.going = Going::Nothing;
            if self.simple {
                self.end_of_batch(out);
            }
        }
        progress
    }

    /// ReadyForQuery. Outside a transaction block portals end here.
    fn end_of_batch(&mut self, out: &mut BytesMut) {
        if self.status == TxStatus::Idle {
            self.portals.clear();
        }
        backend::ready_for_query(out, self.status);
    }

    fn fail(&mut self, error: &Error, out: &mut BytesMut) {
        error.write(out, "ERROR");
        if self.status == TxStatus::InTransaction {
            self.status = TxStatus::Failed;
        }
        self.skipping = !self.simple;
    }

    async fn query(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Progress, Error> {
        let sql = text(body.strip_suffix(&[0]).unwrap_or(body))?;
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        self.going = Going::Query(None, command::parse(sql).into());
        self.commands(out).await
    }

    /// Runs the commands of a Query, as far as there is room for what they give.
    async fn commands(&mut self, out: &mut BytesMut) -> Result<Progress, Error> {
        loop {
            let Going::Query(given, commands) = &mut self.going else { return Ok(Progress::Done) };
            if let Some(under_way) = given {
                if !under_way.write(out, None).1 {
                    return Ok(Progress::More);
                }
                backend::command_complete(out, &under_way.tag);
                *given = None;
            }
            if out.len() >= PIECE {
                return Ok(Progress::More);
            }
            let Some(command) = commands.pop_front() else { return Ok(Progress::Done) };
            let command = command?;
            if command == Command::Empty {
                out.extend_from_slice(&backend::EMPTY_QUERY_RESPONSE);
                continue;
            }
            let answer = self.run(&command).await?;
            answer.notices.iter().for_each(|notice| notice.write(out));
            let Some(columns) = command.columns() else {
                backend::command_complete(out, &answer.tag);
                continue;
            };
            let formats = vec![Format::Text; columns.len()];
            table::describe(out, columns, &formats);
            let result = self.given(columns, formats, answer)?;
            if let Going::Query(given, _) = &mut self.going {
                *given = Some(result);
            }
        }
    }

    /// A result to be given, if there is room for its rows.
    fn given(
        &self,
        columns: &'static [Column],
        formats: Vec<Format>,
        answer: Answer,
    ) -> Result<Given, Error> {
        let count = if self.is_admin { 0 } else { answer.rows.len() };
        let kept = self.admin.kept.fetch_add(count, Ordering::Relaxed);
        let guard = Kept(self.admin.clone(), count);
        // The last rows of one table may exceed it, so that one table is always shown.
        if kept > 0 && kept + count > KEPT_ROWS {
            let text = "too many rows of the console are being read at the same time";
            return Err(
                Error::new(Kind::TooLarge, text).hint("Close what reads slowly, or try again in a moment.")
            );
        }
        Ok(Given { columns, formats, rows: answer.rows.into_iter(), tag: answer.tag, _kept: guard })
    }

    fn parse(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let malformed = || Error::new(Kind::ProtocolViolation, "malformed Parse message");
        let (name, rest) = cstr(body).ok_or_else(malformed)?;
        let (sql, _types) = cstr(rest).ok_or_else(malformed)?;
        let mut commands = command::parse(text(sql)?);
        if commands.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(Error::new(Kind::Syntax, text));
        }
        let command = commands.pop().unwrap_or(Ok(Command::Empty))?;
        self.admit(&command)?;
        if !name.is_empty() && self.statements.contains_key(name) {
            let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
            return Err(Error::new(Kind::DuplicateStatement, text));
        }
        if self.statements.len() >= NAMES {
            return Err(Error::new(Kind::TooLarge, "too many prepared statements"));
        }
        self.statements.insert(name.to_vec(), command);
        out.extend_from_slice(&backend::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let bind =
            Bind::read(body).ok_or_else(|| Error::new(Kind::ProtocolViolation, "malformed Bind message"))?;
        let command = self.statement(bind.statement)?.clone();
        self.admit(&command)?;
        if bind.parameters > 0 {
            let text = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires 0",
                bind.parameters,
                String::from_utf8_lossy(bind.statement)
            );
            return Err(Error::new(Kind::ProtocolViolation, text));
        }
        let columns = command.columns().map_or(0, <[Column]>::len);
        if bind.formats.len() > 1 && bind.formats.len() != columns {
            let text = format!(
                "bind message has {} result formats but query has {columns} columns",
                bind.formats.len()
            );
            return Err(Error::new(Kind::ProtocolViolation, text));
        }
        if let Some(code) = bind.formats.iter().find(|code| !matches!(code, 0 | 1)) {
            return Err(Error::new(Kind::InvalidValue, format!("unsupported format code: {code}")));
        }
        if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
            let text = format!("portal \"{}\" already exists", String::from_utf8_lossy(bind.portal));
            return Err(Error::new(Kind::DuplicatePortal, text));
        }
        if self.portals.len() >= NAMES {
            return Err(Error::new(Kind::TooLarge, "too many portals"));
        }
        let portal = Portal { command, formats: bind.formats, result: None };
        self.portals.insert(bind.portal.to_vec(), portal);
        out.extend_from_slice(&backend::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let (columns, formats) = match target(body)? {
            (b'S', name) => {
                let columns = self.statement(name)?.columns();
                out.extend_from_slice(&backend::NO_PARAMETERS);
                (columns, vec![])
            }
            (_, name) => {
                let portal = self.portals.get(name).ok_or_else(|| unknown_portal(name))?;
                (portal.command.columns(), portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => table::describe(out, columns, &spread(&formats, columns.len())),
            None => out.extend_from_slice(&backend::NO_DATA),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Progress, Error> {
        let malformed = || Error::new(Kind::ProtocolViolation, "malformed Execute message");
        let (name, rest) = cstr(body).ok_or_else(malformed)?;
        let limit = i32::from_be_bytes(rest.try_into().map_err(|_| malformed())?);
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let mut portal = self.portals.remove(name).ok_or_else(|| unknown_portal(name))?;
        if portal.command == Command::Empty {
            out.extend_from_slice(&backend::EMPTY_QUERY_RESPONSE);
            self.portals.insert(name.to_vec(), portal);
            return Ok(Progress::Done);
        }
        if portal.result.is_none() {
            let answer = self.run(&portal.command).await?;
            answer.notices.iter().for_each(|notice| notice.write(out));
            let columns = portal.command.columns().unwrap_or_default();
            let formats = spread(&portal.formats, columns.len());
            portal.result = Some(self.given(columns, formats, answer)?);
        }
        self.portals.insert(name.to_vec(), portal);
        self.going = Going::Portal(name.to_vec(), limit);
        self.portal(out)
    }

    /// Gives rows of the portal that is under way, as far as there is room for them.
    fn portal(&mut self, out: &mut BytesMut) -> Result<Progress, Error> {
        let Going::Portal(name, limit) = &mut self.going else { return Ok(Progress::Done) };
        let result = self.portals.get_mut(name).and_then(|portal| portal.result.as_mut());
        let Some(result) = result else { return Ok(Progress::Done) };
        let (count, is_all) = result.write(out, *limit);
        if let Some(left) = limit {
            *left -= count;
        }
        // As in PostgreSQL, a limit that was just reached suspends: nobody looks ahead.
        match limit {
            Some(0) => out.extend_from_slice(&backend::PORTAL_SUSPENDED),
            _ if !is_all => return Ok(Progress::More),
            _ => backend::command_complete(out, &result.tag),
        }
        Ok(Progress::Done)
    }

    fn close(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        match target(body)? {
            (b'S', name) => drop(self.statements.remove(name)),
            (_, name) => drop(self.portals.remove(name)),
        }
        out.extend_from_slice(&backend::CLOSE_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, Error> {
        self.statements.get(name).ok_or_else(|| {
            let text = match name {
                b"" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)),
            };
            Error::new(Kind::UnknownStatement, text)
        })
    }

    /// Whether the command may be given now.
    fn admit(&self, command: &Command) -> Result<(), Error> {
        let ends = matches!(command, Command::Commit | Command::Rollback | Command::Empty);
        if self.status == TxStatus::Failed && !ends {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Error::new(Kind::FailedTransaction, text));
        }
        if command.needs_admin() && !self.is_admin {
            return Err(
                Error::new(Kind::NotAllowed, "admin access needed").hint("Name the user in admin_users.")
            );
        }
        Ok(())
    }

    async fn run(&mut self, command: &Command) -> Result<Answer, Error> {
        self.admit(command)?;
        if command.needs_admin() && !matches!(command, Command::Show(_)) {
            let told = match command.clone() {
                Command::Set { value, key } => {
                    Command::Set { value: config::tellable(&key, &value).to_owned(), key }
                }
                command => command,
            };
            tracing::info!(command = ?told, "given on the admin console");
        }
        let was = self.status;
        match command {
            Command::Begin => self.status = TxStatus::InTransaction,
            Command::Commit | Command::Rollback => self.status = TxStatus::Idle,
            Command::Shutdown(how) => self.shutdown = Some(*how),
            _ => {}
        }
        let outcome = match command {
            // As in PostgreSQL, the end of a failed transaction is a rollback.
            Command::Commit if was == TxStatus::Failed => Ok(Answer::tag("ROLLBACK")),
            Command::Pause(database) => self.pause(database).await,
            command => self.admin.run(command).await,
        };
        self.pausing = None;
        outcome
    }

    /// Pauses; to be canceled while it waits, unless somebody else had paused before.
    async fn pause(&mut self, database: &Option<String>) -> Result<Answer, Error> {
        if self.admin.begin_pause(database.as_deref())? {
            self.pausing = Some(database.clone());
        }
        self.admin.await_pause(database.as_deref()).await
    }
}

impl Given {
    /// Writes rows until there is enough to send, or none left, or `limit` is reached; how many, and whether none is left.
    fn write(&mut self, out: &mut BytesMut, limit: Option<usize>) -> (usize, bool) {
        let mut count = 0;
        while out.len() < PIECE && limit.is_none_or(|limit| count < limit) {
            let Some(row) = self.rows.next() else { return (count, true) };
            table::write_row(out, self.columns, &self.formats, &row);
            count += 1;
        }
        (count, false)
    }
}

impl ConsoleSession for Session {
    fn take<'a>(
        &'a mut self,
        tag: u8,
        body: &'a [u8],
        out: &'a mut BytesMut,
    ) -> Pin<Box<dyn Future<Output = Progress> + 'a>> {
        Box::pin(self.message(tag, body, out))
    }

    fn more<'a>(&'a mut self, out: &'a mut BytesMut) -> Pin<Box<dyn Future<Output = Progress> + 'a>> {
        Box::pin(self.go_on(out))
    }

    fn cancel(&mut self, out: &mut BytesMut) {
        self.going = Going::Nothing;
        if let Some(database) = self.pausing.take() {
            self.admin.take_back_pause(database.as_deref());
        }
        let error = Error::new(Kind::Canceled, "canceling statement due to user request");
        self.fail(&error, out);
        if self.simple {
            self.end_of_batch(out);
        }
    }

    fn sent(&mut self) {
        if let Some(how) = self.shutdown.take() {
            self.admin.shut_down(how);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Who shuts down and does not stay for the answer means it all the same.
        self.sent();
    }
}

/// What a Bind says, as far as it matters where there are no parameters.
struct Bind<'a> {
    portal: &'a [u8],
    statement: &'a [u8],
    parameters: u16,
    formats: Vec<i16>,
}

impl Bind<'_> {
    fn read(body: &[u8]) -> Option<Bind<'_>> {
        let (portal, rest) = cstr(body)?;
        let (statement, rest) = cstr(rest)?;
        let (_, rest) = codes(rest)?;
        let (&count, mut rest) = rest.split_first_chunk::<2>()?;
        let parameters = u16::from_be_bytes(count);
        for _ in 0..parameters {
            let (&length, after) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
            rest = after.get(length..)?;
        }
        let (formats, rest) = codes(rest)?;
        rest.is_empty().then_some(Bind { portal, statement, parameters, formats })
    }
}

/// A counted list of format codes.
fn codes(bytes: &[u8]) -> Option<(Vec<i16>, &[u8])> {
    let (&count, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(count)) * 2;
    let (codes, rest) = rest.split_at_checked(length)?;
    Some((codes.chunks_exact(2).map(|code| i16::from_be_bytes([code[0], code[1]])).collect(), rest))
}

/// The formats of so many columns: none given means text, one holds for all.
fn spread(codes: &[i16], columns: usize) -> Vec<Format> {
    let format = |code: &i16| if *code == 1 { Format::Binary } else { Format::Text };
    match codes {
        [] => vec![Format::Text; columns],
        [code] => vec![format(code); columns],
        codes => codes.iter().map(format).collect(),
    }
}

fn target(body: &[u8]) -> Result<(u8, &[u8]), Error> {
    match crate::protocol::frontend::read_target(body) {
        Some((kind @ (b'S' | b'P'), name)) => Ok((kind, name)),
        _ => Err(Error::new(Kind::ProtocolViolation, "malformed Describe or Close message")),
    }
}

fn unknown_portal(name: &[u8]) -> Error {
    let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Error::new(Kind::UnknownPortal, text)
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::InvalidValue, "invalid byte sequence for encoding \"UTF8\""))
}
