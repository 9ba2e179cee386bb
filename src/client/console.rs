//! A client of the admin console: carries messages between its connection and its session in `admin`.
//!
//! It is in its worker's list of clients like everybody, so that it is shown, can be ended, and can cancel what it waits
//! for. A shutdown of the process does not wait for it.

use crate::client::cell::{Activity, ClientCell, Origin, Verdict};
use crate::client::connection::{Connection, MAX_AUTH_MESSAGE};
use crate::client::context::{ConsoleSession, Context, Progress};
use crate::client::greeting::notice;
use crate::client::login::{Refusal, Registered};
use crate::config::AuthType;
use crate::error::{Error, Kind};
use crate::moment::Moment;
use crate::net::stream::Address;
use crate::protocol::frame::HEADER;
use crate::protocol::startup::Startup;
use crate::protocol::{Header, TxStatus, backend};
use crate::routing::{ADMIN_DATABASES, Limits};
use bytes::BytesMut;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// Answers gathered before they are sent without being asked for.
const GATHERED: usize = 64 * 1024;

/// The user who needs no password if it runs as the same system user as pgvalet and comes over the Unix socket.
const OWNER: &str = "pgbouncer";

/// Whether the console is asked for by who runs the process: as in pgbouncer, that one may do everything.
pub(super) fn is_owner(connection: &Connection, database: &str, user: &str) -> bool {
    ADMIN_DATABASES.contains(&database)
        && user == OWNER
        && connection.peer_uid() == Some(rustix::process::geteuid().as_raw())
}

/// Serves the console until the client leaves. The user has proved who it is.
pub(super) async fn serve(
    context: &Rc<Context>,
    connection: &mut Connection,
    startup: &Startup,
    peer: &Address,
) -> Result<(), Refusal> {
    let config = context.config();
    let user = startup.user().unwrap_or_default();
    let is_admin = config.general.admin_users.iter().any(|name| name == user)
        || is_owner(connection, startup.database(), user);
    // As in pgbouncer: where any name is taken, any name may look.
    let may_look = config.general.auth_type == AuthType::Any
        || config.general.stats_users.iter().any(|name| name == user);
    if !is_admin && !may_look {
        let text = format!("not allowed: user \"{user}\" may not use the admin console");
        return Err(Error::new(Kind::InvalidAuthorization, text)
            .hint("Name the user in admin_users or stats_users.")
            .into());
    }
    let origin = Origin::of(&connection.stream, startup, peer);
    // Nobody is thrown out of the console by the clock.
    let limits = Rc::new(Limits::default());
    let (slot, cell) =
        context.register(startup.minor, |key| ClientCell::new(startup.database(), user, key, limits, origin));
    let _registered = Registered { context: context.clone(), slot };

    let mut out = BytesMut::new();
    backend::authentication(&mut out, 0, &[]);
    let parameters = [
        ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/bouncer")),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("TimeZone", "UTC"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", if is_admin { "on" } else { "off" }),
    ];
    for (name, value) in parameters {
        backend::parameter_status(&mut out, name, value);
    }
    backend::backend_key_data(&mut out, cell.key.pid, &cell.key.secret);
    if let Some(text) = &config.general.login_notify_message {
        notice(&mut out, text);
    }
    backend::ready_for_query(&mut out, TxStatus::Idle);
    connection.write(&out).await?;
    let session = context.process.console.clone().open(is_admin);
    converse(connection, &cell, session).await
}

async fn converse(
    connection: &mut Connection,
    cell: &ClientCell,
    mut session: Box<dyn ConsoleSession>,
) -> Result<(), Refusal> {
    let mut out = BytesMut::new();
    loop {
        cell.set_activity(Activity::Idle, Moment::now());
        let (tag, message) = tokio::select! {
            biased;
            error = told_to_end(cell) => return Err(error.into()),
            message = connection.console_message() => message?,
        };
        if tag == b'X' {
            return Ok(());
        }
        cell.set_activity(Activity::Active, Moment::now());
        let mut progress = tokio::select! {
            // What has come is done, even if nobody is there any more for the answer.
            biased;
            progress = session.take(tag, &message[HEADER..], &mut out) => Some(progress),
            canceled = interrupted(cell, connection) => canceled?,
        };
        while progress == Some(Progress::More) {
            send(cell, connection, &mut out).await?;
            progress = tokio::select! {
                biased;
                progress = session.more(&mut out) => Some(progress),
                canceled = interrupted(cell, connection) => canceled?,
            };
        }
        if progress.is_none() {
            session.cancel(&mut out);
        }
        if matches!(tag, b'Q' | b'S' | b'H' | b'F') || out.len() > GATHERED {
            send(cell, connection, &mut out).await?;
            session.sent();
        }
    }
}

/// What ends an answer before its time: a cancel request, which is `None`, an administrator, or the client's end.
async fn interrupted(cell: &ClientCell, connection: &mut Connection) -> Result<Option<Progress>, Refusal> {
    tokio::select! {
        summons = summons(cell) => match summons {
            Summons::End(error) => Err(error.into()),
            Summons::Cancel => Ok(None),
        },
        gone = connection.wait_gone() => gone.map(|()| None),
    }
}

/// Sends what was gathered; a client that does not read it can be ended all the same.
async fn send(cell: &ClientCell, connection: &mut Connection, out: &mut BytesMut) -> Result<(), Refusal> {
    tokio::select! {
        biased;
        sent = connection.write(out) => sent?,
        error = told_to_end(cell) => return Err(error.into()),
    }
    out.clear();
    Ok(())
}

/// What a client of the console is told by others.
enum Summons {
    Cancel,
    End(Error),
}

/// Waits until somebody ends the client; cancel requests have nothing to cancel.
async fn told_to_end(cell: &ClientCell) -> Error {
    loop {
        if let Summons::End(error) = summons(cell).await {
            return error;
        }
    }
}

/// Waits for a word from others. The process may shut down without the console being told.
async fn summons(cell: &ClientCell) -> Summons {
    poll_fn(|cx| {
        cell.listen(cx);
        if !cell.is_summoned() {
            return Poll::Pending;
        }
        match cell.hear() {
            (Some(Verdict::End(error)), _) => Poll::Ready(Summons::End(error)),
            (_, Some(_done)) => Poll::Ready(Summons::Cancel),
            _ => Poll::Pending,
        }
    })
    .await
}

impl Connection {
    /// The next message of a client of the admin console: its tag, and all of it.
    async fn console_message(&mut self) -> Result<(u8, Vec<u8>), Refusal> {
        loop {
            let header = Header::parse(self.buffer.bytes())
                .and_then(|header| {
                    header.map_or(Ok(None), |header| header.check_frontend().map(|()| Some(header)))
                })
                .map_err(|error| Error::new(Kind::ProtocolViolation, error.to_string()))?;
            match header {
                Some(header) if header.total() > MAX_AUTH_MESSAGE => {
                    return Err(Error::new(Kind::ProtocolViolation, "invalid message length").into());
                }
                Some(header) if self.buffer.len() >= header.total() => {
                    let message = self.buffer.bytes()[..header.total()].to_vec();
                    self.buffer.advance(header.total());
                    return Ok((header.tag, message));
                }
                Some(header) => self.read_more(header.total()).await?,
                None => self.read_more(1024).await?,
            }
        }
    }

    /// Ends when the client has gone; what it sends meanwhile is kept, up to the size of a message.
    async fn wait_gone(&mut self) -> Result<(), Refusal> {
        loop {
            if self.buffer.len() > MAX_AUTH_MESSAGE {
                return std::future::pending().await;
            }
            self.read_more(self.buffer.len() + 1024).await?;
        }
    }
}
