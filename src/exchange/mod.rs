//! Notifications for clients that hold no server: one connection a database listens for all of them.
//!
//! An [`Exchange`] has a thread of its own with one connection for each database that somebody listens to (`listener`).
//! Workers ask it for channels and get by post what comes in on them. Everything for one worker comes in one queue, so its
//! order is PostgreSQL's, and what is said of the listening itself stands at its place among the notifications. It knows
//! nothing of clients but their numbers; what one of them has missed, or cannot take, is decided where the client is
//! (`client::mailbox`).

mod book;
mod card;
mod desk;
mod ear;
mod listener;

pub use card::{Card, State};

use crate::config::Host;
use crate::pool::{Pool, PoolKey};
use crate::server::login::Target;
use crate::server::open::Means;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A database: notifications know no users.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Where its server is.
    pub hosts: Vec<Host>,
    /// Port, also of Unix sockets.
    pub port: u16,
    /// Its name there.
    pub dbname: String,
}

impl Place {
    /// Where a pool's servers are.
    #[must_use]
    pub fn of(target: &Target) -> Place {
        Place { hosts: target.hosts.clone(), port: target.port, dbname: target.dbname.clone() }
    }

    /// Its hosts, for those who look.
    #[must_use]
    pub fn shown_hosts(&self) -> String {
        let shown = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(directory) => directory.display().to_string(),
        };
        self.hosts.iter().map(shown).collect::<Vec<_>>().join(",")
    }
}

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Process id of the backend that sent it.
    pub pid: i32,
    /// Its channel.
    pub channel: Box<[u8]>,
    /// What it says.
    pub payload: Box<[u8]>,
}

impl Notification {
    /// Bytes that it takes on its way to a client.
    #[must_use]
    pub fn size(&self) -> usize {
        self.channel.len() + self.payload.len() + 11
    }
}

/// Somebody who listens: a number that is never given twice.
pub type Subscriber = u64;

/// What a worker asks for one of its clients.
#[derive(Debug)]
pub struct Change {
    /// Whose channels change.
    pub subscriber: Subscriber,
    /// Its worker.
    pub worker: usize,
    /// Its pool: who logs in to listen, if nobody has yet.
    pub pool: Arc<Pool>,
    /// Numbers the changes of one subscriber.
    pub request: u32,
    /// Channels that it wants to hear.
    pub add: Vec<Arc<str>>,
    /// Channels that it does not want to hear any more.
    pub remove: Vec<Arc<str>>,
}

/// What a worker asks.
#[derive(Debug)]
pub(super) enum Ask {
    /// Its post goes here.
    Worker(usize, UnboundedSender<Post>),
    /// Somebody listens to other channels from now on.
    Change(Arc<Place>, Change),
    /// Somebody has left.
    Leave(Arc<Place>, Subscriber),
}

/// What comes by post.
#[derive(Debug, Clone)]
pub enum Post {
    /// A notification, for these.
    Notification(Arc<Notification>, Arc<[Subscriber]>),
    /// The server has confirmed all channels that this one has asked for, up to this request. What is notified on `marker`
    /// comes back as [`Post::Marker`].
    Listening {
        /// Whose.
        subscriber: Subscriber,
        /// Its last change.
        request: u32,
        /// The channel for markers.
        marker: Arc<str>,
    },
    /// What this one has notified on the channel for markers: it stands between the notifications where PostgreSQL has it.
    Marker {
        /// Who.
        subscriber: Subscriber,
        /// What it has said.
        token: u64,
    },
    /// Nobody listens: the server cannot be reached, or does not let anybody in. It is tried again.
    Unavailable(Subscriber),
    /// The connection was lost. What is notified until the next [`Post::Listening`] is lost.
    Gap {
        /// For whom.
        subscribers: Arc<[Subscriber]>,
        /// Why.
        reason: Arc<str>,
        /// Nobody will listen for them any more: the database is somewhere else now, or gone.
        is_final: bool,
    },
}

/// Finds the pool that has taken the place of one that was retired.
pub type Resolve = Box<dyn Fn(&PoolKey) -> Option<Arc<Pool>> + Send>;

/// All listeners. One for the process.
#[derive(Debug)]
pub struct Exchange {
    asks: UnboundedSender<Ask>,
    cards: Arc<Mutex<Vec<Arc<Card>>>>,
}

impl Exchange {
    /// Starts the thread; it ends with the exchange.
    ///
    /// # Errors
    /// The system's, if it gives no thread or no runtime.
    pub fn start(means: Arc<Means>, resolve: Resolve) -> std::io::Result<Exchange> {
        let (asks, receiver) = unbounded_channel();
        let cards = Arc::<Mutex<Vec<Arc<Card>>>>::default();
        desk::start(receiver, means, resolve, cards.clone())?;
        Ok(Exchange { asks, cards })
    }

    /// The post of a worker.
    #[must_use]
    pub fn attach(&self, worker: usize) -> UnboundedReceiver<Post> {
        let (sender, post) = unbounded_channel();
        self.ask(Ask::Worker(worker, sender));
        post
    }

    /// Has the channels of a subscriber changed. A [`Post::Listening`] follows when all are listened to.
    pub fn change(&self, place: &Arc<Place>, change: Change) {
        self.ask(Ask::Change(place.clone(), change));
    }

    /// Forgets a subscriber.
    pub fn leave(&self, place: &Arc<Place>, subscriber: Subscriber) {
        self.ask(Ask::Leave(place.clone(), subscriber));
    }

    /// All databases that somebody has listened to.
    #[must_use]
    pub fn cards(&self) -> Vec<Arc<Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask(&self, ask: Ask) {
        // Without the thread the process is about to end.
        let _ = self.asks.send(ask);
    }
}
