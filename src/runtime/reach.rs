//! How the rest of the process reaches the supervisor and the workers: what the admin console can make the process do, and
//! the way of cancel requests.

use crate::admin::command::Shutdown;
use crate::admin::{Control, Pending};
use crate::client::context::{CancelRequest, CancelRoute, Report};
use crate::runtime::upgrade::Links;
use crate::runtime::worker::{Command, Handle};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// What the admin console asks of the supervisor.
#[derive(Debug)]
pub(super) enum Request {
    Upgrade(oneshot::Sender<Result<(), String>>),
    Reload(oneshot::Sender<Result<(), String>>),
    Set { key: String, value: String, answer: oneshot::Sender<Result<Option<String>, String>> },
    ShutDown(Shutdown),
}

/// Reaches the supervisor and the workers from anywhere.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) requests: UnboundedSender<Request>,
    /// There once all have been started.
    pub(super) workers: Arc<OnceLock<Vec<Handle>>>,
    pub(super) links: Arc<Links>,
}

impl Reach {
    fn workers(&self) -> &[Handle] {
        self.workers.get().map_or(&[], Vec::as_slice)
    }

    /// Gives each worker a command that it answers, and gathers the answers. One that has ended gives none.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let ask = |worker: &Handle| {
            let (answer, outcome) = oneshot::channel();
            let _ = worker.commands.send(command(answer));
            outcome
        };
        let asked: Vec<_> = self.workers().iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for outcome in asked {
            answers.extend(outcome.await.ok());
        }
        answers
    }

    /// Asks the supervisor.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Request,
    ) -> Result<T, String> {
        let (answer, outcome) = oneshot::channel();
        let gone = || "pgvalet is shutting down".to_owned();
        self.requests.send(request(answer)).map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl Control for Reach {
    fn reload(&self) -> Pending<'_, Result<(), String>> {
        Box::pin(async {
            self.ask(Request::Reload).await?;
            // Whoever is told so can count on it: every worker has put it in force.
            self.stir().await;
            Ok(())
        })
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a str) -> Pending<'a, Result<Option<String>, String>> {
        let (key, value) = (key.to_owned(), value.to_owned());
        Box::pin(async {
            let word = self.ask(move |answer| Request::Set { key, value, answer }).await?;
            self.stir().await;
            Ok(word)
        })
    }

    fn upgrade(&self) -> Pending<'_, Result<(), String>> {
        Box::pin(self.ask(Request::Upgrade))
    }

    fn shut_down(&self, how: Shutdown) {
        let _ = self.requests.send(Request::ShutDown(how));
    }

    fn worker_loads(&self) -> Vec<u32> {
        self.workers().iter().map(|worker| worker.load.load(Ordering::Relaxed)).collect()
    }

    fn reports(&self) -> Pending<'_, Vec<Report>> {
        Box::pin(self.ask_all(Command::Report))
    }

    fn stir(&self) -> Pending<'_, ()> {
        Box::pin(async { drop(self.ask_all(Command::Stir).await) })
    }

    fn kill<'a>(&'a self, database: Option<&'a str>) -> Pending<'a, ()> {
        let database: Option<Arc<str>> = database.map(Into::into);
        Box::pin(async move { drop(self.ask_all(|done| Command::Kill(database.clone(), done)).await) })
    }

    fn kill_client(&self, id: u32) -> Pending<'_, bool> {
        Box::pin(async move { self.ask_all(|found| Command::KillClient(id, found)).await.contains(&true) })
    }
}

impl CancelRoute for Reach {
    fn pass(&self, worker: usize, request: CancelRequest) {
        if let Some(handle) = self.workers.get().and_then(|workers| workers.get(worker)) {
            let _ = handle.commands.send(Command::Cancel(request));
        } else {
            self.links.pass(request);
        }
    }

    fn pass_elsewhere(&self, request: CancelRequest) {
        self.links.pass(request);
    }
}
