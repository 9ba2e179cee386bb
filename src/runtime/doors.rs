//! Where clients come in: listeners, and whether they are accepted at the moment. The endpoint for metrics likewise.

use crate::admin::{Admin, http};
use crate::client::context::Process;
use crate::config::General;
use crate::runtime::listener::{Listener, Shift};
use crate::runtime::worker::{Command, Handle};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The listeners of the process.
#[derive(Debug)]
pub(super) struct Doors {
    listeners: Vec<Listener>,
    accepting: Vec<Shift>,
    metrics: Option<TcpListener>,
    serving: Option<http::Serving>,
}

/// Copies of all sockets: the listeners, each with whether a file goes with it, and the one for metrics.
pub(super) type Copies = (Vec<(OwnedFd, bool)>, Option<OwnedFd>);

impl Doors {
    /// Listeners from which nobody accepts yet.
    pub(super) fn new(listeners: Vec<Listener>, metrics: Option<TcpListener>) -> Doors {
        Doors { listeners, accepting: Vec::new(), metrics, serving: None }
    }

    /// Begins to accept, from each listener on another worker.
    pub(super) async fn open(
        &mut self,
        workers: &[Handle],
        process: &Arc<Process>,
        admin: &Arc<Admin>,
        general: &General,
    ) -> Result<(), String> {
        for (listener, worker) in self.listeners.iter_mut().zip(workers.iter().cycle()) {
            listener.claim_file();
            let address = listener.address();
            let failed = |error: io::Error| format!("cannot accept connections on {address}: {error}");
            let (porter, mut shift) =
                listener.porter(workers.to_vec(), process.clone(), general).map_err(failed)?;
            let _ = worker.commands.send(Command::Accept(Box::new(porter)));
            shift.has_begun().await.map_err(failed)?;
            tracing::info!(target: "pgvalet::runtime::listener", %address, "listening");
            self.accepting.push(shift);
        }
        if let Some(listener) = &self.metrics {
            let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
            let serving = listener.try_clone().and_then(|copy| http::start(copy, admin.clone()));
            self.serving = Some(serving.map_err(|error| format!("cannot serve metrics: {error}"))?);
            tracing::info!(address, "metrics are served");
        }
        Ok(())
    }

    /// Accepts nobody for now; who connects waits in the kernel, for this process or another one that has the sockets.
    pub(super) async fn shut(&mut self) {
        for shift in self.accepting.drain(..) {
            shift.end().await;
        }
    }

    /// Accepts nobody any more: whoever connects is refused. Metrics are served to the end.
    pub(super) async fn close(&mut self) {
        self.shut().await;
        self.listeners.clear();
    }

    /// Whether nobody will be accepted any more.
    pub(super) fn are_closed(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Leaves all to another process, which has copies: to be called while nobody accepts.
    pub(super) fn give_up(&mut self) {
        self.listeners.iter_mut().for_each(Listener::give_up_file);
        self.serving = None;
    }

    /// Copies of all sockets, for another process.
    ///
    /// # Errors
    /// The system's, if it has no descriptors for that.
    pub(super) fn copies(&self) -> io::Result<Copies> {
        let listeners = self.listeners.iter().map(Listener::copy).collect::<io::Result<_>>()?;
        let copy = |listener: &TcpListener| listener.try_clone().map(OwnedFd::from);
        Ok((listeners, self.metrics.as_ref().map(copy).transpose()?))
    }
}
