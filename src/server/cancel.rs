//! Cancel requests towards a server.
//!
//! PostgreSQL signals its backend before it closes the connection that brought the request. So a server must not go to
//! another client before that connection has closed: [`CancelGate`] counts the requests on their way.

use crate::protocol::frontend;
use crate::server::BackendKey;
use crate::server::open::{Route, open_again};
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Cancel requests on their way to one server.
#[derive(Debug, Default)]
pub struct CancelGate {
    pending: AtomicU32,
    doubtful: AtomicBool,
    quiet: Notify,
}

impl CancelGate {
    /// Whether a request is on its way.
    #[inline]
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }

    /// Requests on their way.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Counts a request in, until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<CancelGate>) -> Pending {
        self.pending.fetch_add(1, Ordering::AcqRel);
        Pending(self.clone())
    }

    /// Notes that nobody knows whether a request will still reach the server: it must not serve another client.
    pub fn doubt(&self) {
        self.doubtful.store(true, Ordering::Release);
    }

    /// Whether a request may still reach the server although nobody waits for it any more.
    #[inline]
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    /// Waits until no request is on its way.
    pub async fn wait_quiet(&self) {
        loop {
            let quiet = self.quiet.notified();
            if !self.is_busy() {
                return;
            }
            quiet.await;
        }
    }
}

/// One request on its way.
#[derive(Debug)]
pub struct Pending(Arc<CancelGate>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::AcqRel);
        self.0.quiet.notify_waiters();
    }
}

/// Asks the server behind `route` to cancel what the backend of `key` does, and waits until it has taken the request, but
/// not longer than `limit`.
///
/// # Errors
/// The socket's, or `TimedOut`.
pub async fn cancel(route: &Route, key: &BackendKey, limit: Option<Duration>) -> io::Result<()> {
    if key.secret.is_empty() {
        return Ok(());
    }
    let deliver = async {
        let mut stream = open_again(route).await?;
        let mut out = BytesMut::new();
        frontend::cancel(&mut out, key.pid, &key.secret);
        stream.write_all(&out).await?;
        // PostgreSQL answers with nothing but the end of the stream.
        let mut nothing = [0; 64];
        while stream.read(&mut nothing).await? > 0 {}
        Ok(())
    };
    crate::alarm::timeout(limit.unwrap_or(Duration::MAX), deliver)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
