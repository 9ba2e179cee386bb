//! One connection that listens.

use super::Notification;
use crate::alarm::timeout;
use crate::pool::Pool;
use crate::protocol::{ErrorFields, backend, frontend};
use crate::server::open::Means;
use crate::server::{Reader, Server, ServerError, login};
use bytes::BytesMut;
use std::sync::Arc;
use std::time::Duration;

/// What the connection calls itself.
const NAME: &str = "pgvalet listener";
/// A listener is idle by nature. (A setting of PostgreSQL 14 and later.)
const PATIENCE: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) ANY ('{idle_session_timeout,statement_timeout,lock_timeout}'::pg_catalog.text[]);";
/// How long a Query of this connection may take before it is given up.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection, logged in.
#[derive(Debug)]
pub(super) struct Ear {
    server: Server,
    reader: Reader,
    /// The pool that it logged in for, and the generation of that pool's servers then.
    pub(super) pool: Arc<Pool>,
    generation: u32,
    /// It was asked something and has not answered.
    pub(super) is_busy: bool,
}

/// What it says.
#[derive(Debug)]
pub(super) enum Heard {
    Notification(Notification),
    /// The Query is answered.
    Ready,
    /// Nothing of interest.
    Nothing,
}

impl Ear {
    /// Logs in as the user of a pool, and runs `sql`.
    pub(super) async fn open(pool: Arc<Pool>, means: &Means, sql: &str) -> Result<Ear, ServerError> {
        let mut target = pool.target.clone();
        // Nothing that is configured for clients matters here; channels and payloads come in one encoding.
        target.startup =
            vec![("application_name".into(), NAME.into()), ("client_encoding".into(), "UTF8".into())];
        target.connect_query = None;
        let generation = pool.generation();
        let mut server = login::login(&target, means).await?;
        let first = format!("{PATIENCE}{sql}");
        timeout(LIMIT, server.run(&first)).await.unwrap_or(Err(ServerError::Timeout))?;
        let reader = Reader::default();
        Ok(Ear { server, reader, pool, generation, is_busy: false })
    }

    /// Process id of its backend.
    pub(super) fn pid(&self) -> i32 {
        self.server.key.pid
    }

    /// Asks it something.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<(), ServerError> {
        let mut out = BytesMut::new();
        frontend::query(&mut out, sql);
        self.is_busy = true;
        timeout(LIMIT, self.server.stream.write_all(&out)).await.map_err(|_| ServerError::Timeout)??;
        Ok(())
    }

    /// What it says next. May be given up at any time.
    pub(super) async fn next(&mut self) -> Result<Heard, ServerError> {
        let (tag, body) = self.reader.next(&mut self.server.stream).await?;
        self.read(tag, &body)
    }

    /// What it has said already, if anything is left of it.
    pub(super) fn at_hand(&mut self) -> Result<Option<Heard>, ServerError> {
        let Some((tag, body)) = self.reader.at_hand()? else { return Ok(None) };
        self.read(tag, &body).map(Some)
    }

    fn read(&mut self, tag: u8, body: &[u8]) -> Result<Heard, ServerError> {
        match tag {
            b'A' => {
                let (pid, channel, payload) = backend::read_notification(body)
                    .ok_or(ServerError::Protocol("malformed NotificationResponse"))?;
                Ok(Heard::Notification(Notification {
                    pid,
                    channel: channel.into(),
                    payload: payload.into(),
                }))
            }
            b'E' => {
                let error = ServerError::Refused(body.to_vec().into());
                let is_fatal = ErrorFields::new(body).is_fatal();
                Err(if is_fatal { ServerError::Lost(Some(Box::new(error))) } else { error })
            }
            b'Z' => {
                self.is_busy = false;
                Ok(Heard::Ready)
            }
            b'S' | b'N' | b'C' | b'T' | b'D' | b'I' => Ok(Heard::Nothing),
            _ => Err(ServerError::Protocol("a message that nobody asked for")),
        }
    }

    /// Says goodbye.
    pub(super) fn close(mut self) {
        self.server.farewell();
    }

    /// Whether it is to be replaced, or closed: what has become of its pool.
    pub(super) fn fate(&self) -> Fate {
        match () {
            () if self.pool.is_paused() => Fate::Pause,
            () if self.pool.is_retired() || self.pool.generation() != self.generation => Fate::Replace,
            () => Fate::Stay,
        }
    }
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stay,
    /// An administrator wants its server without connections.
    Pause,
    /// It has to make room for a new one.
    Replace,
}
