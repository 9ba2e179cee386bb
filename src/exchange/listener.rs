//! The listener of one database: keeps a connection for as long as somebody wants one, and passes on what it hears.
//!
//! It logs in as the user of any pool of the database that somebody listens for: channels have no privileges. When an
//! administrator wants servers replaced (RECONNECT, a reload with another password), the new connection takes over from the
//! old one at a marker, so nothing is lost or heard twice. A connection that breaks, or that PAUSE closes, leaves a gap,
//! and everybody is told so.

use super::book::{Book, quote};
use super::desk::Desk;
use super::ear::{Ear, Fate, Heard};
use super::{Ask, Card, Change, Notification, Place, Post, State, Subscriber};
use crate::alarm::{interval, sleep, timeout};
use crate::pool::{Pool, jitter};
use crate::server::ServerError;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior};

/// How often it looks what has become of its pools.
const LOOK: Duration = Duration::from_millis(100);
/// How long a connection stays when nobody listens any more.
const IDLE: Duration = Duration::from_secs(30);
/// Pause after the first failure to connect; the next ones are twice as long each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How long a connection may take to replace another.
const REPLACING: Duration = Duration::from_secs(30);

/// One database.
pub(super) struct Listener {
    desk: Rc<Desk>,
    place: Arc<Place>,
    card: Arc<Card>,
    book: Book,
    /// Who can log in for whom.
    pools: HashMap<Subscriber, Arc<Pool>>,
    /// The channel for markers: one that nobody else knows.
    marker: Arc<str>,
    /// When a replacement was last given up.
    failed_at: Option<Instant>,
}

/// Why a connection was given up.
enum Over {
    /// Nobody needs it.
    Idle,
    /// It is gone; why.
    Lost(String),
}

/// Listens for as long as somebody wants it.
pub(super) async fn run(mut listener: Listener, mut asks: UnboundedReceiver<Ask>) {
    loop {
        let Some(ear) = listener.open(&mut asks).await else {
            if listener.leaves(&asks) {
                return;
            }
            continue;
        };
        match listener.serve(ear, &mut asks).await {
            Over::Idle if listener.leaves(&asks) => return,
            Over::Idle => {}
            Over::Lost(reason) => listener.lose(&reason),
        }
    }
}

impl Listener {
    pub(super) fn new(desk: Rc<Desk>, place: Arc<Place>, card: Arc<Card>) -> Listener {
        // A client that knew it could mislead nobody but itself.
        let random = getrandom::u64().unwrap_or(0);
        let marker = format!("pgvalet_marker_{random:016x}").into();
        Listener { desk, place, card, book: Book::default(), pools: HashMap::new(), marker, failed_at: None }
    }

    /// Ends it, if nobody has asked for anything meanwhile.
    fn leaves(&self, asks: &UnboundedReceiver<Ask>) -> bool {
        let is_over = asks.is_empty() && self.book.is_empty();
        if is_over {
            self.card.set_state(State::Closed);
            self.desk.close(&self.place);
        }
        is_over
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Change(_, Change { subscriber, worker, pool, request, add, remove }) => {
                self.pools.insert(subscriber, pool);
                self.book.change(subscriber, worker, request, &add, &remove);
            }
            Ask::Leave(_, subscriber) => self.forget(subscriber),
            Ask::Worker(..) => {}
        }
        self.count();
    }

    fn forget(&mut self, subscriber: Subscriber) {
        self.pools.remove(&subscriber);
        self.book.leave(subscriber);
    }

    fn count(&self) {
        let (channels, clients) = self.book.counts();
        self.card.set_counts(channels, clients);
    }

    /// Opens a connection. `None` if nobody wants one any more.
    async fn open(&mut self, asks: &mut UnboundedReceiver<Ask>) -> Option<Ear> {
        let mut pause = FIRST_PAUSE;
        loop {
            while let Ok(ask) = asks.try_recv() {
                self.take(ask);
            }
            if self.book.is_empty() {
                return None;
            }
            let candidates = self.candidates();
            if candidates.iter().all(|pool| pool.is_paused()) {
                self.card.set_state(State::Paused);
                self.unavailable();
                self.wait(LOOK, asks).await;
                continue;
            }
            self.card.set_state(State::Connecting);
            for pool in candidates.into_iter().filter(|pool| !pool.is_paused()) {
                match self.attempt(pool, asks).await {
                    Ok(ear) => return Some(ear),
                    Err(error) => tracing::warn!(
                        database = self.place.dbname,
                        %error,
                        "nobody can listen for clients: it is tried again"
                    ),
                }
            }
            self.unavailable();
            self.wait(jitter(pause), asks).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn attempt(
        &mut self,
        pool: Arc<Pool>,
        asks: &mut UnboundedReceiver<Ask>,
    ) -> Result<Ear, ServerError> {
        let (desk, sql) = (self.desk.clone(), format!("LISTEN {}", quote(&self.marker)));
        let mut opening = std::pin::pin!(Ear::open(pool, &desk.means, &sql));
        loop {
            tokio::select! {
                outcome = &mut opening => return outcome,
                Some(ask) = asks.recv() => self.take(ask),
            }
        }
    }

    /// The pools that it can log in for, each once. Clients whose database is not here any more are told so.
    fn candidates(&mut self) -> Vec<Arc<Pool>> {
        let mut found: Vec<Arc<Pool>> = Vec::new();
        let mut gone = Vec::new();
        for (subscriber, pool) in &mut self.pools {
            if pool.is_retired() {
                let known = found.iter().find(|known| known.key == pool.key).cloned();
                match known.or_else(|| (self.desk.resolve)(&pool.key)) {
                    Some(new) if Place::of(&new.target) == *self.place => *pool = new,
                    _ => {
                        gone.push(*subscriber);
                        continue;
                    }
                }
            }
            if !found.iter().any(|known| Arc::ptr_eq(known, pool)) {
                found.push(pool.clone());
            }
        }
        for subscriber in gone {
            if let Some(worker) = self.book.worker(subscriber) {
                let reason = "its database was moved or removed in pgvalet's configuration".into();
                let subscribers = [subscriber].into();
                self.desk.post(worker, Post::Gap { subscribers, reason, is_final: true });
            }
            self.forget(subscriber);
        }
        self.count();
        found
    }

    /// Tells everybody who waits that it takes longer.
    fn unavailable(&self) {
        for (subscriber, worker) in self.book.waiting() {
            self.desk.post(worker, Post::Unavailable(subscriber));
        }
    }

    /// Waits, and takes note of who comes and goes.
    async fn wait(&mut self, pause: Duration, asks: &mut UnboundedReceiver<Ask>) {
        let mut over = std::pin::pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(ask) = asks.recv() => self.take(ask),
            }
        }
    }

    async fn serve(&mut self, mut ear: Ear, asks: &mut UnboundedReceiver<Ask>) -> Over {
        self.connected(&ear);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle_since = None;
        loop {
            if let Err(error) = self.tell(&mut ear).await {
                return Over::Lost(error.to_string());
            }
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => {
                        self.take(ask);
                        // Those who come together are asked for together.
                        while let Ok(ask) = asks.try_recv() {
                            self.take(ask);
                        }
                    }
                    None => return Over::Idle,
                },
                heard = ear.next() => {
                    if let Err(error) = heard.and_then(|heard| self.hear_all(&mut ear, heard)) {
                        return Over::Lost(error.to_string());
                    }
                }
                _ = look.tick() => {
                    match ear.fate() {
                        Fate::Stay => {}
                        Fate::Pause => {
                            ear.close();
                            return Over::Lost("the database is paused".into());
                        }
                        Fate::Replace => match self.replace(ear).await {
                            Ok(next) => ear = next,
                            Err(over) => return over,
                        },
                    }
                    if !self.book.is_empty() {
                        idle_since = None;
                    } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE {
                        ear.close();
                        return Over::Idle;
                    }
                }
            }
        }
    }

    fn connected(&self, ear: &Ear) {
        self.card.connected(ear.pid(), &ear.pool.key.user);
        tracing::info!(
            database = self.place.dbname,
            user = &*ear.pool.key.user,
            pid = ear.pid(),
            "listening for clients"
        );
    }

    /// Tells the server what is listened to now, and those who wait that it is.
    async fn tell(&mut self, ear: &mut Ear) -> Result<(), ServerError> {
        if !ear.is_busy {
            match self.book.next_query() {
                Some(sql) => ear.ask(&sql).await?,
                None => {
                    let ready = self.book.ready();
                    self.confirm(ready);
                }
            }
        }
        Ok(())
    }

    fn confirm(&self, ready: Vec<(Subscriber, usize, u32)>) {
        for (subscriber, worker, request) in ready {
            let marker = self.marker.clone();
            self.desk.post(worker, Post::Listening { subscriber, request, marker });
        }
    }

    /// Deals with what was heard, and with all that came together with it.
    fn hear_all(&mut self, ear: &mut Ear, first: Heard) -> Result<(), ServerError> {
        let mut heard = Some(first);
        while let Some(one) = heard {
            self.hear(one);
            heard = ear.at_hand()?;
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Ready => {
                let ready = self.book.answered();
                self.confirm(ready);
            }
            Heard::Notification(notification) if *notification.channel == *self.marker.as_bytes() => {
                self.pass_marker(&notification);
            }
            Heard::Notification(notification) => {
                self.card.received_one();
                let shared = Arc::new(notification);
                for (worker, subscribers) in self.book.routes(&shared) {
                    self.desk.post(*worker, Post::Notification(shared.clone(), subscribers.clone()));
                }
            }
        }
    }

    /// A marker says whose it is, and what it marks.
    fn pass_marker(&self, notification: &Notification) {
        let text = std::str::from_utf8(&notification.payload).unwrap_or_default();
        let Some((subscriber, token)) = text.split_once(' ') else { return };
        let (Ok(subscriber), Ok(token)) = (subscriber.parse(), token.parse()) else { return };
        if let Some(worker) = self.book.worker(subscriber) {
            self.desk.post(worker, Post::Marker { subscriber, token });
        }
    }

    /// The connection is gone.
    fn lose(&mut self, reason: &str) {
        let clients = self.book.counts().1;
        if clients > 0 {
            self.card.lost();
            tracing::warn!(
                database = self.place.dbname,
                clients,
                reason,
                "the listener was lost: what is notified until it is back is lost to its clients"
            );
        }
        self.card.set_state(State::Connecting);
        self.book.forget_standing();
        let reason: Arc<str> = reason.into();
        for (worker, subscribers) in self.book.everybody() {
            self.desk.post(worker, Post::Gap { subscribers, reason: reason.clone(), is_final: false });
        }
    }

    /// Opens another connection and lets it take over.
    async fn replace(&mut self, old: Ear) -> Result<Ear, Over> {
        let is_patient = self.failed_at.is_some_and(|at| at.elapsed() < LAST_PAUSE);
        if old.is_busy || is_patient {
            return Ok(old);
        }
        let Some(pool) = self.candidates().into_iter().next() else {
            old.close();
            return Err(Over::Idle);
        };
        let sql = format!("LISTEN {};{}", quote(&self.marker), self.book.whole_query());
        let desk = self.desk.clone();
        let new = match timeout(REPLACING, Ear::open(pool, &desk.means, &sql)).await {
            Ok(Ok(new)) => new,
            outcome => {
                let error = outcome.map_or(ServerError::Timeout, |opened| match opened {
                    Err(error) => error,
                    Ok(_) => ServerError::Closed,
                });
                tracing::warn!(
                    database = self.place.dbname,
                    %error,
                    "the listener cannot be replaced: the old one goes on"
                );
                self.failed_at = Some(Instant::now());
                return Ok(old);
            }
        };
        match timeout(REPLACING, self.take_over(old, new)).await {
            Ok(Ok(new)) => {
                self.failed_at = None;
                self.connected(&new);
                Ok(new)
            }
            Ok(Err(error)) => Err(Over::Lost(error.to_string())),
            Err(_) => Err(Over::Lost(ServerError::Timeout.to_string())),
        }
    }

    /// Both connections listen: up to a marker the old one is believed, from there on the new one.
    async fn take_over(&mut self, mut old: Ear, mut new: Ear) -> Result<Ear, ServerError> {
        let border = format!("pgvalet_border_{:016x}", getrandom::u64().unwrap_or(0));
        let is_border = |heard: &Heard| matches!(heard, Heard::Notification(notification) if *notification.channel == *border.as_bytes());
        old.ask(&format!("LISTEN {}", quote(&border))).await?;
        while old.is_busy {
            let heard = old.next().await?;
            self.hear(heard);
        }
        new.ask(&format!("LISTEN {0};NOTIFY {0}", quote(&border))).await?;
        while !is_border(&new.next().await?) {}
        let mut behind = Vec::new();
        while new.is_busy {
            behind.push(new.next().await?);
        }
        new.ask(&format!("UNLISTEN {}", quote(&border))).await?;
        loop {
            let heard = old.next().await?;
            if is_border(&heard) {
                break;
            }
            self.hear(heard);
        }
        old.close();
        behind.into_iter().for_each(|heard| self.hear(heard));
        Ok(new)
    }
}
