//! One session of the console: the simple and the extended protocol, as PostgreSQL speaks them.
//!
//! Owns prepared statements, portals and the status of the transaction; what commands do is in [`Admin`]. A transaction has
//! no effect here, but drivers open them and look at the status.

use crate::admin::command::{self, Command, Shutdown};
use crate::admin::table::{self, Column, Format, Row};
use crate::admin::{Admin, Answer};
use crate::client::context::ConsoleSession;
use crate::error::{Error, Kind};
use crate::protocol::frame::cstr;
use crate::protocol::{TxStatus, backend};
use bytes::BytesMut;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Names that one session may have for statements or portals.
const NAMES: usize = 1000;

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
    result: Option<(&'static [Column], std::vec::IntoIter<Row>, String)>,
}

impl Session {
    pub(super) fn new(admin: Arc<Admin>, is_admin: bool) -> Session {
        admin.sessions.fetch_add(1, Ordering::Relaxed);
        Session {
            admin,
            is_admin,
            status: TxStatus::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            simple: false,
            pausing: None,
            shutdown: None,
        }
    }

    async fn message(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) {
        self.simple = matches!(tag, b'Q' | b'F');
        if self.skipping && tag != b'S' {
            return;
        }
        let outcome = match tag {
            b'Q' => self.query(body, out).await,
            b'P' => self.parse(body, out),
            b'B' => self.bind(body, out),
            b'D' => self.describe(body, out),
            b'E' => self.execute(body, out).await,
            b'C' => self.close(body, out),
            b'S' => {
                self.skipping = false;
                self.end_of_batch(out);
                Ok(())
            }
            b'H' => Ok(()),
            b'F' => Err(Error::new(Kind::Unsupported, "the admin console has no functions")),
            _ => Err(Error::new(Kind::ProtocolViolation, "unexpected message type")),
        };
        if let Err(error) = outcome {
            self.fail(&error, out);
        }
        if self.simple {
            self.end_of_batch(out);
        }
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

    async fn query(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let sql = text(body.strip_suffix(&[0]).unwrap_or(body))?;
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        for command in command::parse(sql) {
            let command = command?;
            if command == Command::Empty {
                out.extend_from_slice(&backend::EMPTY_QUERY_RESPONSE);
                continue;
            }
            let answer = self.run(&command).await?;
            answer.notices.iter().for_each(|notice| notice.write(out));
            let columns = command.columns();
            if let Some(columns) = columns {
                let formats = vec![Format::Text; columns.len()];
                table::describe(out, columns, &formats);
                answer.rows.iter().for_each(|row| table::write_row(out, columns, &formats, row));
            }
            backend::command_complete(out, &answer.tag);
        }
        Ok(())
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

    async fn execute(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let malformed = || Error::new(Kind::ProtocolViolation, "malformed Execute message");
        let (name, rest) = cstr(body).ok_or_else(malformed)?;
        let limit = i32::from_be_bytes(rest.try_into().map_err(|_| malformed())?);
        let mut portal = self.portals.remove(name).ok_or_else(|| unknown_portal(name))?;
        if portal.command == Command::Empty {
            out.extend_from_slice(&backend::EMPTY_QUERY_RESPONSE);
            self.portals.insert(name.to_vec(), portal);
            return Ok(());
        }
        if portal.result.is_none() {
            let answer = self.run(&portal.command).await?;
            answer.notices.iter().for_each(|notice| notice.write(out));
            let columns = portal.command.columns().unwrap_or_default();
            portal.result = Some((columns, answer.rows.into_iter(), answer.tag));
        }
        if let Some((columns, rows, tag)) = &mut portal.result {
            let formats = spread(&portal.formats, columns.len());
            let most = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
            let given = rows.take(most).map(|row| table::write_row(out, columns, &formats, &row)).count();
            // As in PostgreSQL, a limit that was just reached suspends: nobody looks ahead.
            if given == most {
                out.extend_from_slice(&backend::PORTAL_SUSPENDED);
            } else {
                backend::command_complete(out, tag);
            }
        }
        self.portals.insert(name.to_vec(), portal);
        Ok(())
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
            tracing::info!(?command, "given on the admin console");
        }
        let was = self.status;
        match command {
            Command::Begin => self.status = TxStatus::InTransaction,
            Command::Commit | Command::Rollback => self.status = TxStatus::Idle,
            Command::Shutdown(how) => self.shutdown = Some(*how),
            Command::Pause(database) => self.pausing = Some(database.clone()),
            _ => {}
        }
        let outcome = match command {
            // As in PostgreSQL, the end of a failed transaction is a rollback.
            Command::Commit if was == TxStatus::Failed => Ok(Answer::tag("ROLLBACK")),
            command => self.admin.run(command).await,
        };
        self.pausing = None;
        outcome
    }
}

impl ConsoleSession for Session {
    fn take<'a>(
        &'a mut self,
        tag: u8,
        body: &'a [u8],
        out: &'a mut BytesMut,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(self.message(tag, body, out))
    }

    fn cancel(&mut self, out: &mut BytesMut) {
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
        self.admin.sessions.fetch_sub(1, Ordering::Relaxed);
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
