//! The supervisor's part of an upgrade: what it does at each word from another process.

use crate::client::Arrival;
use crate::client::context::{CancelRequest, Messenger};
use crate::handover::{Event, Link, Message};
use crate::runtime::daemon::PidFile;
use crate::runtime::listener::adopt;
use crate::runtime::supervisor::{Running, notify};
use crate::runtime::upgrade::giver::{self, Gift, Program};
use crate::runtime::upgrade::{Heard, Links, Newcomer, Side};
use crate::runtime::worker::Command;
use sd_notify::NotifyState;
use std::cell::Cell;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Who waits for the outcome of an upgrade.
type Asker = oneshot::Sender<Result<(), String>>;

/// How the process stands towards others.
pub(in crate::runtime) struct Upgrade {
    /// The processes that this one talks to.
    pub(in crate::runtime) links: Arc<Links>,
    /// Another process has taken this one's place.
    pub(in crate::runtime) replaced: bool,
    program: Option<Program>,
    hear: UnboundedSender<Heard>,
    /// Who waits for a new process to start.
    asker: Option<Asker>,
    /// The new process ends as it was told to: this one does not step in.
    is_farewell: Cell<bool>,
    /// What clients of the process before say of columns means the same here.
    has_same_shapes: bool,
}

impl Upgrade {
    /// Of a process that knows no other.
    pub(in crate::runtime) fn new(hear: UnboundedSender<Heard>) -> Upgrade {
        let program = Program::own();
        if let Err(error) = &program {
            tracing::debug!(%error, "no upgrade is possible: the program's own path is not known");
        }
        Upgrade {
            links: Arc::default(),
            replaced: false,
            program: program.ok(),
            hear,
            asker: None,
            is_farewell: Cell::new(false),
            has_same_shapes: false,
        }
    }

    /// Notes whether what clients of the process before say of columns means the same here.
    pub(in crate::runtime) fn note_shapes(&mut self, has_same: bool) {
        self.has_same_shapes = has_same;
    }

    /// Whether this process took another one's place.
    pub(in crate::runtime) fn has_predecessor(&self) -> bool {
        self.links.get(Side::Predecessor).is_some()
    }

    /// Tells the process before that this one ends because it is to.
    pub(in crate::runtime) fn say_farewell(&self) {
        if let Some(link) = self.links.get(Side::Predecessor) {
            link.farewell();
        }
    }
}

impl Running {
    /// Starts a process to take this one's place; `asker` is told when it has, or why it has not.
    pub(in crate::runtime) fn begin_upgrade(&mut self, asker: Asker) {
        let outcome = self.offer();
        match outcome {
            Ok(()) => self.upgrade.asker = Some(asker),
            Err(reason) => drop(asker.send(Err(reason))),
        }
    }

    fn offer(&self) -> Result<(), String> {
        if self.upgrade.asker.is_some() {
            return Err("another upgrade is under way".into());
        }
        if self.doors.are_closed() {
            return Err("pgvalet is shutting down".into());
        }
        let program = self.upgrade.program.clone().ok_or("the path of the program is not known")?;
        let (listeners, metrics) =
            self.doors.copies().map_err(|error| format!("no descriptors to spare: {error}"))?;
        let lessons = self.process.keys.learnt.lessons();
        let (greetings, orders) = (self.registry.greetings(), self.registry.orders());
        let gift = Gift { program, listeners, metrics, lessons, greetings, orders };
        giver::start(gift, self.upgrade.hear.clone()).map_err(|error| format!("no thread to spare: {error}"))
    }

    /// Takes in what was heard of another process. Whether it takes this one's place now.
    pub(in crate::runtime) async fn take_in(&mut self, heard: Heard) -> bool {
        let outcome = match heard {
            Heard::Started(outcome) => outcome,
            heard => {
                self.hear_of_others(heard);
                return false;
            }
        };
        let outcome = match outcome {
            Ok(newcomer) => self.give_way(newcomer).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &outcome {
            tracing::error!(reason, "the upgrade failed: this process goes on");
        }
        let is_replaced = outcome.is_ok();
        if let Some(asker) = self.upgrade.asker.take() {
            let _ = asker.send(outcome);
        }
        is_replaced
    }

    /// Lets a new process, which could begin to serve, do so.
    async fn give_way(&mut self, newcomer: Newcomer) -> Result<(), String> {
        let Newcomer { stream, pid } = newcomer;
        let hear = self.upgrade.hear.clone();
        let heard = move |event| drop(hear.send(Heard::Of(Side::Successor, event)));
        let link = Link::start(stream, heard).map_err(|error| format!("no thread to spare: {error}"))?;
        let link = Arc::new(link);
        self.doors.shut().await;
        self.doors.give_up();
        // It was told by this process, the main one until now, or systemd would not believe it.
        notify(&[NotifyState::MainPid(pid)]);
        link.say(Message::Go);
        // Who has logged in since the start counts too.
        link.say(Message::Learnt(self.process.keys.learnt.lessons()));
        self.upgrade.links.set(Side::Successor, Some(link.clone()));
        self.upgrade.replaced = true;
        self.upgrade.is_farewell.set(false);
        self.admin.set_draining(true);
        self.registry.set_leaving(true);
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Move(Some(link.clone())));
        }
        tracing::info!(pid, "another process has taken over; clients go there as they become idle");
        Ok(())
    }

    /// Whether what was heard means that the process which had taken over is gone without having been told to end.
    pub(in crate::runtime) fn is_alone_again(&self, heard: &Heard) -> bool {
        matches!(heard, Heard::Of(Side::Successor, Event::Closed)) && !self.upgrade.is_farewell.get()
    }

    /// Goes on in place of the process that had taken over and is gone. Why it cannot, if it cannot.
    pub(in crate::runtime) async fn resume(&mut self) -> Option<String> {
        tracing::error!("the process that had taken over is gone: this one goes on");
        self.upgrade.links.set(Side::Successor, None);
        self.upgrade.replaced = false;
        notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
        self.registry.set_leaving(false);
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Move(None));
        }
        self.admin.set_draining(false);
        if let Some(Err(reason)) = self.pidfile.as_ref().map(PidFile::rewrite) {
            tracing::warn!("{reason}");
        }
        self.open_doors().await.err()
    }

    /// Takes in what a process says that serves.
    pub(in crate::runtime) fn hear_of_others(&self, heard: Heard) {
        let Heard::Of(side, event) = heard else { return };
        match event {
            Event::Client(migrant) => {
                let arrival = Arrival::New { shapes: self.upgrade.has_same_shapes };
                adopt(Command::Adopt(migrant, arrival), &self.workers, &self.process);
            }
            Event::Returned(migrant) => {
                adopt(Command::Adopt(migrant, Arrival::Back), &self.workers, &self.process);
            }
            Event::Cancel { id, pid, secret } => self.cancel_for(side, id, pid, secret),
            Event::Said(Message::Learnt(lessons)) => self.process.keys.learnt.learn(lessons),
            Event::Said(Message::Farewell) => self.upgrade.is_farewell.set(true),
            Event::Said(message) => tracing::debug!(?side, ?message, "another process said something"),
            Event::Closed => {
                self.upgrade.links.set(side, None);
                if side == Side::Predecessor {
                    tracing::info!("the replaced process has ended");
                }
            }
        }
    }

    /// Deals with a cancel request that another process has passed on.
    fn cancel_for(&self, side: Side, id: u64, pid: i32, secret: Vec<u8>) {
        let from = match side {
            Side::Predecessor => Messenger::Predecessor,
            Side::Successor => Messenger::Successor,
        };
        let (done, finished) = oneshot::channel();
        self.process.route_cancel(CancelRequest { pid, place: pid, secret, done, from });
        if let Some(link) = self.upgrade.links.get(side) {
            tokio::task::spawn_local(async move {
                let _ = finished.await;
                link.say(Message::Canceled(id));
            });
        }
    }
}
